"""The device's shelf of filters: those that fedstyle carries and the user's own, in one list.

A shelf is a folder. `filters/<id>/` holds an entry each, `bases/<hash>/` the bases that the user's filters stand on, once each, and
`upgrade/` the training sessions of an upgrade under way. File names are ids and hashes, never a name that somebody typed.
"""

from __future__ import annotations

from fedstyle.shelf.entries import Entry
from fedstyle.shelf.library import FilterLibrary
from fedstyle.shelf.upgrade import Upgrade

__all__ = ["Entry", "FilterLibrary", "Upgrade"]
