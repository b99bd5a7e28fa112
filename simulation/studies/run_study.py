"""Runs a study: every cell of a grid of settings on the same populations, over seeds, and what the field reports of it.

    python simulation/studies/run_study.py simulation/personalization --photos DIR --styles DIR --out runs/personalization

A study is a folder with study.toml: seeds, cells, where filters are judged, and the configuration that all cells start from. A run that
was interrupted goes on, and finished cells are not run again, nor with `--finished` those of another study; `--part 1/2` and
`--part 2/2` fill two cores. Tables, plots and the contact sheet are made of what is there: rows.csv, table.md, table.tex, curves.png,
cost.png, sheet.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fedstyle import Config, simulate
from fedstyle.config import Loss
from fedstyle.errors import ConfigError, FedstyleError
from fedstyle.files import staged, write_json
from fedstyle.population import Clients, first_base
from fedstyle.tables import need


@dataclass(frozen=True)
class Study:
    """What study.toml says."""

    seeds: tuple[int, ...]
    curve: tuple[int, ...]
    """Local iterations after which the filters of unseen clients are judged."""
    baseline: str
    """The cell that others are paired with."""
    cells: dict[str, tuple[str, ...]]
    """The settings of each cell, as `fedstyle simulate --set` takes them."""
    population: str = "population.toml"
    """The configuration that all cells start from, beside study.toml."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file; raises ConfigError for one that is no study."""
        try:
            found = tomllib.loads(path.read_text())
            cells = {name: tuple(settings) for name, settings in found["cells"].items()}
            study = cls(tuple(found["seeds"]), tuple(found["curve"]), found["baseline"], cells, found.get("population", "population.toml"))
        except (OSError, KeyError, TypeError, AttributeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path} is no study ({error}): it has seeds, curve, baseline and a table [cells]") from None
        need(study.baseline in cells, f"{path}: baseline", study.baseline, "name one of the cells")
        need(list(study.curve) == sorted(set(study.curve)), f"{path}: curve", study.curve, "give numbers of iterations that grow")
        return study


def run_cell(config: Config, folder: Path, curve: tuple[int, ...], judge: Loss | None) -> None:
    """Finish one run, and judge the filters of clients that it never asked; in a process of its own, for its peak of memory."""
    resumes, begun = (folder / "config.toml").exists(), time.process_time()
    simulate(config, folder, resume=resumes)
    if not (folder / "cost.json").exists():
        write_json(folder / "cost.json", {"cpu_seconds": None if resumes else time.process_time() - begun})
    write_json(folder / "judged.json", judged(config, folder, curve, judge))


def take_finished(config: Config, folder: Path, others: Path) -> None:
    """Copy a run of the very same configuration that another study finished, if there is one; it is judged anew."""
    for cost in sorted(others.glob(f"*/{config.training.seed}/cost.json")):
        if Config.load(cost.with_name("config.toml")) == config:
            with staged(folder) as copy:
                shutil.copytree(cost.parent, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("judged.json"))
            return


def judged(config: Config, folder: Path, curve: tuple[int, ...], judge: Loss | None) -> dict[str, Any]:
    """By client: the total loss of the shared base, and of the client's filter, on its held-out photos, by the judge.

    Unseen clients' filters are judged at every number of iterations of the curve; the others' at the end of the run alone.
    """
    from fedstyle import Base, Filter

    base, clients = Base.load(folder / "base"), Clients(config, folder)
    found = {}
    for partition, device in enumerate(clients.population.devices):
        client = clients(partition)
        watcher = dataclasses.replace(client, home=None, loss=judge or client.loss)
        photos = device.heldout if len(device.heldout) else device.photos
        row = {"role": str(device.role), "style": device.style_name, "base": watcher.evaluate(base, photos)["total"]}
        row["filter"] = watcher.evaluate(Filter.load(folder / "clients" / device.id / "filter"), photos)["total"]
        if device.role == "unseen":
            with tempfile.TemporaryDirectory() as session:  # each point goes on from the one before
                filters = [client.personalize(base, iterations=point, full=config.export.full, session=session).result() for point in curve]
            row["curve"] = [watcher.evaluate(filter, photos)["total"] for filter in filters]
        found[device.id] = row
    return found


def main() -> int:
    """Read the command line, run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a folder with study.toml and population.toml")
    parser.add_argument("--photos", required=True, help="a folder of photos, divided among the clients")
    parser.add_argument("--styles", required=True, help="a folder of style images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, help="the first so many seeds")
    parser.add_argument("--only", default="", metavar="CELL,CELL")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th cell only, from the K-th on")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for all cells, such as a smaller net")
    parser.add_argument("--judge", default="", help="a feature network that judges all cells: vgg19, or tiny")
    parser.add_argument("--judge-weights", default="", metavar="FILE")
    parser.add_argument(
        "--finished", type=Path, metavar="OUT", help="another study's --out: runs that are this one's too are not run again"
    )
    parser.add_argument("--report-only", action="store_true", help="write the results of what is there")
    options = parser.parse_args()
    try:
        return run(options)
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Run what is missing, seed by seed, so that an early stop leaves whole comparisons."""
    from outcomes import write_outcomes

    study = Study.load(options.study / "study.toml")
    judge = Loss(features=options.judge, weights=options.judge_weights) if options.judge else None
    seeds = study.seeds[: options.seeds]
    names = [name for name in study.cells if name in options.only.split(",") or not options.only]
    data = [f"data.photos={Path(options.photos).absolute()}", f"data.styles={Path(options.styles).absolute()}"]
    wanted = [(seed, name) for seed in seeds for name in names]
    first, count = map(int, options.part.split("/"))
    failed = 0
    for seed, name in [] if options.report_only else wanted[first - 1 :: count]:
        folder = options.out / name / f"{seed}"
        if (folder / "judged.json").exists():
            continue
        overrides = [*data, *study.cells[name], *options.set, f"training.seed={seed}"]
        config = Config.load(options.study / study.population, overrides)
        first_base(config)  # what is wrong with a cell is said here, in one line
        if options.finished and not folder.exists():
            take_finished(config, folder, options.finished)
        child = multiprocessing.get_context("spawn").Process(target=run_cell, args=(config, folder, study.curve, judge))
        child.start()
        child.join()
        failed += child.exitcode != 0
        print(f"{name}, seed {seed}: " + (f"failed with {child.exitcode}" if child.exitcode else _told(folder)), flush=True)
    write_outcomes(options.out, study, seeds)
    return 1 if failed else 0


def _told(folder: Path) -> str:
    rows = json.loads((folder / "judged.json").read_text()).values()
    seen = [row["filter"] for row in rows if row["role"] != "unseen"]
    return f"mean loss of {len(seen)} clients' filters {sum(seen) / len(seen):.3f}"


if __name__ == "__main__":
    sys.exit(main())
