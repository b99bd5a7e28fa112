"""Exported models: `fedstyle export`, `fedstyle pack` and `fedstyle verify`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedstyle.cli.guard import CheckError
from fedstyle.cli.terminal import (
    FOLDER_OR_FILE,
    as_json,
    check_free,
    clean_output,
    example,
    nearest,
    plain,
    say,
    say_json,
)
from fedstyle.errors import ConfigError, FedstyleError

if TYPE_CHECKING:
    from fedstyle.export import Parity

Size = tuple[int, int]
T = TypeVar("T", bound=Callable[..., Any])


def read_sizes(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[Size, ...] | None:
    """`512`, `640x480` (width x height) or several with commas, as (height, width) each."""
    sizes = []
    for part in text.split(",") if text else ():
        sides = part.strip().lower().split("x")
        if not (1 <= len(sides) <= 2 and all(side.isascii() and side.isdigit() for side in sides)):
            raise click.BadParameter(f"{part!r} is no size: write 512, or 640x480 for width x height", ctx, param)
        sizes.append((int(sides[-1]), int(sides[0])))
    if param.name == "size" and len(sizes) > 1:
        raise click.BadParameter(f"{text!r} are several: use '--sizes' for a choice of sizes", ctx, param)
    return tuple(sizes) or None


def described(command: T) -> T:
    """The options that say what a model is, for export and pack."""
    for name, words in (
        ("description", "What an app shows about it."),
        ("version", "Its version."),
        ("license", "What others may do with it."),
        ("author", "Who made it."),
    ):
        command = click.option(f"--{name}", metavar="TEXT", help=words)(command)
    return command


@click.command(epilog=example("fedstyle export my_filter --out MyFilter.mlpackage --author 'Ada'"))
@click.argument("filter", metavar="FILTER", type=FOLDER_OR_FILE)
@click.option("--out", type=FOLDER_OR_FILE, required=True, metavar="X", help="The model, a new one: .mlpackage, .mlmodel or .onnx.")
@click.option("--size", callback=read_sizes, metavar="N|WxH", help="The size of input and output in pixels.  [default: 512]")
@click.option(
    "--sizes",
    callback=read_sizes,
    metavar="SIZE,SIZE...",
    help="Several sizes for the app to choose from (.mlpackage).",
)
@click.option(
    "--range", "span", callback=read_sizes, metavar="SMALLEST,LARGEST", help="Any size between two, off the Neural Engine (.mlpackage)."
)
@click.option("--precision", type=click.Choice(["fp16", "fp32"]), help="Of the weights.  [default: fp16 in a .mlpackage, else fp32]")
@click.option(
    "--compress",
    type=click.Choice(["int8", "palette4"]),
    help="A smaller .mlpackage: int8 (iOS 16, about half) or palette4 (iOS 18, well under half; needs scikit-learn).",
)
@described
def export(
    filter: Path,
    out: Path,
    size: tuple[Size, ...] | None,
    sizes: tuple[Size, ...] | None,
    span: tuple[Size, ...] | None,
    precision: str | None,
    compress: str | None,
    **about: str | None,
) -> None:
    """Export a filter as a model for apps, and verify it.

    The model takes `image` and gives `stylizedImage`. Nothing stands at X before the exported file was run and found faithful.
    """
    if sum(choice is not None for choice in (size, sizes, span)) > 1:
        raise click.UsageError("Give only one of '--size', '--sizes' and '--range'")
    check_free(out)
    with clean_output():
        from fedstyle.export import Sizes, Unfaithful, verify
        from fedstyle.export import export as convert
        from fedstyle.filter import Filter

        made = Filter.load(filter)
        several = Sizes(sizes or span or (), ranged=span is not None) if sizes or span else None
        if several and several.warning:
            click.echo(f"fedstyle: notice: {several.warning}", err=True)
        metadata = {key: value for key, value in about.items() if value is not None}
        with tempfile.TemporaryDirectory(dir=nearest(out.parent), prefix=f".{out.name}.", suffix=".part") as folder:
            stage = Path(folder) / out.name
            try:
                convert(made, stage, size=several or (size[0] if size else 512), precision=precision, compress=compress, metadata=metadata)
                parity = verify(stage, made)
            except Unfaithful as error:
                raise CheckError(str(error).replace(str(stage), plain(out))) from error
            except FedstyleError as error:
                raise type(error)(str(error).replace(str(stage), plain(out))) from error
            if not parity.faithful:
                raise CheckError(f"the export is not faithful, so nothing was written to {plain(out)}: {_problems(parity, stage, out)}")
            out.parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage, out)
        size_on_disk = _bytes(out)
    say(f"wrote {plain(out)}, verified: {_figures(parity)}" + (f"; {size_on_disk / 1e6:.2f} MB" if compress else ""))


def _bytes(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


@click.command(epilog=example("fedstyle pack waves scream 'At night=filters/7' --out Filters.mlpackage --author 'Ada'"))
@click.argument("filters", metavar="FILTER...", nargs=-1, required=True)
@click.option("--out", type=FOLDER_OR_FILE, required=True, metavar="X", help="The pack, a new one: .mlpackage.")
@click.option(
    "--target",
    type=click.Choice(["ios18", "ios15"]),
    default="ios18",
    show_default=True,
    help="A function for each filter (iOS 18), or one network with a 'style' input and a small file for each filter (iOS 15).",
)
@click.option("--size", callback=read_sizes, metavar="N|WxH", help="The size of input and output in pixels.  [default: 512]")
@described
@as_json
def pack(filters: tuple[str, ...], out: Path, target: str, size: tuple[Size, ...] | None, as_json: bool, **about: str | None) -> None:
    """Put filters into one Core ML package, each proved in it.

    A FILTER is a folder, whose name an app shows, or NAME=FOLDER. The first one is the default. Filters of one base share its
    weights. Nothing stands at X before every filter in it was run and found faithful.
    """
    check_free(out)
    with clean_output():
        from fedstyle.export import Unfaithful
        from fedstyle.export import pack as join
        from fedstyle.filter import Filter

        folders = _named(filters)
        made = {name: Filter.load(folder) for name, folder in folders.items()}
        metadata = {key: value for key, value in about.items() if value is not None}
        try:
            done = join(made, out, target=target, size=size[0] if size else 512, metadata=metadata)
        except Unfaithful as error:
            raise CheckError(str(error)) from error
    for notice in done.notices:
        click.echo(f"fedstyle: notice: {notice}", err=True)
    if as_json:
        say_json(done.as_dict())
        return
    count = f"{len(done.filters)} filter{'s' if len(done.filters) > 1 else ''}"
    say(f"wrote {plain(out)}, {count} for {target}, {done.bytes / 1e6:.2f} MB, verified:")
    for one in done.filters:
        say(f"  {one.identifier}  {one.bytes / 1e3:.1f} KB  {plain(one.name)}: {_figures(one.parity)}")
    if done.styles:
        say(f"the style files are in {plain(done.styles)}")
    if done.blend:
        say(f"a half-and-half mix of the first two: {_figures(done.blend)}")


def _named(filters: tuple[str, ...]) -> dict[str, Path]:
    """The filters' folders by the names that people see."""
    found: dict[str, Path] = {}
    for text in filters:
        name, equals, folder = text.partition("=")
        if not equals or os.path.lexists(text):
            folder, name = text, Path(text).absolute().name
        if name in found:
            both = f"{plain(found[name])} and {plain(folder)} would both be named {plain(name)}"
            raise ConfigError(f"{both}: give one another name, as NAME={plain(folder)}")
        found[name] = Path(folder)
    return found


@click.command(epilog=example("fedstyle verify MyFilter.mlpackage --against my_filter"))
@click.argument("model", metavar="X", type=FOLDER_OR_FILE)
@click.option("--against", type=FOLDER_OR_FILE, required=True, metavar="FILTER", help="The filter that the model was exported from.")
@as_json
def verify(model: Path, against: Path, as_json: bool) -> None:
    """Run an exported model here and compare it with its filter.

    Of a pack, the function or style file of that filter is run. The exit code is 1 when it is not faithful.
    """
    with clean_output():
        from fedstyle.export import verify as compare
        from fedstyle.filter import Filter

        parity = compare(model, Filter.load(against))
    if as_json:
        say_json(parity.as_dict())
    elif parity.faithful:
        say(f"{plain(model)} is faithful: {_figures(parity)}")
    if not parity.faithful:
        raise CheckError(f"{plain(model)} is not faithful to {plain(against)}: {_problems(parity, model, model)}")


def _figures(parity: Parity) -> str:
    facts = [parity.precision, *([f"{parity.constants} arrays equal"] if parity.constants else [])]
    if parity.psnr is not None and parity.max is not None:
        facts.append(f"{parity.psnr:.1f} dB, at most {parity.max:.2g} of 255 off")
    return ", ".join(facts)


def _problems(parity: Parity, path: Path, named: Path) -> str:
    return "; ".join(parity.problems).replace(str(path), plain(named))


COMMANDS = (export, pack, verify)
