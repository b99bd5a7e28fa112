"""A run's folder as a record: what the run was, what each round and each client gave, and what continues it after a kill at any moment.

Beside what stays, a run that is under way keeps two files. `checkpoint.safetensors` is the server's state after its last round: a round
that is not in it did not happen. `rows.jsonl` has a line for each client that is done with a stage after the rounds. Both go when the run
is finished. Whatever was half done is done again, from the same inputs by the same seeds, so that a run that was killed and taken up
ends with the base and the filters of an unbroken one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from fedstyle.base import Base
from fedstyle.config import Config
from fedstyle.errors import ConfigError, OutputError
from fedstyle.files import append_json, locked, read_lines, sha256, write_bytes, write_json
from fedstyle.flower.state import ServerState
from fedstyle.hardware import describe, peak_memory
from fedstyle.picture import show

CHECKPOINT, ROWS, SUMMARY = "checkpoint.safetensors", "rows.jsonl", "summary.json"
PACKAGES = ("fedstyle", "torch", "flwr")
FREE = ("server.engine", "server.min_replies", "server.timeout", "server.workers")
"""What may differ when a run goes on: it changes how long a run takes, or whether it fails, and no number in it."""


version = functools.cache(metadata.version)
"""A package's version; a run asks after each round, and to find it out takes milliseconds."""


def versions() -> dict[str, str]:
    """What the numbers of a run depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / SUMMARY).is_file()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between nested tables, but for what is free to, as texts such as `server.rounds = 3, and was 2`."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        was, is_ = before.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            found += differences(was, is_, f"{prefix}{key}.")
        elif was != is_ and f"{prefix}{key}" not in FREE:
            found.append(f"{prefix}{key} = {is_!r}, and was {was!r}")
    return found


@dataclass
class Record:
    """The folder of a run that is under way, held by this process alone."""

    folder: Path
    config: Config
    first: str
    """The hash of the base that the run began with."""
    state: ServerState
    rounds: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The clients' lines of the summary, by partition, as far as they are done."""
    exported: set[int] = field(default_factory=set)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds by stage, of all processes that had a part in the run."""
    resumed: list[int] = field(default_factory=list)
    """The rounds after which the run was taken up again."""
    _stage: tuple[str, float] = ("", 0.0)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, config: Config, first: Base, *, resume: bool) -> Iterator[Self]:
        """Begin a run that starts from the base `first`, or take one up; nobody else can until the block ends.

        Raises OutputError for a folder that is taken, or that another process works in, and ConfigError when there is no run to take up, or
        its configuration or a version differs.
        """
        if not resume:
            write_bytes(folder / "config.toml", config.toml().encode())
        with locked(folder / "config.toml", OutputError(f"another process is at work in {show(folder)}: wait for its end, or stop it")):
            record = cls(folder, config, first.sha256, ServerState(0, first))
            if resume and (folder / CHECKPOINT).exists():
                record._take_up()
            record.state.base.save(folder / "base")
            record._save()
            yield record

    def _take_up(self) -> None:
        """Go back to where the last whole round, or the last client that was done, left the run."""
        sweep(self.folder)
        self.state, about = ServerState.load(self.folder / CHECKPOINT)
        if changed := differences(about["inputs"], self._inputs()):
            put = "Put that back, or run again into another folder"
            raise ConfigError(f"{show(self.folder)} cannot go on as it began: {'; '.join(changed)}. {put}")
        self.timings, self.resumed = about["timings"], [*about["resumed"], self.state.round]
        found = read_lines(self.folder / "history.jsonl")
        self.rounds = [line for line in found if line["round"] <= self.state.round]
        if found != self.rounds:
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.rounds)
            write_bytes(self.folder / "history.jsonl", lines.encode())
        for line in read_lines(self.folder / ROWS):
            self.rows[line["partition"]], self.timings = line["row"], line["timings"]
            if line["stage"] == "export":
                self.exported.add(line["partition"])

    def _inputs(self) -> dict[str, Any]:
        """All that the numbers of the run depend on, but for the machine."""
        known = versions()
        return {**self.config.tables(), "version": {name: known[name] for name in PACKAGES}, "base": {"sha256": self.first}}

    def _save(self) -> None:
        self.state.save(self.folder / CHECKPOINT, {"inputs": self._inputs(), "timings": self.spent(), "resumed": self.resumed})

    @contextlib.contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Count the time of the block to a stage."""
        self._stage = (stage, time.monotonic())
        try:
            yield
        finally:
            self.timings, self._stage = self.spent(), ("", 0.0)

    def spent(self) -> dict[str, float]:
        """The seconds of each stage until now."""
        stage, since = self._stage
        now = {stage: round(self.timings.get(stage, 0.0) + time.monotonic() - since, 3)} if stage else {}
        return {**self.timings, **now}

    def add_round(self, line: dict[str, Any], state: ServerState) -> None:
        """Keep a round that is over: its line of the history first, for the checkpoint says that it happened."""
        self.rounds.append(line)
        append_json(self.folder / "history.jsonl", line)
        state.base.save(self.folder / "base")
        self.keep(state)

    def keep(self, state: ServerState) -> None:
        """Keep a state that the run goes on from: that of a round, or one in which a private round is paid for and not yet released."""
        self.state = state
        self._save()

    def add_row(self, stage: str, partition: int, row: dict[str, Any]) -> None:
        """Keep what a client made in a stage after the rounds; with an error it is tried again when the run is taken up."""
        self.rows[partition] = row
        if not row["error"]:
            append_json(self.folder / ROWS, {"stage": stage, "partition": partition, "row": row, "timings": self.spent()})

    def finish(self, count: int, skipped: Mapping[str, int]) -> dict[str, Any]:
        """Write the summary of a run of so many clients, and give it."""
        rows = [self.rows[partition] for partition in sorted(self.rows)]
        more: dict[str, Any] = {"photos_skipped": dict(skipped), "first_base_sha256": self.first, "resumed_after_rounds": self.resumed}
        return write_summary(self.folder, self.config, self.state, count, self.rounds, rows, self.timings, **more)


def write_summary(
    folder: Path,
    config: Config,
    state: ServerState,
    count: int,
    rounds: Iterable[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    timings: Mapping[str, float],
    *,
    network: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Write summary.json, which makes a run of `count` clients a finished one, and give it: one form, whichever engine it ran on.

    `rounds` are the lines of its history, `rows` those of its clients, `timings` the seconds of each stage, and `more` goes in as it is.
    `network` is a run over one, whose secure sums are signed, so that they hold against more.
    """
    from fedstyle.flower.engine import privacy_statement  # flwr is an extra, and there: the run is over

    lines = list(rounds)
    summary = {
        "format": "fedstyle-run-1",
        "rounds": state.round,
        "engine": "deployment" if network else config.server.engine,
        "strategy": config.server.strategy,
        "method": str(config.method["name"]).rsplit("/", 1)[-1],  # of a user's own file its name, not its place
        "arch": config.net.arch,
        "features": config.loss.features,
        "privacy": privacy_statement(config, count, state, signed=network),
        "seconds": round(sum(timings.values()), 2),
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "seed": config.training.seed,
        "base_sha256": state.base.sha256,
        "config_sha256": sha256(folder / "config.toml"),
        "versions": versions(),
        "hardware": describe() | {"peak_memory_mb": round(peak / 1e6) if (peak := peak_memory()) else None},
        "timings": {stage: round(seconds, 2) for stage, seconds in timings.items()},
        **more,
        "clients": list(rows),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise OutputError where a new run would overwrite something, and ConfigError where there is no run to take up."""
    if resume and not (folder / "config.toml").is_file():
        raise ConfigError(f"{show(folder)} holds no run to take up: give the --out folder of fedstyle simulate")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{show(folder)} exists and is not empty: a run is never overwritten; choose another folder for --out")


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for left in [*folder.rglob(".*.part"), *folder.rglob(".*.old")]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in (CHECKPOINT, ROWS):
        (folder / name).unlink(missing_ok=True)
