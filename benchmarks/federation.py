"""What a round costs beyond training, over real SuperLink and SuperNodes on this machine: seconds, and bytes of a device.

    python benchmarks/federation.py            3 nodes and 4 rounds; --nodes 3 10 for both

The network is `cnnLite` with the federation's usual wire type; training is one step on a crop of 32 pixels, so that nearly all of a round
is what surrounds training: the SuperNode's look for messages every three seconds, a process for each message that imports torch, the base
down, the delta up, and the strategy. All nodes share this machine's cores, as devices do not: seconds grow with the nodes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from fedstyle import Config, rehearse
from fedstyle.config import Data, Export, Server, Training
from fedstyle.files import read_lines
from fedstyle.paint import PAINTERS, paint


def measure(nodes: int, rounds: int, wire: str, folder: Path) -> None:
    """Run a federation in `folder` and print its figures."""
    photos = tuple(f"{folder}/photos/{node}" for node in range(nodes))
    for node, place in enumerate(photos):
        Path(place).mkdir(parents=True)
        paint(sorted(PAINTERS)[node % len(PAINTERS)], side=96, seed=node).save(Path(place) / "photo.png")
    config = Config(
        data=Data(photos=photos, holdout=0),
        training=Training(size=32, batch=1, crops=1, iterations=0),
        method={"name": "fedbn", "steps": 1},
        server=Server(rounds=rounds, wire=wire, timeout=1800.0),  # type: ignore[arg-type]
        export=Export(clients=False),
    )
    rehearse(config, folder / "run", watch=lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    rows = read_lines(folder / "run" / "history.jsonl")
    seconds = [row["seconds"] for row in rows]
    down, up = rows[0]["bytes_down"] / nodes, rows[0]["bytes_up"] / nodes
    print(
        f"{nodes} nodes, {wire}: a round takes {statistics.median(seconds):.1f} s beyond training (median of {rounds}, "
        f"{min(seconds):.1f} to {max(seconds):.1f}); a device gets {down / 1e6:.3f} MB and sends {up / 1e6:.3f} MB a round"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "example: python benchmarks/federation.py --nodes 3 --rounds 4"
    parser.add_argument("--nodes", type=int, nargs="+", default=[3], help="numbers of nodes, one run each")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--wire", choices=["fp16", "fp32"], default="fp16", help="type of the numbers that go up")
    options = parser.parse_args(arguments)
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory() as folder:
            measure(nodes, options.rounds, options.wire, Path(folder))


if __name__ == "__main__":
    main()
