"""A photo app without a screen: a person's shelf of filters in one folder, on public names of fedstyle only.

    python clients/gallery.py --home HOME make "Stripes at sea" --photos DIR --style IMAGE
    python clients/gallery.py --home HOME list
    python clients/gallery.py --home HOME apply starry-night PHOTO... --out DIR
    python clients/gallery.py --home HOME rename ID "Another name" | remove ID
    python clients/gallery.py --home HOME pack Filters.mlpackage [--target ios15] [ID ...]
    python clients/gallery.py --home HOME upgrade --photos DIR [--base DIR] [--seconds 30]

`make` goes on where it stood when it is started again after a kill; HOME/work holds what it was at. Nothing leaves HOME but what --out and
pack name. Exit codes: 0 done, 2 a mistake in what was given, 3 stopped before the end.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fedstyle import Base, FilterLibrary, ModelParameters, Photos, SessionParameters, Thumbnails, pack, stylize_all, train
from fedstyle.errors import Cancelled, FedstyleError


def make(library: FilterLibrary, home: Path, options: argparse.Namespace) -> None:
    """Train a filter in slices and put it on the shelf."""
    photos = Photos.open(options.photos, thumbnails=Thumbnails(home / "thumbnails"))
    base = Base.load(options.base) if options.base else Base.shipped()
    work = home / "work" / hashlib.sha256(options.name.encode()).hexdigest()[:16]  # a name never becomes a file's
    wishes = ModelParameters(algorithm=base.arch, strength=options.strength, iterations=options.iterations)
    job = train(photos, options.style, wishes, SessionParameters(work), base=base)
    before = signal.signal(signal.SIGTERM, lambda *_: job.cancel())  # how systems take background time back
    try:
        while not job.run(seconds=options.slice):
            print(f"{job.progress.fraction:.0%}, loss {job.progress.total:.2f}", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    filter = job.result()
    there = [entry for entry in library.list() if (entry.name, entry.sha256) == (options.name, filter.sha256)]  # a kill came just here
    entry = there[0] if there else library.add(filter, options.name, base=base, style=options.style)
    shutil.rmtree(work)
    print(f"{entry.id}  {entry.name}: strength {entry.facts['strength']}, {entry.size / 1000:.0f} kB on the shelf")
    for skipped in photos.report():
        print(f"left out: {skipped.count} {skipped.reason}. {skipped.advice}")


def show(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """List the shelf, and write the previews where they are wished."""
    for entry in library.list():
        print(f"{entry.id}  {entry.name}{' (comes with fedstyle)' if entry.predefined else ''}")
        if options.previews:
            options.previews.mkdir(parents=True, exist_ok=True)
            entry.preview.save(options.previews / f"{entry.id}.png")


def apply(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """Stylise photos into a folder."""
    options.out.mkdir(parents=True, exist_ok=True)
    batch = stylize_all(library.get(options.id).filter, options.photos)
    for made in batch:
        target = options.out / f"{made.source.stem}.png"
        made.image.save(target)
        print(f"{target}: {made.image.width}x{made.image.height} in {made.seconds:.1f} s")
    for problem in batch.problems:
        print(problem, file=sys.stderr)


def rename(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """Give a filter another name."""
    library.rename(options.id, options.name)


def remove(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """Take a filter off the shelf."""
    library.remove(options.id)


def put(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """Pack filters, or all of the person's own, into one Core ML package."""
    chosen = [library.get(id) for id in options.ids] or [entry for entry in library.list() if not entry.predefined]
    names = [entry.name for entry in chosen]
    unique = [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]
    made = pack(
        {name: entry.filter for name, entry in zip(unique, chosen, strict=True)}, options.out, target=options.target, size=options.size
    )
    for one in made.filters:
        print(f"{one.name}: {one.parity.psnr:.0f} dB when it is run here")
    print(f"{made.path}: {made.bytes / 1e6:.2f} MB")


def upgrade(library: FilterLibrary, _: Path, options: argparse.Namespace) -> None:
    """Make the person's filters anew on a newer base; the better one of each stays."""
    base = Base.load(options.base) if options.base else Base.shipped()
    for outcome in library.upgrade(base, options.photos, iterations=options.iterations, seconds=options.seconds):
        print(f"{outcome.name}: {outcome.outcome} {outcome.why}".rstrip())


def commands() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="the app's own folder")
    verbs = parser.add_subparsers(required=True)

    def verb(name: str, run: object, *words: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name)
        one.set_defaults(run=run)
        for word in words:
            one.add_argument(word)
        return one

    one = verb("make", make, "name")
    one.add_argument("--photos", type=Path, required=True)
    one.add_argument("--style", type=Path, required=True)
    one.add_argument("--base", type=Path)
    one.add_argument("--strength", type=int)
    one.add_argument("--iterations", type=int, default=100)
    one.add_argument("--slice", type=float, default=10, help="seconds of training at a time")
    one = verb("list", show)
    one.add_argument("--previews", type=Path, help="a folder for the previews")
    one = verb("apply", apply, "id")
    one.add_argument("photos", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True)
    verb("rename", rename, "id", "name")
    verb("remove", remove, "id")
    one = verb("pack", put)
    one.add_argument("out", type=Path)
    one.add_argument("ids", nargs="*")
    one.add_argument("--target", choices=["ios18", "ios15"], default="ios18")
    one.add_argument("--size", type=int, default=512)
    one = verb("upgrade", upgrade)
    one.add_argument("--photos", type=Path, required=True)
    one.add_argument("--base", type=Path)
    one.add_argument("--iterations", type=int, default=100)
    one.add_argument("--seconds", type=float, help="at most about this long; run it again to go on")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    options = commands().parse_args(arguments)
    try:
        options.run(FilterLibrary(options.home / "shelf"), options.home, options)
    except Cancelled as stopped:
        print(stopped, file=sys.stderr)
        return 3
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
