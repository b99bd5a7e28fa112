"""What a SuperNode and a SuperLink run in place of Flower's `flwr-clientapp` and `flwr-serverapp`: no code that came over the network.

A SuperNode gets an app bundle from the SuperLink and would run whatever Python is in it, next to the photos; a SuperLink would run the
bundle of anyone who reaches its port. Here the bundle is left unpacked: a device answers with the installed `device.respond`, also messages
of types that the bundle invents, and a SuperLink runs the installed `fedstyle.app.federation`. A few names of Flower are replaced for that.
They are not of its public packages, so flwr stays pinned.

What takes long to import is imported when the message is there: Flower waits only so long for the first sign of life.
"""

from __future__ import annotations

import sys
from typing import Any

SIDES = ("client", "server")
_OURS = {"tool": {"flwr": {"app": {"components": {"serverapp": "fedstyle.app:federation"}}}}}


def _unpack_nothing(*_: Any, **__: Any) -> None:
    """In place of Flower's installation of a bundle."""


def _answer_with_our_own(**_: Any) -> Any:
    """In place of Flower's import of a bundle's ClientApp."""
    from fedstyle.flower.device import respond

    return lambda *_: respond


def client() -> None:
    """As `flwr-clientapp`."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    _replace("flwr.supernode.runtime.run_clientapp", install_from_fab=_unpack_nothing, get_load_client_app_fn=_answer_with_our_own)
    flwr_clientapp()


def server() -> None:
    """As `flwr-serverapp`."""
    from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

    _replace(
        "flwr.superlink.runtime.run_serverapp",
        install_from_fab=_unpack_nothing,
        get_project_config=lambda _: _OURS,
        get_fused_config_from_dir=lambda *_: {},
    )
    flwr_serverapp()


def _replace(module: str, **names: Any) -> None:
    for name, mine in names.items():
        if not hasattr(sys.modules[module], name):
            sys.exit(f"this version of Flower has no {module}.{name}: install the one that fedstyle names")
        setattr(sys.modules[module], name, mine)


if __name__ == "__main__":
    {"client": client, "server": server}[sys.argv.pop(1)]()
