"""Create ML's one call in Python: photos, a style image, two small values of wishes, and a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fedstyle.base import Base
from fedstyle.candidates import Source
from fedstyle.client import Client
from fedstyle.config import PROCESSING, Training
from fedstyle.errors import BaseError
from fedstyle.filter import Filter
from fedstyle.job import Job
from fedstyle.net import ARCHITECTURES
from fedstyle.photos import Photos
from fedstyle.session import SessionParameters, count
from fedstyle.style import Style
from fedstyle.tables import need


@dataclass(frozen=True)
class ModelParameters:
    """What the filter is to be: the words of Create ML's MLStyleTransfer.ModelParameters.

    `algorithm` is cnn or cnnLite. `strength` 1..10 and `density` 64..1024 are those of `Style`; a strength of None is chosen for the style
    and the photos. `iterations` is a number or a mode: quick 25, standard 100, best 500. With a `validation` photo each checkpoint has a
    stylised preview of it. `processing` makes photos square: scale-fill, centre-crop or scale-fit. Raises ConfigError for a value out of
    range, where Style does not raise StyleError.
    """

    algorithm: str = "cnnLite"
    strength: int | None = None
    density: int = 256
    iterations: int | str = "standard"
    validation: Image.Image | str | Path | None = None
    processing: str = "scale-fill"

    def __post_init__(self) -> None:
        """Check ranges."""
        need(self.algorithm in ARCHITECTURES, "algorithm", self.algorithm, f"choose one of {', '.join(ARCHITECTURES)}")
        need(self.processing in PROCESSING, "processing", self.processing, f"choose one of {', '.join(PROCESSING)}")
        count(self.iterations)


def train(
    photos: Photos | Source,
    style: Image.Image | str | Path,
    parameters: ModelParameters | None = None,
    session: SessionParameters | str | Path | None = None,
    *,
    base: Base | None = None,
) -> Job[Filter]:
    """A job that makes a filter from photos and a style image, as MLStyleTransfer.train does: `Client.personalize` in one call.

    `photos` is a folder, a list of files, or Photos. The job starts from `base`, or from the one that fedstyle carries for the algorithm.
    It trains for the iterations of `parameters` and never past those of `session`. Call it again with the same session folder and inputs
    to go on where it stood. Photos and style image are looked through here, which takes time with a large library: from asyncio,
    `job = await asyncio.to_thread(train, ...)`. Raises PhotoError, StyleError, ConfigError and BaseError for what cannot be used.
    """
    parameters = parameters or ModelParameters()
    start = base or Base.shipped(parameters.algorithm)
    if start.arch != parameters.algorithm:
        raise BaseError(f"the base is a {start.arch}, the parameters ask for a {parameters.algorithm}: give one that fits, or leave it out")
    look = Style(style, strength=parameters.strength, density=parameters.density)
    training = Training.for_base(start.record, processing=parameters.processing)
    client = Client(None, photos, look, training=training)
    return client.personalize(start, iterations=parameters.iterations, session=session, validation=parameters.validation)
