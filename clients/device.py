"""The reference device client: a personal filter, made on this device in short slices of background time. Copy it into your app.

    python clients/device.py --photos DIR --style IMAGE --home DIR [--base DIR]

HOME is the app's own folder on the device, one for each filter. Start the same command whenever the system grants time: it goes on where
it stood, even after a kill, and SIGTERM ends it after the iteration at hand. No part of it uses a network.
Exit codes: 0 the filter is there and its export is faithful, 1 the export is not, 2 a mistake in what was given, 3 stopped before the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fedstyle import Base, Client, Style, Training
from fedstyle.errors import Cancelled, FedstyleError
from fedstyle.export import export, verify


def make(options: argparse.Namespace) -> int:
    """Make, keep, export and verify one filter; the exit code."""
    home: Path = options.home
    base = Base.load(options.base) if options.base else Base.shipped()
    look = Style(options.style, strength=options.strength)
    client = Client(home, options.photos, look, training=Training.for_base(base.record))
    print(f"{len(client.library)} photos; all that is made stays in {home}")
    job = client.personalize(base, iterations=options.iterations, session=home / "session")
    signal.signal(signal.SIGTERM, lambda *_: job.cancel())  # how systems take background time back
    while not job.run(seconds=options.slice):
        print(f"{job.progress.iteration} of {job.progress.iterations} iterations, loss {job.progress.total:.3f}", flush=True)
        time.sleep(options.pause)
    filter = job.result()
    for left in client.library.report():
        print(f"{left.count} photos were left out: {left.reason}. {left.advice}")
    filter.save(home / "filter", replace=True)
    print(f"kept the filter in {home / 'filter'}")
    package = home / "filter.mlpackage"
    if not package.exists():  # a kill may have come between this line and the next ones
        export(filter, package, size=options.size)
    parity = verify(package, filter)
    for problem in parity.problems:
        print(f"{package} is not the filter: {problem}", file=sys.stderr)
    if parity.faithful:
        print(f"{package} is the filter: {parity.psnr:.0f} dB when the file itself is run here")
    return 0 if parity.faithful else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="the person's choice of photos; the same until the filter is there")
    parser.add_argument("--style", type=Path, required=True, help="the style image")
    parser.add_argument("--home", type=Path, required=True, help="the app's own folder for this filter")
    parser.add_argument("--base", type=Path, help="the shared base to start from; without it the one that fedstyle carries")
    parser.add_argument("--strength", type=int, help="1 to 10; without it one is chosen for the style and the photos")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--slice", type=float, default=10, help="seconds of training at a time")
    parser.add_argument("--pause", type=float, default=0, help="seconds of rest between two slices")
    parser.add_argument("--size", type=int, default=512, help="side of the exported model's pictures in pixels")
    try:
        return make(parser.parse_args(arguments))
    except Cancelled as stopped:
        print(stopped, file=sys.stderr)
        return 3
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
