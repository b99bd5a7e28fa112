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
    check_writable,
    clean_output,
    example,
    feature_options,
    nearest,
    plain,
    progress_bar,
    say,
    say_json,
)
from fedstyle.errors import ConfigError, FilterError, OutputError, PhotoError

if TYPE_CHECKING:
    from collections.abc import Container

    from PIL import Image

    from fedstyle.config import Loss
    from fedstyle.filter import Filter

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
VIDEOS = (".mp4", ".mov")


@click.command(epilog=example("fedstyle stylize my_filter holiday.jpg --out holiday_stylized.png"))
@click.argument("filter", metavar="FILTER", type=FOLDER_OR_FILE)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, required=True, metavar="FILE|DIR", help="A .png, .jpg or .webp for one photo, or a folder.")
@click.option(
    "--side",
    type=click.IntRange(min=16),
    default=512,
    show_default=True,
    help="The photo's short side, in pixels, as the filter sees it. A smaller one gives larger strokes.",
)
@click.option("--full-size", is_flag=True, help="Let the filter see every pixel, in tiles; strokes shrink against a large photo.")
@click.option(
    "--memory", type=click.IntRange(min=1), default=1000, show_default=True, metavar="MB", help="The most memory that a photo may take."
)
def stylize(filter: Path, photos: tuple[Path, ...], out: Path, side: int, full_size: bool, memory: int) -> None:
    """Apply a filter to photos.

    The results have the photos' size in pixels and none of their metadata. In a folder they are named after the photos; a JPEG
    stays one, anything else becomes a PNG. Nothing is overwritten, and all results are written or none.

    A folder of photos is taken with its subfolders: each result is written as it comes, files that cannot be used are skipped and
    listed, and results that are there already are passed over, so that the same command goes on where it stopped. A video with --out
    X.mp4 or X.mov becomes one, with the extra fedstyle[video]; its textures flicker.
    """
    how = {"side": None if full_size else side, "memory": memory}
    with clean_output():
        from fedstyle.filter import Filter

        made = Filter.load(filter)
        if out.suffix.lower() in VIDEOS and len(photos) == 1:
            lines = _video(made, photos[0], out, how)
        elif any(photo.is_dir() for photo in photos):
            lines = _folders(made, photos, out, how)
        else:
            lines = _files(made, photos, out, how)
    for line in lines:
        say(line)


def _files(made: Filter, photos: tuple[Path, ...], out: Path, how: dict[str, Any]) -> list[str]:
    """Stylise files into files, all or none."""
    from fedstyle.stylising import check, stylize

    targets = _targets(photos, out)
    for target in targets:
        check_free(target)
    for photo in photos:
        check(photo, how["memory"])
    lines = []
    made_in = nearest(targets[0].parent)
    with tempfile.TemporaryDirectory(dir=made_in, prefix=".stylize.", suffix=".part") as stage, progress_bar() as advance:
        results = [Path(stage) / target.name for target in targets]
        for done, (photo, result, target) in enumerate(zip(photos, results, targets, strict=True), 1):
            stylized = stylize(made, photo, **how)
            _write(result, _encoded(stylized.image, result), target)
            notice = f"; {stylized.notice}" if stylized.notice else ""
            lines.append(f"wrote {plain(target)} in {stylized.seconds:.1f} s{notice}")
            advance("stylizing", done, len(photos))
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        for result, target in zip(results, targets, strict=True):
            os.replace(result, target)
    return lines


def _folders(made: Filter, photos: tuple[Path, ...], out: Path, how: dict[str, Any]) -> list[str]:
    """Stylise folders, and files beside them, into a folder, one after the other."""
    from fedstyle.stylising import stylize_all

    check_writable(out)
    if out.suffix.lower() in PICTURES and not out.is_dir():
        raise ConfigError(f"--out {plain(out)} is one picture for a folder of photos: give a folder")
    if inside := [photo for photo in photos if photo.is_dir() and out.resolve().is_relative_to(photo.resolve())]:
        raise ConfigError(f"--out {plain(out)} lies in {plain(inside[0])}, among the photos: give a folder outside")
    batches = [
        (photo if photo.is_dir() else photo.parent, stylize_all(made, photo if photo.is_dir() else [photo], **how)) for photo in photos
    ]
    targets: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for root, batch in batches:
        batch.paths = tuple(path for path in batch.paths if path not in targets)  # unless it was named twice
        for path in batch.paths:
            target = _place(out / path.relative_to(root), taken)
            if taken.setdefault(target, path) != path:
                both = f"{plain(taken[target])} and {plain(path)} would both be written as {plain(target)}"
                raise ConfigError(f"{both}: rename one, or give each its own --out")
            targets[path] = target
        batch.paths = tuple(path for path in batch.paths if not os.path.lexists(targets[path]))
    there = sum(os.path.lexists(target) for target in targets.values())
    total, done, seconds = len(targets) - there, 0, 0.0
    lines, skipped = [], 0
    with progress_bar() as advance:
        for _, batch in batches:
            before = done + skipped
            for result in batch:
                assert result.source is not None
                target = targets[result.source]
                _write(target, _encoded(result.image, target), target)
                done, seconds = done + 1, seconds + result.seconds
                advance("stylizing", before + batch.done, total)
            skipped += batch.skipped.total()
            lines += [f"skipped: {problem}" for problem in batch.problems]
    again = f", {there} there already" if there else ""
    lines.append(f"wrote {done} photos to {plain(out)} in {seconds:.1f} s, skipped {skipped}{again}")
    if not done and not there:
        raise PhotoError(f"no photo could be stylized: {lines[0] if skipped else 'nothing there looks like one'}")
    return lines


def _video(made: Filter, video: Path, out: Path, how: dict[str, Any]) -> list[str]:
    from fedstyle.video import stylize_video

    check_free(out)
    with progress_bar() as advance:
        done = stylize_video(made, video, out, progress=lambda frames, total: advance("stylizing", frames, total or frames), **how)
    return [f"wrote {plain(out)}: {done.frames} frames in {done.seconds:.1f} s, {'with' if done.audio else 'without'} sound"]


def _encoded(image: Image.Image, target: Path) -> bytes:
    kind = PICTURES[target.suffix.lower()]
    image.save(encoded := io.BytesIO(), kind, **({"quality": 95} if kind == "JPEG" else {}))
    return encoded.getvalue()


def _write(path: Path, content: bytes, target: Path) -> None:
    from fedstyle.files import write_bytes

    try:
        write_bytes(path, content)
    except OutputError as error:
        raise OutputError(str(error).replace(str(path), plain(target))) from error


def _place(path: Path, taken: Container[Path]) -> Path:
    """Where the result of a photo in a folder goes: a JPEG stays one; of two that would become one PNG, the second keeps its whole name."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return path
    short = path.with_suffix(".png")
    return path.with_name(f"{path.name}.png") if short in taken else short


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
