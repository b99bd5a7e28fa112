"""The yardstick of a federated base: one network trained centrally on all devices' photos and styles at once.

python simulation/base/joint.py --run runs/base/stage-1 --out runs/joint

It sees as many images, in batches as large, as the federation in `--run` (a stage's folder that learn.py wrote) did, with one Adam for all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fedstyle import Base, Config
from fedstyle.base import build
from fedstyle.methods import make_method
from fedstyle.population import Clients, first_base
from fedstyle.training import derive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = Config.load(options.run / "config.toml")
    cohort = config.server.cohort or 32
    clients = Clients(config, options.out)
    devices = len(clients.population.devices)
    steps = int(config.method.get("steps", 10)) * cohort
    method = make_method({**config.method, "steps": 1})
    base = first_base(config)
    net, memory = build(base.arch, base.padding, base.weights), dict[str, torch.Tensor]()
    for round in range(1, config.server.rounds + 1):
        losses = []
        for step in range(steps):
            number = (round - 1) * steps + step
            client = clients(derive(config.training.seed, "joint", number) % devices)
            task = client.task(derive(client.plan.seed, "joint", number), round=round, teaches=base.predicts)
            losses += [progress.total for progress in method.fit(net, task, memory)]
        print(f"{round * steps} iterations: loss {sum(losses) / len(losses):.3f}", flush=True)
    weights = {name: value.detach().clone() for name, value in net.named_parameters()}
    Base(base.arch, base.padding, weights, {"joint": True, "iterations": config.server.rounds * steps}).save(options.out / "base")


if __name__ == "__main__":
    main()
