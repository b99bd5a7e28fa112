"""What is done to an update before it leaves a device."""

from fedstyle.privacy.clipping import clip

__all__ = ["clip"]
