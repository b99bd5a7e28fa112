"""A client's app."""

from fedstyle.app import client as app

__all__ = ["app"]
