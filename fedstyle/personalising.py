"""The end of a run: every client makes its filter, is judged, and has it exported, and a client that fails stops no other."""

from __future__ import annotations

import io
import math
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fedstyle.base import Base
from fedstyle.config import Config
from fedstyle.errors import Cancelled, FedstyleError
from fedstyle.export import export, verify
from fedstyle.files import append_json, unsynced, write_bytes
from fedstyle.filter import Filter
from fedstyle.flower.notes import note_error
from fedstyle.population import Clients
from fedstyle.record import Record
from fedstyle.report.run import MANY

Watch = Callable[[str, int, int], None]
"""Called with a stage (`rounds`, `filters`, `exports`), how much of it is done, and how much there is."""


def make_filters(config: Config, clients: Clients, base: Base, workers: int, record: Record, watch: Watch) -> None:
    """Make every client's filter, several at a time, but for those that the record has; it gets their lines of the summary."""
    count, stop = len(clients.population.devices), threading.Event()
    missing = [partition for partition in range(count) if partition not in record.rows]
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(_personalize, config, clients, base, partition, stop): partition for partition in missing}
        try:
            for done, future in enumerate(as_completed(running), count - len(missing) + 1):
                record.add_row("filter", running.pop(future), future.result())
                watch("filters", done, count)
        except BaseException:
            stop.set()  # every job that runs is cancelled after its iteration at hand
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def make_exports(config: Config, clients: Clients, record: Record, watch: Watch) -> None:
    """Export every client's filter and verify the file, but for those that the record has."""
    missing = sorted(record.rows.keys() - record.exported)
    for done, partition in enumerate(missing, len(record.rows) - len(missing) + 1):
        row = record.rows[partition]
        record.add_row("export", partition, row | _export(config, clients.home(partition), row))
        watch("exports", done, len(record.rows))


@unsynced()
def _personalize(config: Config, clients: Clients, base: Base, partition: int, stop: threading.Event) -> dict[str, Any]:
    """Train, judge and save one client's filter; a client that fails gets a code and does not stop the others."""
    device, home = clients.population.devices[partition], clients.home(partition)
    judged = device.heldout if len(device.heldout) else device.photos
    row: dict[str, Any] = {
        "id": device.id,
        "style": device.style_name,
        "role": device.role,
        "strength": None,
        "density": None,
        "photos": len(device.photos),
        "heldout": len(device.heldout),
        "heldout_kind": "unseen photos" if len(device.heldout) else "training photos",
        "losses": None,
        "improvement": None,
        "filter": None,
        "filter_sha256": None,
        "package": None,
        "parity": None,
        "error": None,
    }
    try:
        client = clients(partition)
        row |= {"strength": client.look.strength, "density": client.look.density}
        kept = client.personalize(base, iterations=0).result()  # what the rounds left on this device, before it makes its filter
        job = client.personalize(base, iterations=config.training.iterations, full=config.export.full)
        lines = []
        for progress in job:
            lines.append(progress.as_dict())
            if stop.is_set():
                job.cancel()
        (home / "personal.jsonl").unlink(missing_ok=True)  # of a process that was killed before it was done with this client
        append_json(home / "personal.jsonl", *lines)
        filter = job.result()
        losses = {name: client.evaluate(model, judged) for name, model in (("before", base), ("rounds", kept), ("after", filter))}
        if not all(math.isfinite(loss) for part in losses.values() for loss in part.values()):
            raise FedstyleError("the filter's loss on the photos that judge it is not finite: lower the rates in [training]")
        filter.save(home / "filter", replace=True)
        gain = 1 - losses["after"]["total"] / losses["before"]["total"]
        row |= {"losses": losses, "improvement": gain, "filter": f"clients/{device.id}/filter", "filter_sha256": filter.sha256}
        if partition < MANY:
            pictures(home / "pictures", client.look.image, judged.load(0), client.predict(base), filter)
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
        shutil.rmtree(path, ignore_errors=True)  # of a process that was killed before it had verified it
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


def pictures(folder: Path, style: Image.Image, photo: Image.Image, base: Filter, filter: Filter) -> None:
    """Small pictures of what the report shows, which are those of its first clients."""
    photo.thumbnail((512, 512), Image.Resampling.LANCZOS)
    style = style.copy()
    style.thumbnail((512, 512), Image.Resampling.LANCZOS)
    for name, picture in (("style", style), ("photo", photo), ("base", base(photo)), ("filter", filter(photo))):
        picture.convert("RGB").save(jpeg := io.BytesIO(), "JPEG", quality=90)
        write_bytes(folder / f"{name}.jpg", jpeg.getvalue())
