"""One federation, as each contender's own users would write it; a process of its own for each: see simulation.py.

    python benchmarks/contenders.py NAME FOLDER wall|cpu

`FOLDER` holds the population: `work.json` (a `Work`), `photos/` and `style.png`. Every contender has as many clients with as many photos,
the same network, feature network and losses, Adam, and the same iterations a round, and averages all clients alike. It prints a line of
JSON with the clock's seconds at the end of each round; `cpu` is the processor time of this process and all that it started, from its start.
What one does not do (a run's record, private state that outlives the process, a device's ledger) its users do without.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fedstyle.net import TransformNet
from fedstyle.perceptual import Objective, gram, load_features

RATE = 1e-3
STYLE_WEIGHT = 10.0


def processor_time() -> float:
    """Seconds of processor time of this process and its descendants, Ray's too; of ended ones, where they were waited for."""
    times, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended just now
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            times[folder.name], parents[folder.name] = sum(map(int, fields[11:15])), fields[1]
    found, total = [str(os.getpid())], 0
    while found:
        process = found.pop()
        total += times[process]
        found += [child for child, parent in parents.items() if parent == process]
    return total / os.sysconf("SC_CLK_TCK")


CLOCK = processor_time if sys.argv[3:] == ["cpu"] else time.time


@dataclass(frozen=True)
class Work:
    """The size of a federation."""

    clients: int
    rounds: int
    steps: int
    batch: int
    photos: int
    """Photos a client."""
    size: int
    """Side of the training crops in pixels."""
    width: int
    """A quarter of the channels of the network's residual blocks."""
    workers: int


class Over(BaseException):
    """The last round is over, and nobody measures what comes after it."""


def read(folder: Path) -> Work:
    return Work(**json.loads((folder / "work.json").read_text()))


@functools.cache
def photos_of(folder: Path, client: int) -> Tensor:
    """A client's photos (N, 3, S, S) in 0..1."""
    work = read(folder)
    files = sorted((folder / "photos").iterdir())[client :: work.clients]
    pictures = [np.asarray(Image.open(file).convert("RGB").resize((work.size, work.size))) for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


@functools.cache
def objective_of(folder: Path) -> Objective:
    """What every client is to reach."""
    features = load_features("tiny")
    style = torch.from_numpy(np.asarray(Image.open(folder / "style.png").convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return Objective(features, tuple(gram(tap)[0] for tap in features(style)), style_weight=STYLE_WEIGHT)


def loss_of(net: nn.Module, objective: Objective, photos: Tensor) -> Tensor:
    """The loss of a batch; content features are computed as the batch comes, as scripts do."""
    return objective(net(photos), objective.content_features(photos)).total.mean()


# ------------------------------------------------------------------------------------------------------------- fedstyle


def run_fedstyle(folder: Path, engine: str) -> list[float]:
    from fedstyle.config import Config, Data, Export, Loss, Net, Server, Training
    from fedstyle.simulate import simulate

    work, ends = read(folder), []
    config = Config(
        data=Data(str(folder / "photos"), clients=work.clients, styles=(str(folder / "style.png"),), holdout=0),
        net=Net(width=work.width),
        loss=Loss(style=STYLE_WEIGHT),
        training=Training(size=work.size, batch=work.batch, crops=work.photos, iterations=0, device="cpu"),
        method={"name": "fedavg", "steps": work.steps, "lr": RATE, "norm_lr": RATE},
        server=Server(engine=engine, rounds=work.rounds, workers=work.workers),
        export=Export(clients=False),
    )

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "rounds" and done:
            ends.append(CLOCK())
            if done == total:
                raise Over

    with contextlib.suppress(Over):
        simulate(config, folder / f"fedstyle-{engine}", watch=watch)
    return ends


# --------------------------------------------------------------------------------------------------------------- Flower


def run_flower(folder: Path) -> list[float]:
    """Flower's simulation with a stock client, as Flower's PyTorch example has it: network and optimiser anew for each message."""
    os.environ |= {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "CRITICAL"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    work, ends, trained = read(folder), [], list[int]()
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        net, count = TransformNet("cnnLite", width=work.width), 0
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        photos = photos_of(folder, int(context.node_config["partition-id"]))
        adam = torch.optim.Adam(net.parameters(), lr=RATE)
        net.train()
        for _ in range(work.steps):
            adam.zero_grad()
            batch = photos[torch.randperm(len(photos))[: work.batch]]
            loss = loss_of(net, objective_of(folder), batch)
            loss.backward()
            adam.step()
            count += len(batch)
        metrics = MetricRecord({"num-examples": count, "loss": loss.item()})
        return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  Flower's signature
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=work.clients, min_available_nodes=work.clients)
        start = ArrayRecord(TransformNet("cnnLite", width=work.width).state_dict())
        found = strategy.start(grid, start, num_rounds=work.rounds, evaluate_fn=lambda done, _: ends.append(CLOCK()) if done else None)
        trained.extend(found.train_metrics_clientapp)

    resources = {
        "client_resources": {"num_cpus": 1},
        "init_args": {"num_cpus": work.workers, "include_dashboard": False, "log_to_driver": False},
    }
    run_simulation(server_app=server, client_app=client, num_supernodes=work.clients, backend_config=resources)
    if len(trained) < work.rounds:
        raise RuntimeError(f"Flower's clients trained in {len(trained)} of {work.rounds} rounds: it says why with FLWR_LOG_LEVEL=INFO")
    return ends


# ---------------------------------------------------------------------------------------------------------- pfl-research


def run_pfl(folder: Path) -> list[float]:
    """Apple's pfl-research: one resident network in one process, an optimiser a user."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    work, ends = read(folder), []

    class Net(TransformNet):
        def loss(self, photos: Tensor) -> Tensor:
            return loss_of(self, objective_of(folder), photos)

        def metrics(self, photos: Tensor) -> dict[str, Weighted]:
            with torch.no_grad():
                return {"loss": Weighted(self.loss(photos).item() * len(photos), len(photos))}

    class Clock(TrainingProcessCallback):
        def after_central_iteration(self, *_: object, **__: object) -> tuple[bool, Metrics]:
            ends.append(CLOCK())
            return False, Metrics()

    def user(name: int) -> PyTorchTensorDataset:
        photos = photos_of(folder, name)
        return PyTorchTensorDataset(
            (photos.repeat(-(-work.steps * work.batch // len(photos)), 1, 1, 1)[: work.steps * work.batch],), user_id=name
        )

    net = Net("cnnLite", width=work.width)
    model = PyTorchModel(net, torch.optim.Adam, torch.optim.SGD(net.parameters(), lr=1.0))
    users = FederatedDataset(user, get_user_sampler("minimize_reuse", list(range(work.clients))))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(work.rounds, work.rounds + 1, work.clients, 0),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(local_batch_size=work.batch, local_num_epochs=1, local_learning_rate=RATE),
        model_eval_params=NNEvalHyperParams(local_batch_size=work.batch),
        callbacks=[Clock()],
    )
    return ends


CONTENDERS = {
    "fedstyle inline": lambda folder: run_fedstyle(folder, "inline"),
    "fedstyle ray": lambda folder: run_fedstyle(folder, "ray"),
    "Flower": run_flower,
    "pfl-research": run_pfl,
}


def main() -> None:
    torch.set_num_threads(1)  # a client trains on one thread, and workers fill the cores
    name, folder = sys.argv[1:3]
    shown, sys.stdout = sys.stdout, sys.stderr
    ends = CONTENDERS[name](Path(folder))
    shown.write(json.dumps(ends) + "\n")


if __name__ == "__main__":
    import contenders  # under its own name, by which Ray's workers find what a client calls

    contenders.main()
