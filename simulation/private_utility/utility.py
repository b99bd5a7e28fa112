"""What user-level differential privacy costs: held-out personalised loss against epsilon, by the size of a cohort.

    python simulation/private_utility/utility.py --photos DIR --styles DIR --out runs/private_utility

Cohorts of 20 and 100 are run as they are. Those of 1,000 and 10,000 are cohorts of 20 into whose mean the noise of the large cohort's mean
is put. A run that was interrupted goes on: what stands in rows.jsonl is not run again. It writes table.md, epsilon.png and sheet.jpg.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "studies"))

import people  # noqa: E402
from PIL import Image  # noqa: E402

from fedstyle import Base, Client, Config, Photos, Style  # noqa: E402
from fedstyle.config import Loss  # noqa: E402
from fedstyle.errors import FederationError, FedstyleError  # noqa: E402
from fedstyle.files import append_json, read_lines, write_bytes  # noqa: E402
from fedstyle.flower.engine import Round, run_federation  # noqa: E402
from fedstyle.methods import make_method  # noqa: E402
from fedstyle.population import first_base  # noqa: E402
from fedstyle.privacy.accounting import delta_for, epsilon, target_noise  # noqa: E402
from fedstyle.privacy.sampling import Poisson  # noqa: E402
from fedstyle.training import derive  # noqa: E402

RATE = 0.05
"""The chance of a user to be drawn for a round; a population is 20 times its expected cohort."""
CLIP, SHORT, FEW = 1.0, 0.25, 0.15
"""The norm to which a client's whole update is clipped, under the median; a shorter one to compare with; and that where few are shared."""
RUN, LARGER = (20, 100), (1000, 10_000)
"""Cohorts that are run, and those whose noise is put into a run of the least; `--quick` moves 100 to these."""
EPSILONS, TICKS = (1, 2, 4, 8), (0.9, 1, 1.1, 1.2, 1.5, 2, 3)
PHOTOS = 6
"""Photos of a user, drawn for each from all that nobody is judged on: simulated users share photos."""
UNSEEN = 4
"""Users with styles of their own who judge and never take part."""


@dataclass(frozen=True)
class Cell:
    """One run: the expected cohort, the epsilon that its population is promised, and whether it shares few numbers."""

    cohort: int
    epsilon: float
    """Infinite where nothing is promised."""
    clip: float = CLIP
    few: bool = False

    @property
    def name(self) -> str:
        """For tables and files."""
        promise = f"epsilon {self.epsilon:g}" if self.epsilon < np.inf else "no noise" if self.clip else "no clipping"
        clip = f", clip {self.clip:g}" if self.clip == SHORT else ""
        return f"{'few, ' if self.few else ''}cohort {self.cohort}, {promise}{clip}"

    @property
    def simulated(self) -> int:
        """The expected cohort that trains."""
        return self.cohort if self.cohort in RUN else RUN[0]

    def noise(self, rounds: int) -> float:
        """The noise multiplier of the promise, or 0; by RDP, one user more or less, Poisson sampling."""
        if self.epsilon == np.inf:
            return 0.0
        population = round(self.cohort / RATE)
        return target_noise(self.epsilon, Poisson(population, RATE), rounds, delta_for(population))

    def settings(self, rounds: int) -> list[str]:
        """As `fedstyle simulate --set` takes them. Noise of multiplier z on the mean of M is that of z m / M on the mean of m."""
        noise = self.noise(rounds) * self.simulated / self.cohort
        private = ["privacy.reproducible=true", f"privacy.noise={noise}"] if noise else []
        method = [f"method.name='{HERE / 'few.py'}:Few'"] if self.few else []
        return [f"server.cohort={self.simulated}", f"privacy.clip={self.clip}", *private, *method]


def cells() -> list[Cell]:
    """All of them, what is told most by first."""
    least, sizes = RUN[0], (RUN[0], *LARGER, *RUN[1:])  # large cohorts that are run take longest
    made = [Cell(least, np.inf, 0.0), Cell(least, np.inf), *(Cell(size, 4) for size in sizes)]
    made += [Cell(size, promise) for promise in (1, 8, 2) for size in sizes]
    made += [Cell(LARGER[-2], 4, SHORT), Cell(least, np.inf, FEW, True), *(Cell(size, 4, FEW, True) for size in (least, *LARGER))]
    return [*made, *(Cell(size, np.inf) for size in RUN[1:])]


@dataclass
class Passers:
    """Clients who keep nothing between rounds, as in a large population; it stands where `population.Clients` stands."""

    config: Config
    out: Path
    photos: Photos
    styles: Sequence[Path]

    def home(self, partition: int) -> Path:  # noqa: ARG002
        """One folder for the ledgers of all."""
        return self.out / "devices"

    def __call__(self, partition: int) -> Client:
        """The client: its photos and crops follow from its number and the run's seed."""
        training = self.config.training
        chosen = np.random.default_rng(derive(training.seed, "photos", partition)).choice(len(self.photos), PHOTOS, replace=False)
        style = Style(self.styles[partition % len(self.styles)], strength=self.config.loss.strength, density=self.config.loss.density)
        own = dataclasses.replace(training, seed=derive(training.seed, "client", partition), warmup=0)  # there is no time for it in a round
        made = {"method": make_method(self.config.method), "privacy": self.config.privacy, "loss": self.config.loss, "training": own}
        return Client(None, self.photos.subset(sorted(chosen.tolist())), style, **made)


@dataclass(frozen=True)
class World:
    """What all runs of a seed share."""

    photos: Photos
    styles: Sequence[Path]
    jury: Sequence[people.Person]

    @classmethod
    def open(cls, options: argparse.Namespace, config: Config, judges: dict[str, Loss]) -> World:
        """Divide photos into those to train on and to judge on, and styles into those of users and of judges, by the seed."""
        whole, styles = Photos.open(options.photos).checked(), people.family(options.styles, options.families)
        rng = np.random.default_rng(derive(config.training.seed, "world"))
        order, looks = rng.permutation(len(whole)).tolist(), [styles[place] for place in rng.permutation(len(styles))]
        held, rest = order[: config.data.holdout], order[config.data.holdout :]
        photos = whole.subset(rest)
        passers = Passers(config, options.out, photos, looks[:UNSEEN])
        jury = []
        for user in range(UNSEEN):
            one = passers(user)
            one = dataclasses.replace(one, training=dataclasses.replace(one.training, warmup=config.training.warmup))
            jury.append(people.Person.make(f"{user:03d}", looks[user].stem, one, whole.subset(held), judges))
        return cls(photos, looks[UNSEEN:] or looks, jury)


def load(options: argparse.Namespace, seed: int, settings: Sequence[str] = ()) -> Config:
    """The configuration of a run of this seed."""
    return Config.load(HERE / "federation.toml", [f"training.seed={seed}", *settings, *options.set])


def run_cell(cell: Cell, config: Config, base: Base, world: World, out: Path) -> dict[str, Any]:
    """Train and judge: one line of rows.jsonl."""
    shutil.rmtree(out / "run", ignore_errors=True)
    sizes: list[int] = []
    started, rounds = time.process_time(), config.server.rounds
    passers, count = Passers(config, out / "run", world.photos, world.styles), round(cell.simulated / RATE)

    def on_round(now: Round) -> None:
        sizes.append(len(now.replied))

    row: dict[str, Any] = {
        "cell": cell.name,
        "seed": config.training.seed,
        "base": base.sha256[:12],
        "cohort": cell.cohort,
        "few": cell.few,
    }
    population, noise = round(cell.cohort / RATE), cell.noise(rounds)
    row |= {"population": population, "noise": noise, "clip": cell.clip, "rounds": rounds}
    if noise:
        delta, sampler = delta_for(population), Poisson(population, RATE)
        row |= {"delta": delta} | {name: epsilon(noise, sampler, rounds, delta, accountant=name) for name in ("rdp", "pld")}
    try:
        last = run_federation(config, base, passers, count, on_round=on_round)  # type: ignore[arg-type]
    except FederationError as error:
        return row | {"failed": str(error)}
    finally:
        shutil.rmtree(out / "run", ignore_errors=True)
    numbers = sum(value.numel() for name, value in base.weights.items() if make_method(config.method).shares(name))
    return row | {"numbers": numbers, "users": judge(world, last, out, cell.name), "sizes": sizes, "seconds": time.process_time() - started}


def judge(world: World, base: Base, out: Path, name: str) -> dict[str, Any]:
    """What each unseen user makes of a base, and a picture each."""
    users = {}
    for person in world.jury:
        users[person.id], filter = person.judge(base)
        seed = person.client.plan.seed
        for label, picture in ((name, filter(person.view)), ("style", person.client.look.image), ("photo", person.view)):
            picture.convert("RGB").save(made := io.BytesIO(), "PNG")
            write_bytes(out / "pictures" / f"{label}-{person.id}-{seed}.png", made.getvalue())
    return users


def change(row: dict[str, Any], start: dict[str, Any], judge: str, kind: str) -> float:
    """The unseen users' mean loss of the base, or of their filters, against that from the shipped base alone, of the same seed."""
    return people.mean(list(row["users"].values()), judge, kind) / people.mean(list(start["users"].values()), judge, kind)


def outcomes(rows: list[dict[str, Any]], judge: str, kind: str = "filter") -> list[tuple[dict[str, Any], list[float]]]:
    """Each cell's first row, and its changes over seeds."""
    starts, found = {row["seed"]: row for row in rows if row["cell"] == "start"}, dict[str, tuple[dict[str, Any], list[float]]]()
    for row in rows:
        if row["cell"] != "start" and "users" in row and row["seed"] in starts:
            found.setdefault(row["cell"], (row, []))[1].append(change(row, starts[row["seed"]], judge, kind))
    return list(found.values())


def table(rows: list[dict[str, Any]], judges: Sequence[str]) -> str:
    """A line a cell."""
    places = [(kind, judge) for kind in ("filter", "base") for judge in judges]
    head = [
        "shares",
        "cohort",
        "users",
        "clip",
        "delta",
        "noise",
        "epsilon, RDP",
        "epsilon, PLD",
        "seeds",
        *(f"{kind}, {judge}" for kind, judge in places),
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    changes = {place: {row["cell"]: values for row, values in outcomes(rows, place[1], place[0])} for place in places}
    for row, values in sorted(outcomes(rows, judges[0]), key=lambda one: (one[0]["few"], one[0]["cohort"], one[0].get("rdp", np.inf))):
        promise = [f"{row['delta']:.1e}", f"{row['noise']:.3f}", f"{row['rdp']:.2f}", f"{row['pld']:.2f}"] if row["noise"] else ["–"] * 4
        if not row["noise"]:
            promise[2] = "none"
        told = [f"{statistics.fmean(changes[place][row['cell']]):.2f}" for place in places]
        cells = [
            f"{row['numbers']:,}",
            f"{row['cohort']:,}",
            f"{row['population']:,}",
            f"{row['clip'] or '–'}",
            *promise,
            f"{len(values)}",
            *told,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[dict[str, Any]], judge: str) -> None:
    """Loss against epsilon, a line a cohort."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    found = outcomes(rows, judge)
    for colour, cohort in zip(("#D55E00", "#E69F00", "#0072B2", "#009E73"), (*RUN, *LARGER), strict=True):
        for few, marker in ((False, "o-"), (True, "^:")):
            points = sorted((row["rdp"], statistics.fmean(values)) for row, values in found
                            if (row["cohort"], row["few"]) == (cohort, few) and row["clip"] != SHORT and row["noise"])  # fmt: skip
            if points:
                how = ", 2 % of the numbers" if few else "" if cohort in RUN else ", extrapolated"
                axes.plot(*zip(*points, strict=True), marker, color=colour, label=f"cohort {cohort:,}{how}")
    for row, values in found:
        if not row["noise"] and row["cohort"] == RUN[0] and not row["few"]:
            label = "no noise" if row["clip"] else "no noise, no clipping"
            axes.axhline(statistics.fmean(values), linestyle="--" if row["clip"] else ":", color="#000000", linewidth=1, label=label)
    axes.axhline(1.0, color="#999999", linewidth=1, label="the shipped base, no federation")
    axes.set(xscale="log", yscale="log", xlabel="epsilon (RDP)", ylabel=f"unseen users' loss over that without rounds ({judge})")
    axes.set_xticks(EPSILONS, [f"{value:g}" for value in EPSILONS])
    axes.minorticks_off()
    axes.set_yticks(TICKS, [f"{value:g}" for value in TICKS])
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(made := io.BytesIO(), format="png")
    write_bytes(path, made.getvalue())


def pictures(options: argparse.Namespace) -> None:
    """The first seed's unseen users, a column each."""
    folder, lines = options.out / "pictures", {}
    for name in ("photo", "style", "start", *(cell.name for cell in cells())):
        files = [sorted(folder.glob(f"{name}-{user:03d}-*.png"))[:1] for user in range(UNSEEN)]
        if all(files):
            lines[name] = [Image.open(file[0]) for file in files]
    if lines:
        people.sheet(options.out / "sheet.jpg", [""] * UNSEEN, lines)


def study(options: argparse.Namespace) -> None:
    """Run what is missing, seed by seed."""
    rows = options.out / "rows.jsonl"
    for seed in range(1, options.seeds + 1):
        done = {(row["cell"], row["seed"]) for row in read_lines(rows)}
        wanted = [cell for cell in cells() if (cell.name, seed) not in done and options.only in cell.name]
        if not wanted:
            continue
        config = load(options, seed)
        base, world = first_base(config), World.open(options, config, people.wishes(options.judge, options.judge_weights, config))
        if ("start", seed) not in done:
            users = judge(world, base, options.out, "start")
            append_json(rows, {"cell": "start", "seed": seed, "base": base.sha256[:12], "users": users})
        for cell in wanted:
            config = load(options, seed, cell.settings(config.server.rounds))
            row = run_cell(cell, config, base, world, options.out)
            append_json(rows, row)
            print(f"{cell.name}, seed {seed}: " + row.get("failed", f"{row.get('seconds', 0):.0f} s"), flush=True)


def main() -> int:
    """Read the command line, run what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos, from which each user's are drawn")
    parser.add_argument("--styles", type=Path, required=True, help="a folder of style images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", default="", help="beginnings of the names of styles to take; all if empty")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose names hold this")
    parser.add_argument("--judge", default="", help="a feature network that judges beside tiny: vgg19")
    parser.add_argument("--judge-weights", default="", metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for all cells")
    parser.add_argument("--quick", action="store_true", help="a cohort of 100 is extrapolated, too")
    options = parser.parse_args()
    if options.quick:
        global RUN, LARGER
        RUN, LARGER = RUN[:1], (*RUN[1:], *LARGER)
    torch.set_num_threads(1)
    try:
        study(options)
    except FedstyleError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        rows, judges = read_lines(options.out / "rows.jsonl"), ["tiny", *([options.judge] if options.judge else [])]
        if outcomes(rows, "tiny"):
            write_bytes(options.out / "table.md", table(rows, judges).encode())
            plot(options.out / "epsilon.png", rows, judges[-1])
            pictures(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
