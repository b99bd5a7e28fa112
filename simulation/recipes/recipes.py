"""Which client and server optimisers make a base learn: the quickstart's population under several recipes, one table.

python simulation/recipes/recipes.py --out runs/recipes [--set training.size=96 ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from fedstyle import Config, simulate

QUICKSTART = Path(__file__).parent.parent / "quickstart" / "quickstart.toml"
NOTHING = ("net.base=''", "training.norm_rate=1e-2", "training.warmup=10")  # the quickstart starts from the shipped base
ROUNDS = (*NOTHING, "server.rounds=10", "training.iterations=25", "export.clients=false")
RECIPES = {
    "FedAvg, Adam kept on the client, 2e-3": ("method.lr=2e-3",),
    "FedAvg, Adam kept on the client, 1e-3": ("method.lr=1e-3",),
    "FedAvg, Adam kept on the client, 4e-3": ("method.lr=4e-3",),
    "FedAvg, fresh Adam each round, 2e-3": ("method.lr=2e-3", "method.keep_moments=false"),
    "FedAvg, fresh Adam each round, 5e-4": ("method.lr=5e-4", "method.keep_moments=false"),
    "FedAvgM 0.5, Adam kept, 2e-3": ("method.lr=2e-3", "server.strategy=FedAvgM", "server.options.server_momentum=0.5"),
    "FedAdam 2e-3, Adam kept, 2e-3": ("method.lr=2e-3", "server.strategy=FedAdam", "server.options.eta=2e-3"),
    "FedAvg, all parameters shared, Adam kept, 2e-3": ("method.lr=2e-3", "method.name=fedavg"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--only", type=int, help="run the first so many recipes")
    options = parser.parse_args()
    print("| recipe | local loss after the last round | personal loss, unseen photos | worst client | seconds |\n|---|---|---|---|---|")
    for index, (name, overrides) in enumerate(list(RECIPES.items())[: options.only]):
        folder = options.out / f"{index}"
        if not (folder / "summary.json").exists():  # a finished recipe is not run again
            simulate(Config.load(QUICKSTART, [*ROUNDS, *overrides, *options.set]), folder)
        summary = json.loads((folder / "summary.json").read_text())
        last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
        after = [client["losses"]["after"]["total"] for client in summary["clients"]]
        print(
            f"| {name} | {last['loss']['total']:.2f} | {statistics.fmean(after):.2f} | {max(after):.2f} | {summary['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
