"""What is done to an update before it leaves a device, and to what a server makes of updates.

clipping                 an update to a joint norm
gaussian, grid, noise    the noisy mean of a round, in whole steps
sampling                 who takes part
accounting, ledger       what that promises, what was spent, what may be
secagg                   the sum of updates, with no single one seen
shares                   noise for such a sum, added by its clients
audit                    attacks on what leaves, and checks of what guards it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedstyle.privacy.clipping import clip

__all__ = ["clip"]


def __getattr__(name: str) -> Any:
    """Load `clip` when it is asked for: accounting and secure sums work without torch."""
    if name == "clip":
        from fedstyle.privacy.clipping import clip

        return clip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
