"""An audit of a configuration: every attack on every release, the aggregator's checks, and what may be said of the figures.

    result = audit(Config.load("run.toml"), Scale(trials=100))
    result["releases"][2]["reidentification"]   # {"value": 0.42, "low": ..., "high": ..., "trials": 100, "verdict": "not met"}

The configuration is a run's own, so that what is audited is what runs: its network, loss, training, method, rounds and cohort. How much is
measured is the audit's question and no run's, so it stands in `Scale` and not in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedstyle.config import Config
from fedstyle.perceptual import Objective
from fedstyle.privacy.audit import inversion, mechanism, membership, reidentification
from fedstyle.privacy.audit.releases import Lens, Release
from fedstyle.privacy.audit.statistics import Estimate, Verdict, judge, mean
from fedstyle.privacy.audit.users import Trace, client_of, draws, seed_of, trace
from fedstyle.privacy.audit.world import World, build_world
from fedstyle.privacy.gaussian import seeded
from fedstyle.tables import need

Watch = Callable[[str, int, int], None]

MARGIN, GAIN, AUC = 0.05, 1.0, 0.55
"""Limits: re-identification over chance, dB over what knows nothing, and the membership attack's AUC."""
LIMITS = (
    "Attacks that find nothing prove nothing: a better attacker, another network, more rounds or larger pictures may tell more.",
    "Keeping the norms on the device is no privacy mechanism: what is shared tells of the style as well.",
    "The noise is accounted against those who see released bases. A server that sums updates itself sees each of them before the noise.",
    "A secure sum hides who sent what and not what the sum tells: it carries no noise.",
    "A shared filter shows its style by design; there, only what it tells of photos is a leak.",
    "What is seen is as it was trained, not rounded to the wire's 16 bits.",
    "Pictures are small and cut from few photographs unless the configuration names many; figures are for this workload.",
    "Randomness is seeded, so that the audit can be repeated; a real federation's is not.",
)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    trials: int = 400
    """Users whose style is looked for."""
    filters: int = 100
    """Of these, users whose exported filter is attacked too, which takes longer to make."""
    members: int = 100
    others: int = 1000
    photos: int = 4
    """Photos that are rebuilt."""
    canaries: int = 600

    def __post_init__(self) -> None:
        """Check ranges."""
        least = {"trials": 4, "filters": 2, "members": 4, "others": 20, "photos": 2, "canaries": 50}
        for name, number in least.items():
            need(getattr(self, name) >= number, f"--{name}", getattr(self, name), f"give {number} or more")


def audit(config: Config, scale: Scale | None = None, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Measure everything; the result is plain values for JSON. Raises ConfigError where the configuration's data do not suffice.

    One thread is used, and memory for the changes of all users: 4 bytes x trials x rounds x parameters.
    """
    scale, threads = scale or Scale(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _audit(config, scale, watch)
    finally:
        torch.set_num_threads(threads)


def _audit(config: Config, scale: Scale, watch: Watch) -> dict[str, Any]:
    world = build_world(config, scale.members + scale.others, watch)
    rng, picks = np.random.default_rng(seed_of(config, "users")), []
    chosen = draws(rng, len(world.pixels), min(config.training.crops, len(world.pixels) // 2))
    for index in range(scale.trials):
        watch("users", index, scale.trials)
        style = index % len(world.styles)
        seed = seed_of(config, "user", index)
        picks.append(
            trace(config, world.bases, world.pixels, world.styles[style], style, next(chosen), seed, filters=index < scale.filters)
        )
    watch("users", scale.trials, scale.trials)
    norm = float(np.median([np.linalg.norm(user.rounds[0][world.shared]) for user in picks]))
    terms = mechanism.terms_of(config, norm)
    lens = Lens(world.norms, world.shared, terms.clip, terms.noise, round(terms.denominator))
    photos = _piles(world, picks[: max(1, scale.members // len(picks[0].pictures))], scale, rng, watch)
    singles = _rebuild(world, lens, picks, scale, rng, watch)
    rows: list[dict[str, Any]] = []
    moments = sorted({1, len(world.bases) - 1})
    for release in Release:
        for rounds in moments:
            watch("attacks", len(rows), len(Release) * len(moments))
            rows.append(
                {
                    "release": release.key,
                    "about": release.about,
                    "rounds": rounds,
                    "reidentification": _reidentify(world, lens, picks, release, rounds, rng),
                    "membership": _membership(lens, picks, photos, release, rounds, rng),
                    "reconstruction": singles["gains"].get((release, rounds)),
                }
            )
    chance = 1 / len(world.styles)
    result: dict[str, Any] = {
        "workload": {**world.describe(), "trials": scale.trials, "photos of a user": len(picks[0].pictures), "rounds": moments[-1]},
        "targets": {"reidentification": chance + MARGIN, "chance": chance, "membership": AUC, "reconstruction": GAIN},
        "controls": _controls(rows, chance, singles["control"]),
        "releases": rows,
        "mechanism": mechanism.measure(config, terms, world.like(), world.honest(picks), scale.canaries, watch),
        "limits": list(LIMITS),
    }
    _judge_rows(result)
    return result


def _see(lens: Lens, user: Trace, users: Sequence[Trace], release: Release, rounds: int, rng: np.random.Generator) -> list[Any]:
    """What a release shows of a user; the rest of its cohort are others of `users`, at random."""
    rest = [index for index, one in enumerate(users) if one is not user] if release is Release.SUMMED else []
    others = [users[index] for index in rng.choice(rest, min(lens.cohort - 1, len(rest)), replace=False)] if rest else []
    return lens.see(release, user, others, seeded(int(rng.integers(1 << 62))), rounds=rounds)


def _reidentify(
    world: World, lens: Lens, picks: Sequence[Trace], release: Release, rounds: int, rng: np.random.Generator
) -> dict[str, Any]:
    mask = lens.mask(release)
    parts = [part for part in (lens.norms[mask], ~lens.norms[mask]) if part.any()]
    simulated = [world.filters[0 if rounds == 1 else -1]] if release is Release.FILTER else world.rounds[:rounds]
    styles = [[reidentification.templates(one[..., mask][..., part]) for part in parts] for one in simulated]
    users = [index for index, user in enumerate(picks) if user.filters or release is not Release.FILTER]
    guesses = []
    for index in users:
        found: list[reidentification.Floats] = [np.zeros(len(world.styles))]
        for seen, rows in zip(_see(lens, picks[index], picks, release, rounds, rng), styles, strict=True):
            found += [reidentification.scores(seen[part], row) for part, row in zip(parts, rows, strict=True)]
        guesses.append(reidentification.guess(found, rng))
    return _figures(reidentification.accuracy(guesses, [picks[index].style for index in users]))


@dataclass(frozen=True)
class _Pile:
    """The photos that are asked about of one user, members first, as steps against their gradient."""

    steps: reidentification.Floats
    members: int


def _piles(world: World, users: Sequence[Trace], scale: Scale, rng: np.random.Generator, watch: Watch) -> list[_Pile]:
    piles = []
    each = -(-scale.others // len(users))
    for number, user in enumerate(users):
        watch("photos asked about", number, len(users))
        rest = np.setdiff1d(np.arange(len(world.pixels)), user.pictures)
        others = rng.choice(rest, min(each, len(rest)), replace=False)
        pictures = world.pixels[[*user.pictures, *others.tolist()]]
        piles.append(_Pile(membership.steps(world.bases[0], _objective(world, user.style), pictures), len(user.pictures)))
    return piles


def _objective(world: World, style: int) -> Objective:
    return client_of(world.config, None, world.pixels[:1], world.styles[style], 0).objective()


def _membership(
    lens: Lens, picks: Sequence[Trace], piles: Sequence[_Pile], release: Release, rounds: int, rng: np.random.Generator
) -> dict[str, Any]:
    inside, outside, mask = [], [], lens.mask(release)
    for index, pile in enumerate(piles):
        if release is Release.FILTER and not picks[index].filters:
            continue
        seen = _see(lens, picks[index], picks, release, rounds, rng)
        blind = release is Release.NOTHING
        scores = rng.normal(size=len(pile.steps)) if blind else membership.scores(pile.steps[:, mask], seen)
        inside.append(scores[: pile.members])
        outside.append(scores[pile.members :])
    found = membership.measure(np.concatenate(inside), np.concatenate(outside))
    return {"auc": _figures(found.auc), "tpr": _figures(found.tpr), "members": found.members, "others": found.others}


def _rebuild(world: World, lens: Lens, picks: Sequence[Trace], scale: Scale, rng: np.random.Generator, watch: Watch) -> dict[str, Any]:
    """The gains of inversion by release and rounds, over users with one photo each, and the positive control."""
    pictures = rng.choice(len(world.pixels), scale.photos, replace=False).tolist()
    prior = world.public.double().mean(0, keepdim=True) / 255
    smooth = inversion.smoothed(prior)
    gains: dict[tuple[Release, int], list[float]] = {}
    plain: list[float] = []
    crowd = [
        trace(world.config, world.bases, world.pixels, world.styles[k % len(world.styles)], k % len(world.styles), [pick],
              seed_of(world.config, "single", k), filters=True)
        for k, pick in enumerate(pictures)
    ]  # fmt: skip
    for number, (user, pick) in enumerate(zip(crowd, pictures, strict=True)):
        watch("photos rebuilt", number, len(pictures))
        picture, objective = world.pixels[[pick]].double() / 255, _objective(world, user.style)

        def attack(release: Release, seen: Any, objective: Objective = objective) -> Tensor:
            step = inversion.step_of(world.bases[0], objective, lens.mask(release))
            return inversion.invert(step, torch.from_numpy(np.asarray(seen)), prior)

        noise = rng.normal(size=int(lens.mask(Release.SHARED).sum()))
        blind = [inversion.psnr(one, picture) for one in (prior, smooth, attack(Release.SHARED, noise))]
        slope = membership.steps(world.bases[0], objective, world.pixels[[pick]])[0]
        plain.append(inversion.Rebuilt(inversion.psnr(attack(Release.FULL, slope), picture), *blind).gain)
        for release in [one for one in Release if one is not Release.NOTHING]:
            for rounds in sorted({1, len(world.bases) - 1}):
                seen = np.sum(_see(lens, user, picks, release, rounds, rng), axis=0)
                rebuilt = inversion.Rebuilt(inversion.psnr(attack(release, seen), picture), *blind)
                gains.setdefault((release, rounds), []).append(rebuilt.gain)
    watch("photos rebuilt", len(pictures), len(pictures))
    small = torch.nn.functional.interpolate(world.pixels[pictures].double() / 255, size=(inversion.SIDE, inversion.SIDE), mode="area")
    start = torch.nn.functional.interpolate(prior, size=(inversion.SIDE, inversion.SIDE), mode="area")
    control = [inversion.control(small[[k]], start, k) for k in range(min(4, len(pictures)))]
    return {"gains": {key: _figures(mean(np.array(values))) for key, values in gains.items()}, "control": {"psnr": control, "plain": plain}}


def _controls(rows: Sequence[dict[str, Any]], chance: float, rebuilt: Mapping[str, list[float]]) -> dict[str, Any]:
    """Whether each attack works where it should: only then is it news that it fails elsewhere."""
    open_ = [row for row in rows if row["release"] in (Release.SHARED.key, Release.FULL.key)]
    return {
        "reconstruction": {**rebuilt, "needed": inversion.CONTROL, "holds": inversion.holds(rebuilt["psnr"], rebuilt["plain"], GAIN)},
        "reidentification": {"holds": any(row["reidentification"]["low"] > chance for row in open_)},
        "membership": {"holds": any(row["membership"]["auc"]["low"] > 0.5 for row in open_)},
    }


def _judge_rows(result: dict[str, Any]) -> None:
    """Add a verdict to each figure; where the attack's control fails, nothing is met."""
    for row in result["releases"]:
        for name in ("reidentification", "membership", "reconstruction"):
            figure = row[name]["auc"] if name == "membership" else row[name]
            if figure is not None:
                verdict: Verdict = judge(Estimate(**figure), result["targets"][name])
                figure["verdict"] = verdict if result["controls"][name]["holds"] or verdict == "not met" else "unresolved"


def _figures(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)
