"""What a round costs beyond training, over real SuperLink and SuperNodes on this machine: seconds, bytes, processor time and memory.

    python benchmarks/federation.py --nodes 3 10           the devices' own client, which trains
    python benchmarks/federation.py --nodes 50 --light     a client that imports no torch: see light.py

The network is `cnnLite`. Training is one step on a crop of 32 pixels, or none with --light, so that nearly all of a round is what surrounds
training: the SuperNode's look for messages every three seconds, a process for each message, the base down, the update up, and the strategy.
All nodes share this machine's cores, as devices do not: seconds grow with the nodes, and with whatever else runs here. Processor time does
not depend on that, but for the looks for messages, which a longer round has more of.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fedstyle import Base, Config, Federation, rehearse
from fedstyle.config import Data, Export, Server, Training
from fedstyle.files import read_lines, write_json
from fedstyle.flower import deployment
from fedstyle.flower.credentials import make_device_key
from fedstyle.flower.wire import DELTA, Contract
from fedstyle.methods import make_method
from fedstyle.paint import PAINTERS, paint

TICKS = os.sysconf("SC_CLK_TCK")


def config(rounds: int, wire: str, photos: Sequence[str] = ()) -> Config:
    """A federation whose training takes next to no time."""
    return Config(
        data=Data(photos=tuple(photos), holdout=0) if photos else Data(),
        training=Training(size=32, batch=1, crops=1, iterations=0),
        method={"name": "fedbn", "steps": 1},
        server=Server(rounds=rounds, wire=wire, timeout=1800.0),  # type: ignore[arg-type]
        export=Export(clients=False),
    )


def run_devices(nodes: int, rounds: int, wire: str, folder: Path, watch: Callable[[str], None]) -> Path:
    """A federation of devices as they are; gives its folder."""
    photos = tuple(f"{folder}/photos/{node}" for node in range(nodes))
    for node, place in enumerate(photos):
        Path(place).mkdir(parents=True)
        paint(sorted(PAINTERS)[node % len(PAINTERS)], side=96, seed=node).save(Path(place) / "photo.png")
    rehearse(config(rounds, wire, photos), folder / "run", watch=watch)
    return folder / "run"


def run_light(nodes: int, rounds: int, wire: str, folder: Path, watch: Callable[[str], None]) -> Path:
    """A federation of nodes that answer with zeros; gives its folder."""
    federation = Federation.found(config(rounds, wire), folder / "run", ["localhost"])
    base = Base.load(federation.folder / "base")
    contract = Contract.of(base, make_method({"name": "fedbn"}).shares, wire)  # type: ignore[arg-type]
    zeros = contract.write_delta({name: torch.zeros_like(base.weights[name]) for name in contract.shared})
    ((layout, array),) = zeros.array_records[DELTA].items()
    write_json(folder / "reply.json", {"layout": layout, "form": array.stype, "bytes": len(array.data)})
    with federation.open() as link, ExitStack() as stack:
        deployment.register = register_here
        for node in range(nodes):
            federation.enrol(make_device_key(folder / f"{node}" / "key"), f"{node:03d}")
            watch(f"node {node} is enrolled")
        authority = federation.folder / "authority" / "authority.crt"
        words = [sys.executable, Path(__file__).with_name("light.py"), folder, link.address, authority, nodes]
        fleet = subprocess.Popen([str(word) for word in words], start_new_session=True)
        stack.callback(_end, fleet)
        federation.run(watch=watch)
    return federation.folder


def register_here(folder: Path, public: Path) -> int:
    """As `deployment.register`, in this process: Flower's command takes seconds to start, for each node."""
    from flwr.cli.app import app

    os.environ |= {"FLWR_HOME": str(folder / "flower"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    said: list[Any] = []
    sys.modules["flwr.cli.supernode.register"].print_json_to_stdout = said.append  # type: ignore[attr-defined]
    with contextlib.suppress(SystemExit):
        app(["supernode", "register", str(public), deployment.LINK, "--format", "json"], standalone_mode=False)
    return int((json.loads(said[0]) if isinstance(said[0], str) else said[0])["node-id"])


def _end(fleet: subprocess.Popen[bytes]) -> None:
    os.killpg(fleet.pid, signal.SIGKILL)
    fleet.wait()


def processes() -> dict[int, tuple[int, str, float]]:
    """All processes below this one: parent, command line, and seconds of processor time with those of children that ended."""
    found, below = {}, {os.getpid()}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parts = (place / "stat").read_text().rsplit(")", 1)[1].split()
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found[int(place.name)] = (int(parts[1]), words, sum(map(int, parts[11:15])) / TICKS)
    while more := {pid for pid, (parent, *_) in found.items() if parent in below} - below:
        below |= more
    return {pid: fact for pid, fact in found.items() if pid in below}


def role(pid: int, there: dict[int, tuple[int, str, float]]) -> str:
    """Whose a process is: the SuperLink's, the server app's, the nodes', or none of them."""
    while pid in there:
        parent, words, _ = there[pid]
        if "gate server" in words:
            return "server"
        if "flower-supernode" in words or "light.py" in words:
            return "nodes"
        if "gate link" in words:
            return "link"
        pid = parent
    return ""


def memory(pid: int) -> float:
    """MB of a process, its share of what it has in common with others (Linux' Pss)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def measure(nodes: int, rounds: int, wire: str, *, light: bool, folder: Path) -> None:
    """Run a federation in `folder` and print its figures."""
    spent: list[dict[str, float]] = []
    most: dict[str, float] = defaultdict(float)

    def watch(line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)
        if not line.startswith("round"):
            return
        there = processes()
        owners = {pid: role(pid, there) for pid in there}
        spent.append({name: sum(there[pid][2] for pid in owners if owners[pid] == name) for name in ("link", "server", "nodes")})
        for name in ("link", "nodes"):
            most[name] = max(most[name], sum(memory(pid) for pid in owners if owners[pid] == name))
        print(f"    processor seconds so far: {spent[-1]}; most MB: {dict(most)}", file=sys.stderr, flush=True)

    rows = read_lines((run_light if light else run_devices)(nodes, rounds, wire, folder, watch) / "history.jsonl")
    seconds = [row["seconds"] for row in rows]
    down, up = rows[0]["bytes_down"] / nodes, rows[0]["bytes_up"] / nodes
    print(
        f"{nodes} nodes{', light' if light else ''}, {wire}: a round takes {statistics.median(seconds):.1f} s beyond training (median of "
        f"{rounds}, {min(seconds):.1f} to {max(seconds):.1f}); a device gets {down / 1e6:.3f} MB and sends {up / 1e6:.3f} MB a round",
        flush=True,
    )
    if len(spent) > 1:
        cost = {name: (spent[-1][name] - spent[0][name]) / (len(spent) - 1) for name in spent[0]}
        print(
            f"{nodes} nodes{', light' if light else ''}, {wire}: processor time a round: SuperLink {cost['link']:.1f} s, server app "
            f"{cost['server']:.1f} s, a node {cost['nodes'] / nodes:.2f} s; memory: SuperLink {most['link']:.0f} MB, a node "
            f"{most['nodes'] / nodes:.0f} MB",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "example: python benchmarks/federation.py --nodes 3 --rounds 4"
    parser.add_argument("--nodes", type=int, nargs="+", default=[3], help="numbers of nodes, one run each")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--wire", choices=["fp32", "fp16", "int8"], default="fp16", help="type of the numbers that cross")
    parser.add_argument("--light", action="store_true", help="nodes whose client imports no torch, and answers with zeros")
    options = parser.parse_args(arguments)
    deployment.START = 900.0  # seconds that a busy machine may take until a run begins
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            measure(nodes, options.rounds, options.wire, light=options.light, folder=Path(folder))
            print(f"  {time.monotonic() - started:.0f} s in all", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
