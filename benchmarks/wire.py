"""What the type of the numbers on the wire costs in quality, bytes and time: fp32, fp16 and int8 side by side.

    python benchmarks/wire.py            minutes: two methods, three seeds, from the shipped base; no data needed

Every type runs the same small federations: 3 devices with photographs that scikit-image carries and styles that fedstyle paints, 4 rounds
of 4 iterations at 64 px from the shipped base, then 25 personal iterations. Losses are the mean over devices on photos that none of them
trained on. `fedbn` sends convolutions and keeps norms; `predicted` sends all, with the predictor that reads norms off a style image. First
comes what rounding alone does to the shipped base: its loss as a device receives it in round 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch

from fedstyle import Base, Config
from fedstyle.config import Data, Export, Net, Server, Training, Wire
from fedstyle.flower.engine import run_federation
from fedstyle.flower.wire import Contract, Order, received, sizes
from fedstyle.methods import make_method
from fedstyle.population import Clients, plan

QUICK = {"clients": 2, "rounds": 1, "iterations": 1, "steps": 1, "size": 32}
FULL = {"clients": 3, "rounds": 4, "iterations": 25, "steps": 4, "size": 64}


def config(method: str, wire: Wire, seed: int, wishes: dict[str, int]) -> Config:
    """A small federation from the shipped base."""
    rates = {"norm_rate": 3e-2, "warmup": 5, "device": "cpu"}
    training = Training(size=wishes["size"], batch=2, crops=8, iterations=wishes["iterations"], seed=seed, **rates)  # type: ignore[arg-type]
    return Config(
        data=Data(clients=wishes["clients"], holdout=2),
        net=Net(base="shipped"),
        training=training,
        method={"name": method, "steps": wishes["steps"], "lr": 1e-3, **({"norm_lr": 1e-2} if method == "predicted" else {})},
        server=Server(rounds=wishes["rounds"], wire=wire, workers=1),
        export=Export(clients=False),
    )


def milliseconds(call: Callable[[], object], times: int = 30) -> float:
    """The least processor time of a call."""
    spent = []
    for _ in range(times):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return 1e3 * min(spent)


def times(base: Base, wire: Wire) -> None:
    """Print what base and update take, on the wire and of the processor."""
    contract = Contract.of(base, make_method({"name": "fedbn"}).shares, wire)
    order, delta = Order(base, 1, 0.0), {name: 1e-3 * base.weights[name] for name in contract.shared}
    down, up = contract.write_order(order), contract.write_delta(delta)
    parts = {
        "base down": (down, lambda: contract.write_order(order), lambda: contract.read_order(down)),
        "update up": (up, lambda: contract.write_delta(delta), lambda: contract.read_delta(up)),
    }
    for name, (content, write, read) in parts.items():
        size = sum(sizes(content).values()) / 1e6
        print(f"{wire} {name}: {size:.3f} MB, {milliseconds(write):.1f} ms to write and {milliseconds(read):.1f} ms to read", flush=True)


def rounding(wire: Wire, wishes: dict[str, int]) -> None:
    """Print the shipped base's loss as it is received."""
    asked = config("fedbn", wire, 0, wishes)
    base = Base.shipped()
    with tempfile.TemporaryDirectory() as folder:
        clients = Clients(asked, Path(folder))
        clients.population = plan(asked)
        losses = [
            clients(one).evaluate(received(base, wire), clients.population.devices[one].heldout)["total"]
            for one in range(wishes["clients"])
        ]
    print(f"{wire} shipped base as received: loss {statistics.fmean(losses):.4f}", flush=True)


def outcome(method: str, wire: Wire, seed: int, wishes: dict[str, int]) -> tuple[float, float]:
    """The held-out loss of the base after the rounds, and of the personal filters."""
    asked, count = config(method, wire, seed, wishes), wishes["clients"]
    with tempfile.TemporaryDirectory() as folder:
        clients = Clients(asked, Path(folder))
        clients.population = plan(asked)
        last = run_federation(asked, Base.shipped(), clients, count)
        judged = [(clients(one), clients.population.devices[one].heldout) for one in range(count)]
        base = statistics.fmean(client.evaluate(last, photos)["total"] for client, photos in judged)
        filters = [client.personalize(last, iterations=wishes["iterations"]).result() for client, _ in judged]
        personal = statistics.fmean(client.evaluate(made, photos)["total"] for made, (client, photos) in zip(filters, judged, strict=True))
    print(f"  {method} {wire}, seed {seed}: {base:.4f} and {personal:.4f}", file=sys.stderr, flush=True)
    return base, personal


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "example: python benchmarks/wire.py --methods fedbn --seeds 0 1"
    parser.add_argument("--methods", nargs="+", default=["fedbn", "predicted"], help="which methods run")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="seeds of the federations; none leaves them out")
    parser.add_argument("--quick", action="store_true", help="only to see that it runs: sizes that say nothing")
    options = parser.parse_args(arguments)
    wishes, started = QUICK if options.quick else FULL, time.process_time()
    torch.set_num_threads(1)
    for wire in get_args(Wire):
        times(Base.new("cnnLite"), wire)
    for wire in get_args(Wire):
        rounding(wire, wishes)
    for method in options.methods:
        found: dict[Wire, list[tuple[float, float]]] = {wire: [] for wire in get_args(Wire)}
        for seed in options.seeds:
            for wire, outcomes in found.items():
                outcomes.append(outcome(method, wire, seed, wishes))
        for wire, losses in found.items() if options.seeds else ():
            base, personal = ([pair[k] for pair in losses] for k in (0, 1))
            against = [[pair[k] / whole[k] - 1 for pair, whole in zip(losses, found["fp32"], strict=True)] for k in (0, 1)]
            change = "" if wire == "fp32" else f"; against fp32 {_percent(against[0])} and {_percent(against[1])}"
            print(
                f"{method} {wire}: loss of the base {statistics.fmean(base):.4f}, personal {statistics.fmean(personal):.4f}{change}",
                flush=True,
            )
    print(f"{time.process_time() - started:.0f} s of processor time")


def _percent(parts: list[float]) -> str:
    """A mean change and its span over seeds."""
    return f"{statistics.fmean(parts):+.2%} ({min(parts):+.2%} to {max(parts):+.2%})"


if __name__ == "__main__":
    main()
