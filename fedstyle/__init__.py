"""Federated and personalised training of photo filters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedstyle import export as export
    from fedstyle import simulate as simulate
    from fedstyle.base import Base as Base
    from fedstyle.client import Client as Client
    from fedstyle.client import Update as Update
    from fedstyle.config import Config as Config
    from fedstyle.config import Training as Training
    from fedstyle.export import Pack as Pack
    from fedstyle.export import Parity as Parity
    from fedstyle.export import blend as blend
    from fedstyle.export import pack as pack
    from fedstyle.export import verify as verify
    from fedstyle.federation import Federation as Federation
    from fedstyle.filter import Filter as Filter
    from fedstyle.job import Job as Job
    from fedstyle.membership import Membership as Membership
    from fedstyle.personal import ModelParameters as ModelParameters
    from fedstyle.personal import train as train
    from fedstyle.photos import Photos as Photos
    from fedstyle.rehearsal import rehearse as rehearse
    from fedstyle.session import Checkpoint as Checkpoint
    from fedstyle.session import Session as Session
    from fedstyle.session import SessionParameters as SessionParameters
    from fedstyle.shelf import FilterLibrary as FilterLibrary
    from fedstyle.simulate import History as History
    from fedstyle.style import Style as Style
    from fedstyle.stylising import Batch as Batch
    from fedstyle.stylising import Stylized as Stylized
    from fedstyle.stylising import stylize as stylize
    from fedstyle.stylising import stylize_all as stylize_all
    from fedstyle.stylising import stylize_async as stylize_async
    from fedstyle.thumbnails import Thumbnails as Thumbnails
    from fedstyle.training import Progress as Progress
    from fedstyle.video import stylize_video as stylize_video

_HOMES = {
    "Base": "base",
    "Batch": "stylising",
    "Checkpoint": "session",
    "Client": "client",
    "Config": "config",
    "Federation": "federation",
    "Filter": "filter",
    "FilterLibrary": "shelf",
    "History": "simulate",
    "Job": "job",
    "Membership": "membership",
    "ModelParameters": "personal",
    "Pack": "export",
    "Parity": "export",
    "Photos": "photos",
    "Progress": "training",
    "Session": "session",
    "SessionParameters": "session",
    "Style": "style",
    "Stylized": "stylising",
    "Thumbnails": "thumbnails",
    "Training": "config",
    "Update": "client",
    "blend": "export",
    "export": "",
    "pack": "export",
    "rehearse": "rehearsal",
    "simulate": "",
    "stylize": "stylising",
    "stylize_all": "stylising",
    "stylize_async": "stylising",
    "stylize_video": "video",
    "train": "personal",
    "verify": "export",
}

__all__ = [
    "Base",
    "Batch",
    "Checkpoint",
    "Client",
    "Config",
    "Federation",
    "Filter",
    "FilterLibrary",
    "History",
    "Job",
    "Membership",
    "ModelParameters",
    "Pack",
    "Parity",
    "Photos",
    "Progress",
    "Session",
    "SessionParameters",
    "Style",
    "Stylized",
    "Thumbnails",
    "Training",
    "Update",
    "blend",
    "export",
    "pack",
    "rehearse",
    "simulate",
    "stylize",
    "stylize_all",
    "stylize_async",
    "stylize_video",
    "train",
    "verify",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedstyle' has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(import_module(f"fedstyle.{home}"), name) if home else import_module(f"fedstyle.{name}")  # those modules can be called


def __dir__() -> list[str]:
    return __all__
