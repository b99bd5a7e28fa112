"""A federation on one machine: rounds, personal filters, verified exports, and a run folder that tells what happened."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedstyle import scalars
from fedstyle.base import Base
from fedstyle.calling import make_callable
from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.files import last_line, read_lines
from fedstyle.methods import check_match, make_method
from fedstyle.perceptual import load_features
from fedstyle.personalising import Watch, make_exports, make_filters
from fedstyle.population import Clients, Population, first_base, plan
from fedstyle.record import SUMMARY, Record, check_folder, clear, is_finished, sweep
from fedstyle.report import write_report
from fedstyle.report.comparison import compare
from fedstyle.training import choose_device

if TYPE_CHECKING:
    from fedstyle.flower.engine import Round

__all__ = ["History", "Population", "check", "plan", "simulate"]


@dataclass(frozen=True)
class History:
    """What a run left: its folder, a dictionary a round, the summary, and the final base."""

    folder: Path
    rounds: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    base: Base


def check(config: Config) -> Population:
    """Check everything that a run needs, write nothing, and give who would take part.

    Raises ConfigError for a method, device, feature network, strategy, cohort or missing package, and ConfigError, PhotoError or
    StyleError for photos and styles that cannot be used.
    """
    _need_package("flwr", "federation", "a federation")
    from fedstyle.flower.engine import check_ray, check_server  # flwr is an extra

    if config.server.engine == "ray":
        check_ray()
    if config.export.clients:
        _need_package("coremltools", "coreml", "export.clients = true")
    check_match(make_method(config.method), config.server.strategy)
    first_base(config)
    choose_device(config.training.device)
    load_features(config.loss.features, config.loss.weights)
    population = plan(config)
    check_server(config, len(population.devices))
    return population


def _need_package(package: str, extra: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}, which is not installed: pip install 'fedstyle[{extra}]'")


def simulate(
    config: Config, out: str | Path, *, resume: bool = False, tensorboard: bool = False, watch: Watch | None = None, grid: Any = None
) -> History:
    """Run a whole federation into the folder `out`: base, personal filters, exports, report.

    Everything that can be checked is checked before `out` is made: see `check` for what that raises. With `resume` the run in `out` goes on
    from where it was killed or failed, to the base and the filters that it would have come to; a finished one is given as it is. Its config
    is `out`/config.toml, in which `record.FREE` may differ. With `tensorboard` its numbers by round lie in `out`/tensorboard too, as they
    come, also when such a run is taken up. With a Flower `grid` the clients run elsewhere: see `fedstyle.app`.

    Raises OutputError when `out` holds a run already, or another process is at work in it, ConfigError when there is none to take up, or it
    began with another configuration or version, and FederationError when a round fails.
    """
    out, watch = Path(out).absolute(), watch or _silent  # absolute, for Ray's actors run in folders of their own
    check_folder(out, resume=resume)
    if resume and is_finished(out):
        return _finished(out)
    tells = tensorboard or (out / scalars.FOLDER).is_dir()
    if tells:
        scalars.check_tensorboard()
    clients = Clients(config, out)
    clients.population = check(config)
    from fedstyle.flower.engine import count_workers, run_federation  # it is there: that is checked

    with contextlib.ExitStack() as held:
        record = held.enter_context(Record.open(out, config, first_base(config), resume=resume))
        tell = held.enter_context(scalars.event_file(out / scalars.FOLDER, record.resumed)) if tells else None

        def on_round(now: Round) -> None:
            line = _line(now, clients)
            record.add_round(line, now.state)
            if tell:
                tell(now.number, scalars.of_round(line))
            watch("rounds", now.number, config.server.rounds)

        watch("rounds", record.state.round, config.server.rounds)
        count = len(clients.population.devices)
        with record.during("federation"):
            before = record.state
            base = run_federation(config, before.base, clients, count, on_round=on_round, on_charge=record.keep, after=before, grid=grid)
        with record.during("personalization"):
            make_filters(config, clients, base, count_workers(config.server), record, watch)
        with record.during("export"):
            if config.export.clients:  # only now, for torch.export writes to globals that a training thread reads
                make_exports(config, clients, record, watch)
        summary = record.finish(count, clients.population.skipped)
        if tell:
            (row,) = compare([out])
            tell(config.server.rounds, {f"personal/{key}": row[key] for key in scalars.PERSONAL})
        write_report(out)
        clear(out)
    return History(out, tuple(record.rounds), summary, base)


def _finished(out: Path) -> History:
    """A run that reached its end, also when it was killed on its last lines."""
    if not (out / "report.html").exists():
        sweep(out)
        write_report(out)
    clear(out)
    return History(out, tuple(read_lines(out / "history.jsonl")), json.loads((out / SUMMARY).read_text()), Base.load(out / "base"))


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _line(now: Round, clients: Clients) -> dict[str, Any]:
    """A round as a line of history; the losses come from the clients' own homes, not over the wire."""
    devices = clients.population.devices
    last = [last_line(clients.home(partition) / "losses.jsonl") for partition in now.replied]
    losses = [line for line in last if line and line["round"] == now.number]
    keys = ("content", "style", "total")
    return {
        "round": now.number,
        "sampled": len(now.cohort),
        "replied": len(now.replied),
        "cohort": [devices[partition].id for partition in now.cohort],
        "failures": {devices[partition].id: code for partition, code in now.failures.items()},
        "bytes_up": now.bytes_up,
        "bytes_down": now.bytes_down,
        "seconds": round(now.seconds, 3),
        "base_sha256": now.base.sha256,
        "loss": {key: statistics.fmean(line[key] for line in losses) for key in keys} if losses else None,
    }


make_callable(__name__, simulate)
