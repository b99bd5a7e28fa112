"""A run's numbers for TensorBoard: event files in RUN/tensorboard, written with the package `tensorboard` alone.

They hold numbers by round and nothing else: no name of a client, photo, style, machine or user. TensorBoard's own writer would put the
machine's name into the file's.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedstyle.errors import ConfigError

Tell = Callable[[int, Mapping[str, float | None]], None]
"""Called with a round and numbers by name; None is left out."""
FOLDER = "tensorboard"
PERSONAL = ("mean", "std", "worst_decile", "unseen_mean", "worse_off", "base_mean")
"""What is told of the clients' filters at the end, by the keys of a row of `report.comparison`."""


def check_tensorboard() -> None:
    """Raise ConfigError unless TensorBoard is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("event files need tensorboard, which is not installed: pip install 'fedstyle[tensorboard]'")


def of_round(line: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a line of a run's history."""
    losses = {f"loss/{part}": value for part, value in (line["loss"] or {}).items()}
    clients = {"clients/replied": line["replied"], "clients/failed": len(line["failures"])}
    return {**losses, **clients, "bytes/up": line["bytes_up"], "bytes/down": line["bytes_down"], "seconds/round": line["seconds"]}


@contextlib.contextmanager
def event_file(folder: Path, resumed: Sequence[int]) -> Iterator[Tell]:
    """Write an event file of a process that takes a run up after the last of the rounds `resumed`, or begins it where there are none.

    TensorBoard drops what an earlier process told of later rounds.
    """
    protos = importlib.import_module("tensorboard.compat.proto.event_pb2")
    values = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    writer = importlib.import_module("tensorboard.summary.writer.record_writer")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"events.out.tfevents.{len(resumed):010d}.fedstyle", "wb") as file:
        records = writer.RecordWriter(file)

        def write(**facts: Any) -> None:
            records.write(protos.Event(wall_time=time.time(), **facts).SerializeToString())
            records.flush()

        def tell(step: int, numbers: Mapping[str, float | None]) -> None:
            found = [values.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items() if value is not None]
            write(step=step, summary=values.Summary(value=found))

        write(file_version="brain.Event:2")
        if resumed:
            write(step=resumed[-1] + 1, session_log=protos.SessionLog(status=protos.SessionLog.START))
        yield tell
