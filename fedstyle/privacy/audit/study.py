"""An audit of a configuration: every attack on every release, the aggregator's checks, and what may be said of the figures.

    result = audit(Config.load("run.toml"), Scale(trials=100))
    result["releases"][2]["reidentification"]   # {"value": 0.42, "low": ..., "high": ..., "trials": 100, "verdict": "not met"}

The configuration is a run's own, so that what is audited is what runs: its network, loss, training, method, rounds and cohort. How much is
measured is the audit's question and no run's, so it stands in `Scale` and not in the file.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedstyle.config import Config
from fedstyle.privacy.audit import inversion, mechanism, utility
from fedstyle.privacy.audit.attacks import Attacks, Watch, learned_control, prepare, search
from fedstyle.privacy.audit.releases import Release
from fedstyle.privacy.audit.statistics import Estimate, Verdict, judge, mean
from fedstyle.privacy.audit.users import Trace, draws, seed_of, trace
from fedstyle.privacy.audit.world import World, build_world
from fedstyle.privacy.gaussian import seeded
from fedstyle.tables import need
from fedstyle.threads import threads

MARGIN, GAIN, AUC, WORSE = 0.05, 1.0, 0.55, 0.15
"""Limits: re-identification over chance, dB over what knows nothing, the membership attack's AUC, unseen users' loss over the base's."""
NOISES = (2.0, 4.0, 8.0, 32.0)
"""The configured noise is also divided by these, for the frontier."""
CLIPS = (10.0, 100.0)
"""And the clipping norm multiplied by these, which moves the base as much more and tells no more of a user."""
LIMITS = (
    "Attacks that find nothing prove nothing: a better attacker, another network, more rounds or larger pictures may tell more.",
    "Keeping the norms on the device is no privacy mechanism: what is shared tells of the style as well.",
    "With noise added by the server alone, the server sees each update before it. In the private mode devices add it, and it sees sums.",
    "A secure sum hides who sent what and not what the sum tells: it carries no noise of itself.",
    "A shared filter shows its style by design; there, only what it tells of photos is a leak.",
    "Draws of noise are many over the same updates, so intervals go by users, and of sums by cohorts; all share one base and one attacker.",
    "Photos are rebuilt by a linear attack, which finds light and colour; the gradient search counts only where its own controls hold.",
    "Pictures are small and cut from few photographs unless the configuration names many; figures are for this workload.",
    "Randomness is seeded, so that the audit can be repeated; a real federation's is not.",
)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    trials: int = 400
    """Users whose style is looked for."""
    filters: int = 32
    """Of these, users whose exported filter is attacked too, which takes longer to make."""
    members: int = 400
    others: int = 1000
    photos: int = 40
    """Photos that are rebuilt, of users with no other."""
    canaries: int = 300
    unseen: int = 8
    """Users whom no round asked, for what is left of the base; 0 leaves that out."""

    def __post_init__(self) -> None:
        """Check ranges."""
        least = {"trials": 4, "filters": 2, "members": 4, "others": 20, "photos": 2, "canaries": 50, "unseen": 0}
        for name, number in least.items():
            need(getattr(self, name) >= number, f"--{name}", getattr(self, name), f"give {number} or more")


def audit(config: Config, scale: Scale | None = None, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Measure everything; the result is plain values for JSON. Raises ConfigError where the configuration's data do not suffice.

    One thread is used, and memory for the changes of all users: 2 bytes x trials x rounds x parameters, and as much again for a while.
    """
    began = time.process_time()
    with threads(1):
        result = _audit(config, scale or Scale(), watch)
    return {**result, "seconds": round(time.process_time() - began)}


def _audit(config: Config, scale: Scale, watch: Watch) -> dict[str, Any]:
    world, picks, rng = simulate_users(config, scale, watch)
    last = len(world.bases) - 1
    norm = float(np.median([np.linalg.norm(user.rounds[0][world.shared].astype(np.float32)) for user in picks]))
    terms = mechanism.terms_of(config, norm)
    attacks = prepare(
        world, picks, terms, members=scale.members, others=scale.others, photos=scale.photos, rng=rng, watch=watch
    )  # fmt: skip
    chance, moments = 1 / len(world.styles), sorted({1, last})
    rows = [
        {"release": release.key, "about": release.about, "rounds": rounds, **_attack(attacks, release, rounds, terms.noise, rng)}
        for release in Release
        for rounds in moments
    ]
    result: dict[str, Any] = {
        "mode": config.privacy.mode,
        "workload": {"base": world.bases[0].sha256[:12], **world.describe(), "trials": scale.trials, "rounds": last,
                     "photos of a user": len(picks[0].pictures), "length of an update": norm},
        "targets": {"reidentification": chance + MARGIN, "chance": chance, "membership": AUC, "reconstruction": GAIN, "utility": WORSE},
        "releases": rows,
        "frontier": _frontier(config, world, attacks, scale, rng, watch),
        "mechanism": mechanism.measure(config, terms, scale.canaries, watch),
        "controls": _controls(rows, chance, learned_control(world, scale.photos, rng), search(world, rng, watch)),
        "limits": list(LIMITS),
    }  # fmt: skip
    for row in [*rows, *result["frontier"]["privacy"]]:
        _judge(row, result)
    for row in result["frontier"]["utility"]:
        if row["worse"]:
            row["worse"]["verdict"] = judge(Estimate(**row["worse"]), WORSE)
    return result


def simulate_users(config: Config, scale: Scale, watch: Watch) -> tuple[World, list[Trace], np.random.Generator]:
    """The attacker's world and the users that are attacked, who train for all rounds; and the randomness that goes on from there."""
    world = build_world(config, scale.members + scale.others, watch)
    rng = np.random.default_rng(seed_of(config, "users"))
    picks: list[Trace] = []
    chosen = draws(rng, len(world.pixels), min(config.training.crops, len(world.pixels) // 2))
    last = len(world.bases) - 1
    for index in range(scale.trials):
        watch("users", index, scale.trials)
        style, seed = index % len(world.styles), seed_of(config, "user", index)
        when = {1, last} if index < scale.filters else ()
        picks.append(trace(config, world.bases, world.pixels, world.styles[style], style, next(chosen), seed, filters=when))
    watch("users", scale.trials, scale.trials)
    return world, picks, rng


def _attack(attacks: Attacks, release: Release, rounds: int, noise: float, rng: np.random.Generator) -> dict[str, Any]:
    told, gain = attacks.tell(release, rounds, noise, rng), attacks.rebuild(release, rounds, noise, rng)
    return {
        "reidentification": _figures(attacks.name(release, rounds, noise, rng)),
        "membership": {"auc": _figures(told.auc), "tpr": _figures(told.tpr), "members": told.members, "others": told.others},
        "reconstruction": _figures(gain) if gain else None,
    }


def _frontier(
    config: Config, world: World, attacks: Attacks, scale: Scale, rng: np.random.Generator, watch: Watch
) -> dict[str, list[dict[str, Any]]]:
    """How privacy goes with noise, and what noise and clipping leave of the base; privacy hangs on the noise alone."""
    terms, last = attacks.terms, len(world.rounds)
    privacy = []
    for share in (1.0, *NOISES):
        noise = terms.noise / share
        about = {"noise": noise, "epsilon": mechanism.promised(config, dataclasses.replace(terms, noise=noise))}
        privacy.append({**about, **_attack(attacks, Release.NOISED, last, noise, rng)})
    settings = [(1.0, clip) for clip in (1.0, *CLIPS)]
    rows: list[dict[str, Any]] = []
    if scale.unseen:
        watch("unseen users", 0, len(settings) + 2)
        plain = utility.losses(world, world.bases[-1], scale.unseen)
        first = utility.losses(world, world.bases[0], scale.unseen)
        rows.append({"setting": "the first base, no round", **_worse(first, plain)})
        for number, (share, wider) in enumerate(settings):
            watch("unseen users", number + 2, len(settings) + 2)
            clip, noise = terms.clip * wider, terms.noise / share
            base = utility.private_base(world, clip=clip, noise=noise, cohort=terms.cohort, draw=seeded(seed_of(config, "utility", number)))
            length = noise * clip / terms.cohort * (last * int(world.shared.sum())) ** 0.5
            about = {"noise": noise, "clip": clip, "length of the noise": length, "of the base": length / utility.size(world)}
            rows.append({"setting": "", **about, **_worse(utility.losses(world, base, scale.unseen), plain)})
    return {"privacy": privacy, "utility": rows}


def _worse(these: Any, those: Any) -> dict[str, Any]:
    return {"worse": _figures(mean(utility.worse(these, those)))}


def _controls(rows: Sequence[dict[str, Any]], chance: float, learned: Estimate, searched: dict[str, list[float]]) -> dict[str, Any]:
    """Whether each attack works where it should: only then is it news that it fails elsewhere."""
    open_ = [row for row in rows if row["release"] in (Release.SHARED.key, Release.FULL.key)]
    return {
        "reconstruction": {**_figures(learned), "needed": GAIN, "holds": learned.value >= GAIN and learned.low > 0},
        "search": {**searched, "needed": inversion.CONTROL, "holds": inversion.holds(searched["psnr"], searched["plain"], GAIN)},
        "reidentification": {"holds": any(row["reidentification"]["low"] > chance for row in open_)},
        "membership": {"holds": any(row["membership"]["auc"]["low"] > 0.5 for row in open_)},
    }


def _judge(row: dict[str, Any], result: dict[str, Any]) -> None:
    """Add a verdict to each figure; where the attack's control fails, or a search that works was not tried, nothing is met."""
    for name in ("reidentification", "membership", "reconstruction"):
        figure = row[name]["auc"] if name == "membership" else row[name]
        if figure is not None:
            verdict: Verdict = judge(Estimate(**figure), result["targets"][name])
            untried = name == "reconstruction" and result["controls"]["search"]["holds"]
            known = result["controls"][name]["holds"] and not untried
            figure["verdict"] = verdict if known or verdict == "not met" else "unresolved"


def _figures(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)
