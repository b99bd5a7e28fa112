"""What malicious clients do to a base and to the filters made from it, by strategy, with and without a bound; and rounds against the clock.

    python simulation/robustness/robustness.py --photos DIR --styles DIR --out runs/robustness

A run that was interrupted goes on: what stands in rows.jsonl is not run again. It writes table.md and sheet.jpg of what is there.
"""

from __future__ import annotations

import argparse
import gc
import io
import math
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "studies"))

import attacks  # noqa: E402
import deadlines  # noqa: E402
import people  # noqa: E402
from PIL import Image  # noqa: E402

from fedstyle import Base, Config  # noqa: E402
from fedstyle.errors import FederationError, FedstyleError  # noqa: E402
from fedstyle.files import append_json, read_lines, write_bytes  # noqa: E402
from fedstyle.flower.engine import Round, run_federation  # noqa: E402
from fedstyle.population import Clients, first_base  # noqa: E402

TAKE_PART, LIARS = 10, (7, 8, 9)
"""Clients of every round, and those of them who are malicious in attacked runs: 30 %."""
RARE = (0, 1)
"""Of those who take part, the users of a minority style."""
UNSEEN = ("major", "major", "minor", "minor")
"""Those who never take part, and judge."""
BOUND = 1.5
"""The norm over which a server with a bound drops an update, about twice the median of honest ones in the first round."""
LIMIT = 1.10
"""The loss against the clean run's that is still within the aim."""
F = len(LIARS)
STRATEGIES = {
    "FedAvg": {},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": F / TAKE_PART},
    "MultiKrum": {"num_malicious_nodes": F, "num_nodes_to_select": TAKE_PART - F},
    "Bulyan": {"num_malicious_nodes": (TAKE_PART - 3) // 4},  # it withstands fewer than a quarter, whatever the cohort
}


@dataclass(frozen=True)
class Cell:
    """One run: a strategy, an attack, and what becomes of long updates: nothing, `bound` drops, `level` shortens them to the median."""

    strategy: str
    attack: str
    limit: str = ""

    @property
    def name(self) -> str:
        """For tables and folders."""
        return "-".join(filter(None, (self.strategy, self.attack, self.limit)))

    def settings(self) -> list[str]:
        """As `fedstyle simulate --set` takes them."""
        options = ", ".join(f"{key} = {value}" for key, value in STRATEGIES[self.strategy].items())
        limit = {"": [], "bound": [f"server.bound={BOUND}", "server.min_replies=0.5"], "level": ["server.level=true"]}[self.limit]
        return [f"server.strategy='{self.strategy}'", f"server.options={{{options}}}", *limit]


def cells() -> list[Cell]:
    """All of them, what tells most first. Poison is for servers with a limit: without one, louder attacks do more."""
    passes = [[("poison", "level")], [("none", "")], [("flip", "level"), ("sybil", "level")], [("flip", ""), ("sybil", "")]]
    average = [Cell("FedAvg", *kind) for kind in (("none", ""), ("flip", ""), ("flip", "level"), ("poison", "level"), ("sybil", "level"))]
    others = [Cell(strategy, *kind) for kinds in passes for strategy in STRATEGIES for kind in kinds]
    ends = [("none", "level"), ("flip", "bound"), ("poison", "bound")]
    return list(dict.fromkeys([*average, *others, *(Cell("FedAvg", *kind) for kind in ends)]))


def population(options: argparse.Namespace, seed: int) -> tuple[list[str], Path]:
    """The style of each user, and the one that Sybils push; which styles of the majority take part follows from the seed."""
    major, minor = (people.family(options.styles, words) for words in (options.majority, options.minority))
    foreign = people.family(options.styles, options.foreign)[0]
    order = np.random.default_rng(seed).permutation(len(major))
    common = people.drawn([major[place] for place in order], TAKE_PART + len(UNSEEN))
    rare = people.drawn(minor[seed % len(minor) :] + minor[: seed % len(minor)], len(RARE) + len(UNSEEN))
    chosen = [rare.pop(0) if user in RARE else common.pop(0) for user in range(TAKE_PART)]
    chosen += [(rare if kind == "minor" else common).pop(0) for kind in UNSEEN]
    return [str(path.absolute()) for path in chosen], foreign


def load(options: argparse.Namespace, seed: int, settings: Sequence[str] = ()) -> tuple[Config, Path]:
    """The configuration of a run of this seed, and the Sybils' style."""
    chosen, foreign = population(options, seed)
    data = [f"data.photos={str(options.photos.absolute())!r}", f"data.styles={chosen!r}", f"training.seed={seed}"]
    return Config.load(HERE / "federation.toml", [*data, *settings, *options.set]), foreign


def run_cell(cell: Cell, config: Config, base: Base, foreign: Path, jury: list[people.Person], out: Path) -> dict[str, Any]:
    """Train and judge: one line of rows.jsonl."""
    shutil.rmtree(out, ignore_errors=True)  # of a process that was killed within this cell
    clients, dropped, started = Clients(config, out), Counter[str](), time.process_time()
    crowd = attacks.Crowd(clients, cell.attack, LIARS, config.server.bound, foreign)

    def on_round(now: Round) -> None:
        dropped.update(now.failures.values())

    row: dict[str, Any] = {"cell": cell.name, "seed": config.training.seed, "base": base.sha256[:12]}
    users = {}
    try:
        last = run_federation(config, base, crowd, TAKE_PART, on_round=on_round)  # type: ignore[arg-type]
        for person in jury:
            number, seen = int(person.id), int(person.id) < TAKE_PART
            found, filter = person.judge(last, clients.home(number) if seen else None)
            if not all(math.isfinite(loss) for judged in found.values() for loss in judged.values()):
                raise FederationError("the losses are not finite")
            users[person.id] = {"style": person.style, "rare": is_rare(number), "seen": seen, **found}
            if not seen:
                filter(person.view).save(made := io.BytesIO(), "PNG")
                write_bytes(out.parent / "pictures" / f"{cell.name}-{config.training.seed}-{person.id}.png", made.getvalue())
    except FedstyleError as error:  # a base that no filter comes of is a result, too
        return row | {"failed": str(error), "dropped": dict(dropped)}
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return row | {"users": users, "dropped": dict(dropped), "seconds": round(time.process_time() - started, 1)}


def is_rare(partition: int) -> bool:
    """Whether this user has a minority style."""
    return partition in RARE if partition < TAKE_PART else UNSEEN[partition - TAKE_PART] == "minor"


def judge_start(jury: list[people.Person], base: Base, seed: int) -> dict[str, Any]:
    """The base before any round, as a row of its own."""
    strangers = [one for one in jury if int(one.id) >= TAKE_PART]
    users = {one.id: {"style": one.style, "rare": is_rare(int(one.id)), "seen": False, **one.judge(base)[0]} for one in strangers}
    return {"cell": "start", "seed": seed, "base": base.sha256[:12], "users": users, "dropped": {}}


def compare(row: dict[str, Any], clean: dict[str, Any], judge: str) -> tuple[float, float, float]:
    """Against a clean run of the same seed: the unseen users' mean loss of the base, of the filters, and the worst rare user's filter."""
    both = [(row["users"][user], clean["users"][user]) for user in row["users"] if user in clean["users"]]
    ratios = []
    for kind in ("base", "filter"):
        mine, theirs = ([pair[k] for pair in both if not pair[0]["seen"]] for k in (0, 1))
        ratios.append(people.mean(mine, judge, kind) / people.mean(theirs, judge, kind))
    return ratios[0], ratios[1], max(one[judge]["filter"] / other[judge]["filter"] for one, other in both if one["rare"])


def table(rows: list[dict[str, Any]], judge: str) -> str:
    """A line a cell: ratios to the clean FedAvg of the same seed, means over seeds, and the worst rare user of all."""
    clean = {row["seed"]: row for row in rows if row["cell"] == "FedAvg-none" and "users" in row}
    names = list(dict.fromkeys(["start", *(cell.name for cell in cells())]))
    lines = [
        "| strategy, attack | seeds | base | filters | worst rare user | replies dropped | within 10 % |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in names:
        mine = [row for row in rows if row["cell"] == name and row["seed"] in clean]
        if not mine:
            continue
        if any("failed" in row for row in mine):
            lines.append(f"| {name} | {len(mine)} | – | – | – | – | no: {mine[0].get('failed', '')} |")
            continue
        found = [compare(row, clean[row["seed"]], judge) for row in mine]
        base, filters, worst = statistics.fmean(r[0] for r in found), statistics.fmean(r[1] for r in found), max(r[2] for r in found)
        dropped = sum(sum(row["dropped"].values()) for row in mine) / len(mine)
        missed = [what for what, ratio in (("base", base), ("filters", filters), ("rare", worst)) if ratio > LIMIT]
        verdict = "yes" if not missed else f"no: {', '.join(missed)}"
        lines.append(f"| {name} | {len(mine)} | {base:.2f} | {filters:.2f} | {worst:.2f} | {dropped:.0f} | {verdict} |")
    return "\n".join(lines) + "\n"


def clock(rows: list[dict[str, Any]]) -> str:
    """The rounds against their deadlines; the processor's seconds are those of all clients and the server."""
    head = ["strategy", "clients", "deadline, s", "rounds, s", "processor, s a round", "replies a round", "failures"]
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---:|---:|---:|---|"]
    for row in rows:
        codes = ", ".join(f"{code} {count}" for code, count in sorted(row["failures"].items()))
        told = [f"{row['clients']}", f"{row['deadline']:g}", f"{min(row['seconds']):.2f} to {max(row['seconds']):.2f}"]
        told += [f"{statistics.fmean(row['cpu']):.2f}", f"{min(row['replied'])} to {max(row['replied'])}", codes]
        lines.append(f"| {row['strategy']} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def pictures(out: Path, seed: int) -> None:
    """The first seed's unseen users, a column each."""
    users = [f"{TAKE_PART + place:03d}" for place in range(len(UNSEEN))]
    lines = {}
    for name in ("photo", "style", *(cell.name for cell in cells())):
        files = [out / "pictures" / f"{name}-{seed}-{user}.png" for user in users]
        if all(file.exists() for file in files):
            lines[name] = [Image.open(file) for file in files]
    if lines:
        people.sheet(out / "sheet.jpg", list(UNSEEN), lines)


def keep_originals(out: Path, jury: list[people.Person], seed: int) -> None:
    """Each unseen user's photo and style, for the sheet."""
    for person in jury:
        for name, picture in (("photo", person.view), ("style", person.client.look.image)):
            picture.convert("RGB").save(made := io.BytesIO(), "PNG")
            write_bytes(out / "pictures" / f"{name}-{seed}-{person.id}.png", made.getvalue())


def study(options: argparse.Namespace) -> None:
    """Run what is missing, seed by seed."""
    rows = options.out / "rows.jsonl"
    for seed in range(1, options.seeds + 1):
        done = {(row["cell"], row["seed"]) for row in read_lines(rows)}
        wanted = [cell for cell in cells() if (cell.name, seed) not in done and (not options.only or cell.name in options.only.split(","))]
        if not wanted:
            continue
        config, foreign = load(options, seed)
        clients, base = Clients(config, options.out / "jury"), first_base(config)
        judges = people.wishes(options.judge, options.judge_weights, config)
        jury = []
        for user in (RARE[0], *range(TAKE_PART, TAKE_PART + len(UNSEEN))):
            device = clients.population.devices[user]
            jury.append(people.Person.make(device.id, device.style_name, clients(user), device.heldout, judges))
        keep_originals(options.out, jury, seed)
        if ("start", seed) not in done:
            append_json(rows, judge_start(jury, base, seed))
        for cell in wanted:
            config, _ = load(options, seed, cell.settings())
            row = run_cell(cell, config, base, foreign, jury, options.out / "run")
            append_json(rows, row)
            print(f"{cell.name}, seed {seed}: " + row.get("failed", f"{row.get('seconds')} s, dropped {row['dropped']}"), flush=True)


def race(options: argparse.Namespace) -> None:
    """Measure the rounds of each strategy against the deadline."""
    path = options.out / "deadlines.jsonl"
    done = {row["strategy"] for row in read_lines(path)}
    config, _ = load(options, 1)
    for strategy in [name for name in STRATEGIES if name not in done]:
        settings = [f"server.strategy='{strategy}'", "server.min_replies=0.4", f"server.timeout={options.deadline}", "server.workers=64"]
        config, _ = load(options, 1, [*settings, f"server.rounds={options.deadline_rounds}"])
        append_json(path, deadlines.measure(config, first_base(config), options.out / "run", options.deadline_clients))
        shutil.rmtree(options.out / "run", ignore_errors=True)


def main() -> int:
    """Read the command line, run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos, divided among the users")
    parser.add_argument("--styles", type=Path, required=True, help="a folder of style images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--majority", default="museum", help="beginnings of the names of the majority's styles")
    parser.add_argument("--minority", default="texture,mondrian", help="and of the minority's")
    parser.add_argument("--foreign", default="picabia", help="and of the one that Sybils push")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", metavar="CELL,CELL")
    parser.add_argument("--judge", default="", help="a feature network that judges beside tiny: vgg19")
    parser.add_argument("--judge-weights", default="", metavar="FILE")
    parser.add_argument("--deadline", type=float, default=3.0, help="seconds of a round; 0 measures no deadlines")
    parser.add_argument("--deadline-clients", type=int, default=20)
    parser.add_argument("--deadline-rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for all cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # Flower collects garbage for each reply that Krum and Bulyan read, over all that was imported
    try:
        if options.deadline:
            race(options)
        study(options)
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        rows, timed = read_lines(options.out / "rows.jsonl"), read_lines(options.out / "deadlines.jsonl")
        text = [f"Judged by {judge}\n\n{table(rows, judge)}" for judge in ("tiny", options.judge) if judge and rows]
        if text or timed:
            write_bytes(options.out / "table.md", "\n".join([*text, clock(timed)]).encode())
            pictures(options.out, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
