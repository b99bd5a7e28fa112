"""How good few-step filters are: users whose style and photos no base saw, beside training from scratch and Gatys' optimiser.

python simulation/quality/quality.py --data DIR --out runs/quality [--base BASE] [--joint BASE] [--only scratch,base] [--part 1/2] [--long]

Rows that stand are not made again, so that a killed run goes on; parts fill several cores, a thread each, and share one folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import pictures
import results
import rows
import torch
import users
from arms import Protocol
from study import Study

from fedstyle import Base, params
from fedstyle.errors import ConfigError, FedstyleError
from fedstyle.files import locked
from fedstyle.perceptual import load_features
from fedstyle.training import choose_device

PROTOCOL = Protocol()
WEIGHTS = {"vgg16": "vgg16_features_to_relu3.pth", "vgg19": "vgg19_features_to_relu3.pth"}


def main() -> None:
    options = arguments()
    try:
        if not options.report_only:
            run(options)
        results.write(options.out)
        pictures.curves(options.out)
        pictures.sheet(options.out)
    except FedstyleError as error:
        sys.exit(str(error))
    print((options.out / "results.md").read_text().partition("\n## Total")[0])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; its rows.jsonl is the result, the rest is made of it")
    parser.add_argument("--data", type=Path, help="the folder with photos/, photos-research/, styles/ and weights/")
    parser.add_argument("--base", type=Path, help="a base's folder, instead of the one that fedstyle carries")
    parser.add_argument("--joint", type=Path, help="a base that was trained jointly on the pooled data")
    parser.add_argument("--arch", default=PROTOCOL.arch)
    parser.add_argument("--styles", type=int, default=0, help="unseen styles; 0 is each artwork and painter once")
    parser.add_argument("--seeds", type=int, default=PROTOCOL.seeds)
    parser.add_argument("--only", metavar="ARM,ARM", help=f"of {', '.join(rows.ARMS)}")
    parser.add_argument("--long", type=int, nargs="?", const=2000, default=0, metavar="N", help="the first seed from scratch for N, too")
    parser.add_argument("--judges", default=",".join(PROTOCOL.judges), help="Gatys descends on the first, the last decides")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th style only, from the K-th on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report-only", action="store_true", help="make tables and pictures again")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else [arm for arm in rows.ARMS if arm != "joint" or options.joint]
    options.judges = tuple(options.judges.split(","))
    try:
        options.part, options.parts = map(int, options.part.split("/"))
    except ValueError:
        parser.error(f"--part {options.part}: give K/N, such as 1/2")
    if not 1 <= options.part <= options.parts:
        parser.error(f"--part {options.part}/{options.parts}: give one of 1 to {options.parts}")
    if unknown := set(options.only) - set(rows.ARMS):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose of {', '.join(rows.ARMS)}")
    if not (options.report_only or options.data):
        parser.error("--data is missing: the folder with photos/, photos-research/, styles/ and weights/")
    if "joint" in options.only and not options.joint:
        parser.error("--only joint needs --joint BASE")
    return options


def run(options: argparse.Namespace) -> None:
    """Make the rows of this part that do not stand yet, the first seed of all styles first."""
    torch.set_num_threads(options.threads)
    name = "rows" if options.parts == 1 else f"rows-{options.part}of{options.parts}"
    taken = ConfigError(f"another process works on part {options.part}/{options.parts} of {options.out}: wait for it")
    with locked(options.out / f".{name}.lock", taken):
        study = prepare(options, options.out / f"{name}.jsonl")
        looks = users.looks(options.styles)[options.part - 1 :: options.parts]
        for seed in range(study.protocol.seeds):
            for look in looks:
                study.work(look, seed)


def prepare(options: argparse.Namespace, file: Path) -> Study:
    """Load judges, photos and bases, and note the settings that the arms run with."""
    changes = {name: getattr(options, name) for name in ("arch", "seeds", "long", "judges")}
    protocol = dataclasses.replace(PROTOCOL, **changes, training={**PROTOCOL.training, "device": options.device})
    starts = find_bases(options)
    judges = {
        name: load_features(name, str(options.data / "weights" / WEIGHTS[name]) if name in WEIGHTS else "") for name in options.judges
    }
    prints = {name: params.fingerprint(judge.state_dict())[:12] for name, judge in judges.items()}
    tiny = params.fingerprint(load_features("tiny").state_dict())[:12]
    photos = users.judged(options.data, protocol.judged)
    names = [path.name for path in photos.paths]
    facts = {arm: protocol.facts(arm, prints, names, f"tiny {tiny}", starts.get(arm)) for arm in options.only}
    rows.renew(options.out, facts)
    device = choose_device(options.device)
    return Study(
        protocol,
        options.data,
        options.out,
        file,
        {name: judge.to(device) for name, judge in judges.items()},
        photos.views(protocol.view).to(device).float() / 255,
        starts,
        {arm: rows.digest(fact) for arm, fact in facts.items()},
    )


def find_bases(options: argparse.Namespace) -> dict[str, Base]:
    """The base that each arm starts from; arms from scratch have none."""
    found: dict[str, Base] = {}
    if {"base", "full"} & set(options.only):
        found["base"] = found["full"] = Base.load(options.base) if options.base else Base.shipped(options.arch)
    if "joint" in options.only:
        found["joint"] = Base.load(options.joint)
    for base in found.values():
        if base.arch != options.arch:
            raise ConfigError(f"the base is a {base.arch}, the arms from scratch are a {options.arch}: give --arch {base.arch}")
    return found


if __name__ == "__main__":
    main()
