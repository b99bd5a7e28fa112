"""A federation on one machine: rounds, personal filters, verified exports, and a run folder that tells what happened."""

from __future__ import annotations

import importlib.util
import io
import math
import platform
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from fedstyle.base import Base
from fedstyle.calling import make_callable
from fedstyle.config import Config
from fedstyle.errors import Cancelled, ConfigError, FedstyleError, OutputError
from fedstyle.export import export, verify
from fedstyle.files import append_json, read_lines, write_bytes, write_json
from fedstyle.filter import Filter
from fedstyle.flower.notes import note_error
from fedstyle.methods import check_match, make_method
from fedstyle.perceptual import load_features
from fedstyle.population import Clients, Population, first_base, plan
from fedstyle.report import write_report
from fedstyle.training import choose_device

if TYPE_CHECKING:
    from fedstyle.flower.engine import Round

Watch = Callable[[str, int, int], None]
"""Called with a stage (`rounds`, `filters`, `exports`), how much of it is done, and how much there is."""

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
    from fedstyle.flower.engine import check_ray, check_strategy  # flwr is an extra

    if config.server.engine == "ray":
        check_ray()
    if config.export.clients:
        _need_package("coremltools", "coreml", "export.clients = true")
    check_match(make_method(config.method), config.server.strategy)
    first_base(config)
    choose_device(config.training.device)
    load_features(config.loss.features, config.loss.weights)
    population = plan(config)
    check_strategy(config.server, len(population.devices))
    return population


def _need_package(package: str, extra: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}, which is not installed: pip install 'fedstyle[{extra}]'")


def simulate(config: Config, out: str | Path, *, watch: Watch | None = None, grid: Any = None) -> History:
    """Run a whole federation into the folder `out`: base, personal filters, exports, report.

    Everything that can be checked is checked before `out` is made: see `check` for what that raises. Raises OutputError when `out` holds
    a run already, and FederationError when a round fails. With a Flower `grid` the clients run elsewhere: see `fedstyle.app`.
    """
    out, watch = Path(out).absolute(), watch or _silent  # absolute, for Ray's actors run in folders of their own
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not empty: a run is never overwritten; choose another folder for --out")
    clients = Clients(config, out)
    clients.population = check(config)
    from fedstyle.flower.engine import count_workers, run_federation  # it is there: that is checked

    devices = clients.population.devices
    write_bytes(out / "config.toml", config.toml().encode())
    started = time.monotonic()
    rounds: list[dict[str, Any]] = []

    def on_round(now: Round) -> None:
        now.base.save(out / "base")
        rounds.append(_line(now, clients))
        append_json(out / "history.jsonl", rounds[-1])
        watch("rounds", now.number, config.server.rounds)

    base = first_base(config)
    base.save(out / "base")
    watch("rounds", 0, config.server.rounds)
    base = run_federation(config, base, clients, len(devices), on_round=on_round, grid=grid)
    federated = time.monotonic()
    rows = _filters(config, clients, base, count_workers(config.server), watch)
    personalized = time.monotonic()
    # Only now, for torch.export writes to globals that a training thread reads.
    if config.export.clients:
        for done, partition in enumerate(sorted(rows), 1):
            rows[partition] |= _export(config, clients.home(partition), rows[partition])
            watch("exports", done, len(devices))
    ended = time.monotonic()
    summary = {
        "format": "fedstyle-run-1",
        "rounds": config.server.rounds,
        "engine": config.server.engine,
        "strategy": config.server.strategy,
        "method": str(config.method["name"]).rsplit("/", 1)[-1],  # of a user's own file its name, not its place
        "arch": config.net.arch,
        "features": config.loss.features,
        "seconds": round(ended - started, 2),
        "bytes_up": sum(row["bytes_up"] for row in rounds),
        "bytes_down": sum(row["bytes_down"] for row in rounds),
        "base_sha256": base.sha256,
        "photos_skipped": dict(clients.population.skipped),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("fedstyle", "torch", "flwr")},
        "timings": {
            "federation": round(federated - started, 2),
            "personalization": round(personalized - federated, 2),
            "export": round(ended - personalized, 2),
        },
        "clients": [rows[partition] for partition in sorted(rows)],
    }
    write_json(out / "summary.json", summary)
    write_report(out)
    return History(out, tuple(rounds), summary, base)


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def _line(now: Round, clients: Clients) -> dict[str, Any]:
    """A round as a line of history; the losses come from the clients' own homes, not over the wire."""
    devices = clients.population.devices
    losses = []
    for partition in now.replied:
        lines = [line for line in read_lines(clients.home(partition) / "losses.jsonl") if line["round"] == now.number]
        losses += lines[-1:]
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


def _filters(config: Config, clients: Clients, base: Base, workers: int, watch: Watch) -> dict[int, dict[str, Any]]:
    """Make every client's filter, several at a time; gives their lines of the summary by partition."""
    rows: dict[int, dict[str, Any]] = {}
    count, stop = len(clients.population.devices), threading.Event()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(_personalize, config, clients, base, partition, stop): partition for partition in range(count)}
        try:
            for done, future in enumerate(as_completed(running), 1):
                rows[running[future]] = future.result()
                watch("filters", done, count)
        except BaseException:
            stop.set()  # every job that runs is cancelled after its iteration at hand
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return rows


def _personalize(config: Config, clients: Clients, base: Base, partition: int, stop: threading.Event) -> dict[str, Any]:
    """Train, judge and save one client's filter; a client that fails gets a code and does not stop the others."""
    device, home = clients.population.devices[partition], clients.home(partition)
    judged = device.heldout if len(device.heldout) else device.photos
    row: dict[str, Any] = {
        "id": device.id,
        "style": device.style_name,
        "strength": None,
        "density": None,
        "photos": len(device.photos),
        "heldout": len(device.heldout),
        "heldout_kind": "unseen photos" if len(device.heldout) else "training photos",
        "losses": None,
        "improvement": None,
        "filter": None,
        "package": None,
        "parity": None,
        "error": None,
    }
    try:
        client = clients(partition)
        row |= {"strength": client.look.strength, "density": client.look.density}
        kept = client.personalize(base, iterations=0).result()  # what the rounds left on this device, before it makes its filter
        job = client.personalize(base, iterations=config.training.iterations)
        lines = []
        for progress in job:
            lines.append(progress.as_dict())
            if stop.is_set():
                job.cancel()
        append_json(home / "personal.jsonl", *lines)
        filter = job.result()
        losses = {name: client.evaluate(model, judged) for name, model in (("before", base), ("rounds", kept), ("after", filter))}
        if not all(math.isfinite(loss) for part in losses.values() for loss in part.values()):
            raise FedstyleError("the filter's loss on the photos that judge it is not finite: lower the rates in [training]")
        filter.save(home / "filter")
        gain = 1 - losses["after"]["total"] / losses["before"]["total"]
        row |= {"losses": losses, "improvement": gain, "filter": f"clients/{device.id}/filter"}
        _pictures(home / "pictures", client.look.image, judged.load(0), client.predict(base), filter)
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001  whatever went wrong on one device, the run goes on and says so
        row["error"] = _failed(home, "personalize", error)
    return row


def _export(config: Config, home: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Export a client's filter next to it, run the exported file, and say how faithful it is."""
    if not row["filter"]:
        return {}
    path = home / f"{row['style']}.mlpackage"
    wishes = {key: value for key, value in (("author", config.export.author), ("license", config.export.license)) if value}
    try:
        filter = Filter.load(home / "filter")
        export(filter, path, size=config.export.size, precision=config.export.precision, metadata=wishes)
        parity = verify(path, filter)
    except Exception as error:  # noqa: BLE001  as above
        return {"error": _failed(home, "export", error)}
    return {"package": f"clients/{home.name}/{path.name}", "parity": parity.as_dict()}


def _failed(home: Path, stage: str, error: Exception) -> str:
    """Note an error at the device's home, and give its code for the summary: the class, never the text."""
    code = type(error).__name__
    note_error(home, f"{stage}: {code}", error)
    return code


def _pictures(folder: Path, style: Image.Image, photo: Image.Image, base: Filter, filter: Filter) -> None:
    """Small pictures of what the report shows."""
    photo.thumbnail((512, 512), Image.Resampling.LANCZOS)
    style = style.copy()
    style.thumbnail((512, 512), Image.Resampling.LANCZOS)
    for name, picture in (("style", style), ("photo", photo), ("base", base(photo)), ("filter", filter(photo))):
        picture.convert("RGB").save(jpeg := io.BytesIO(), "JPEG", quality=90)
        write_bytes(folder / f"{name}.jpg", jpeg.getvalue())


make_callable(__name__, simulate)
