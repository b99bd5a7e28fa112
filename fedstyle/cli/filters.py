"""Filters at work: `fedstyle stylize` and `fedstyle evaluate`."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedstyle.cli.terminal import (
    FOLDER_OR_FILE,
    as_json,
    check_features,
    check_free,
    clean_output,
    example,
    feature_options,
    nearest,
    plain,
    progress_bar,
    say,
    say_json,
)
from fedstyle.errors import ConfigError, FilterError, OutputError

if TYPE_CHECKING:
    from fedstyle.config import Loss
    from fedstyle.filter import Filter

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@click.command(epilog=example("fedstyle stylize my_filter holiday.jpg --out holiday_stylized.png"))
@click.argument("filter", metavar="FILTER", type=FOLDER_OR_FILE)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, required=True, metavar="FILE|DIR", help="A .png, .jpg or .webp for one photo, or a folder.")
def stylize(filter: Path, photos: tuple[Path, ...], out: Path) -> None:
    """Apply a filter to photos.

    The results have the photos' size in pixels and none of their metadata. In a folder they are named after the photos; a JPEG
    stays one, anything else becomes a PNG. Nothing is overwritten, and all results are written or none.
    """
    with clean_output():
        from fedstyle.filter import Filter
        from fedstyle.picture import open_image

        made = Filter.load(filter)
        targets = _targets(photos, out)
        for target in targets:
            check_free(target)
        for photo in photos:
            open_image(photo)
        made_in = nearest(targets[0].parent)
        with tempfile.TemporaryDirectory(dir=made_in, prefix=".stylize.", suffix=".part") as stage, progress_bar() as advance:
            results = [Path(stage) / target.name for target in targets]
            for done, (photo, result, target) in enumerate(zip(photos, results, targets, strict=True), 1):
                kind = PICTURES[result.suffix.lower()]
                made(open_image(photo)).save(encoded := io.BytesIO(), kind, **({"quality": 95} if kind == "JPEG" else {}))
                _write(result, encoded.getvalue(), target)
                advance("stylizing", done, len(photos))
            targets[0].parent.mkdir(parents=True, exist_ok=True)
            for result, target in zip(results, targets, strict=True):
                os.replace(result, target)
    for target in targets:
        say(f"wrote {plain(target)}")


def _write(path: Path, content: bytes, target: Path) -> None:
    from fedstyle.files import write_bytes

    try:
        write_bytes(path, content)
    except OutputError as error:
        raise OutputError(str(error).replace(str(path), plain(target))) from error


def _targets(photos: tuple[Path, ...], out: Path) -> list[Path]:
    """Where each photo's result goes."""
    picture = out.suffix.lower() in PICTURES and not out.is_dir()
    if picture and len(photos) == 1:
        return [out]
    if picture:
        raise ConfigError(f"--out {plain(out)} is one picture for {len(photos)} photos: give a folder")
    if out.suffix and len(photos) == 1 and not out.is_dir():
        raise ConfigError(f"--out {plain(out)}: a picture is written as {', '.join(PICTURES)}; or give a folder that exists")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{plain(out)} is no folder: give --out a folder for {len(photos)} photos")
    targets = [out / f"{photo.stem}{photo.suffix if photo.suffix.lower() in ('.jpg', '.jpeg') else '.png'}" for photo in photos]
    if twice := {target.name for target in targets if sum(other.name == target.name for other in targets) > 1}:
        raise ConfigError(f"two photos would both be written as {plain(min(twice))}: rename one, or stylize them one by one")
    return targets


@click.command(epilog=example("fedstyle evaluate my_filter --photos ~/Pictures --style starry_night.jpg --json"))
@click.argument("filter", metavar="FILTER", type=FOLDER_OR_FILE)
@click.option("--photos", type=FOLDER_OR_FILE, required=True, metavar="DIR", help="The photos to judge on, best ones it did not train on.")
@click.option("--style", type=FOLDER_OR_FILE, required=True, metavar="IMG", help="The style image that the filter should look like.")
@feature_options(None)
@as_json
def evaluate(
    filter: Path,
    photos: Path,
    style: Path,
    features: str | None,
    weights: Path | None,
    as_json: bool,
) -> None:
    """Measure a filter's losses on photos: lower is better.

    These are the content, style and total loss, as means over the photos. Strength, density, the losses' weights and the feature
    network are those that the filter was trained with, unless given here.
    """
    with clean_output():
        from fedstyle.client import Client
        from fedstyle.config import Training
        from fedstyle.filter import Filter
        from fedstyle.photos import Photos
        from fedstyle.style import Style

        made = Filter.load(filter)
        loss = _loss(filter, made)
        loss = dataclasses.replace(loss, features=features or loss.features, weights=str(weights or ""))
        look = Style(style, strength=loss.strength, density=loss.density)
        check_features(loss)
        library = Photos.open(photos)
        training = Training(size=made.facts.get("size", Training.size))
        losses = Client(None, library, look, loss=loss, training=training).evaluate(made, library)
    if as_json:
        say_json(losses)
        return
    for name, value in losses.items():
        say(f"{name:<8}{value:.6f}")
    more = f", skipped {sum(library.skipped.values())}" if library.skipped else ""
    say(f"on {len(library)} photos{more}, judged by {loss.features} at strength {loss.strength} and density {loss.density}")


def _loss(path: Path, made: Filter) -> Loss:
    """The loss that a filter was trained with; the defaults for a filter that does not say."""
    from fedstyle.config import Loss

    try:
        facts: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in made.facts.get("loss", {}).items()
        }
        return Loss(**facts)
    except (TypeError, AttributeError, ValueError, ConfigError) as error:
        raise FilterError(
            f"{plain(path)}/filter.json has a loss that fedstyle cannot use ({error}): it was altered; make it again"
        ) from None


COMMANDS = (stylize, evaluate)
