"""The server's app."""

from fedstyle.app import server as app

__all__ = ["app"]
