"""The attacks on the users of an audit: everything that was seen, ready to be asked of any release, and at any noise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedstyle.perceptual import Objective
from fedstyle.privacy.audit import inversion, membership, rebuilding, reidentification
from fedstyle.privacy.audit.conformance import Terms
from fedstyle.privacy.audit.learned import Floats, Grams, Ridge
from fedstyle.privacy.audit.membership import Pile, Told
from fedstyle.privacy.audit.releases import Lens, Mask, Release
from fedstyle.privacy.audit.statistics import Estimate, clustered, mean
from fedstyle.privacy.audit.users import Trace, client_of, seed_of, trace
from fedstyle.privacy.audit.world import CANDIDATES, World

DRAWS = 10
"""Draws of noise over the same updates; intervals go by users."""
SINGLES = 120
"""Users with a single photo that the attacker simulates, at most."""
STYLE = 3
"""The style of users with a single photo, of those there are: in a pilot its updates told more of photos than the first one's."""
SEARCHED = 2
"""Photos that are searched by gradient inversion, which takes long."""
POOL = 48
"""Photos of a style among which those that a user did not train on are drawn."""
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Attacks:
    """What was seen of all users, in inner products; `terms` are the configuration's clipping norm, noise and cohort."""

    world: World
    users: Sequence[Trace]
    terms: Terms
    cohorts: Sequence[Sequence[int]]
    """Users by cohort, each in one at most: what is summed together."""
    rounds: Sequence[Grams]
    filters: Sequence[Grams]
    piles: Sequence[Pile]
    shadow_piles: Sequence[Pile]
    photos: Floats
    public: Floats
    known: Floats
    """The single photos as rows, the attacker's, and the PSNR of what knows nothing of each."""
    single_rounds: Sequence[Grams]

    @property
    def lens(self) -> Lens:
        """Which tensors a release tells of."""
        return self.world.lens()

    def moments(self, release: Release, rounds: int) -> list[Hashable]:
        """By what a release is known after so many rounds."""
        if release is Release.NOTHING:
            return []
        if release is Release.FILTER:
            return [(release.key, 1 if rounds == 1 else 2)]
        return [(release.key, number) for number in range(1, rounds + 1)]

    def name(self, release: Release, rounds: int, noise: float, rng: np.random.Generator) -> Estimate:
        """How often the style is named."""
        styles, count = [style for style in range(len(self.world.styles)) for _ in range(CANDIDATES)], len(self.world.styles)
        users = [index for index, user in enumerate(self.users) if user.filters or release is not Release.FILTER]
        truths = np.array([self.users[index].style for index in users])
        clusters, moments = np.arange(len(users)), self.rounds[:rounds]
        if release is Release.NOTHING:
            named = rng.integers(count, size=(DRAWS, len(users)))
        elif release is Release.NOISED:
            named = reidentification.name_noised(
                moments, self.lens.tensors(release), styles, count, clip=self.terms.clip, noise=noise, draws=DRAWS, rng=rng
            )
        elif release is Release.SUMMED:
            named = reidentification.name_summed(
                moments, self.lens.tensors(release), styles, count, self.cohorts, clip=self.terms.clip, rng=rng
            )[None]
            clusters = self._cohort_of(users)
        else:
            if release is Release.FILTER:
                moments = [self.filters[0 if rounds == 1 else -1]]
                styles = [style for style in range(count) for _ in range(moments[0].own.shape[1] // count)]
            named = reidentification.name_clear(moments, self.lens.parts(release), styles, count)[None]
        there = clusters >= 0
        hits = (named[:, there] == truths[there]) * 1.0
        return clustered(hits.ravel(), np.tile(clusters[there], len(named)))

    def tell(self, release: Release, rounds: int, noise: float, rng: np.random.Generator) -> Told:
        """How well photos that were trained on are told from others."""
        piles = [pile for pile in self.piles if release is not Release.FILTER or self.users[pile.user].filters]
        std = noise * self.terms.clip if release is Release.NOISED else 0.0
        draws = DRAWS if release in (Release.NOISED, Release.NOTHING) else 1
        clusters = np.array([pile.user for pile in piles])
        if release is Release.SUMMED:
            clusters = self._cohort_of(clusters.tolist())
            piles, clusters = [pile for pile, one in zip(piles, clusters, strict=True) if one >= 0], clusters[clusters >= 0]
        return membership.tell(piles, self.shadow_piles, self.moments(release, rounds), std, draws, rng, clusters.tolist())

    def rebuild(self, release: Release, rounds: int, noise: float, rng: np.random.Generator) -> Estimate | None:
        """By how much a photo is rebuilt better than by what knows nothing."""
        if release in (Release.NOTHING, Release.FILTER):
            return None
        tensors, moments, clip = self.lens.tensors(release), self.single_rounds[:rounds], self.terms.clip
        made: list[tuple[Floats, Ridge]]
        if release is Release.NOISED:
            made = [rebuilding.learn_hidden(moments, tensors, self.public, clip=clip, noise=noise, rng=rng) for _ in range(DRAWS)]
        elif release is Release.SUMMED:
            made = [rebuilding.learn_summed(moments, tensors, self.public, clip=clip, cohort=self.terms.cohort, rng=rng)]
        else:
            made = [rebuilding.learn_clear(moments, self.lens.parts(release), self.public)]
        gains = [rebuilding.gain(found, ridge, self.photos, self.known, rng) for found, ridge in made]
        return mean(np.mean(gains, axis=0))

    def _cohort_of(self, users: Sequence[int]) -> Any:
        found = {user: number for number, members in enumerate(self.cohorts) for user in members}
        return np.array([found.get(user, -1) for user in users])


def prepare(
    world: World, users: Sequence[Trace], terms: Terms, *, members: int, others: int, photos: int, rng: np.random.Generator, watch: Watch
) -> Attacks:
    """Take the inner products that all attacks go by; `others` photos are asked about in all, and `photos` are rebuilt."""
    lens, shadows = world.lens(), [one.reshape(-1, one.shape[-1]) for one in world.rounds]
    order, size = rng.permutation(len(users)), min(terms.cohort, len(users))
    cohorts = [order[start : start + size].tolist() for start in range(0, len(order) - size + 1, size)]
    grams, filters = [], []
    for number, row in enumerate(shadows):
        watch("inner products", number, len(shadows))
        grams.append(Grams.of(np.stack([user.rounds[number] for user in users]), row, lens.cuts))
    makers = [user for user in users if user.filters]
    for moment in (0, -1):
        of_shadows = world.filters[moment].reshape(-1, world.filters[moment].shape[-1])
        filters.append(Grams.of(np.stack([user.filters[moment] for user in makers]), of_shadows, lens.cuts))
    count = max(2, -(-members // len(users[0].pictures)))
    asked = sorted(sorted(range(len(users)), key=lambda index: (users[index].style, index))[:count])
    typical = [np.mean([_clip(one[lens.shared].astype(np.float32), terms.clip) for one in row], axis=0) for row in shadows]
    piles = list(_piles(world, lens, users, asked, cohorts, terms.clip, -(-others // len(asked)), typical, rng, watch))
    theirs = list(_shadow_piles(world, lens, shadows, terms, typical, rng))
    singles = _singles(world, photos, rng, watch)
    return Attacks(world, users, terms, cohorts, grams, filters, piles, theirs, *singles)


def _clip(vector: Floats, norm: float) -> Floats:
    return vector * min(1.0, norm / max(float(np.linalg.norm(vector)), 1e-12))


def objective_of(world: World, style: int) -> Objective:
    """The loss of a user of a style."""
    return client_of(world.config, None, world.pixels[:1], world.styles[style], 0).objective()


def _views(
    lens: Lens,
    clear: Sequence[Floats],
    filters: Sequence[Floats],
    company: Sequence[Floats],
    expected: dict[tuple[str, int], Floats],
    clip: float,
) -> dict[Hashable, tuple[Mask, Floats, Floats]]:
    """What each release shows of a user in each moment: `clear` changes by round, filters, and the sum of its company's clipped changes."""
    views: dict[Hashable, tuple[Mask, Floats, Floats]] = {}
    for number, change in enumerate(clear, 1):
        for release in (Release.NORMS, Release.SHARED, Release.FULL, Release.NOISED, Release.SUMMED):
            mask = lens.mask(release)
            seen: Floats = change[mask].astype(np.float32)
            if release in (Release.NOISED, Release.SUMMED):
                seen = _clip(seen, clip) + (company[number - 1] if release is Release.SUMMED else 0.0)
            views[release.key, number] = (mask, seen, expected[release.key, number])
    for moment, change in enumerate(filters[: sum(key == Release.FILTER.key for key, _ in expected)], 1):
        views[Release.FILTER.key, moment] = (lens.mask(Release.FILTER), change.astype(np.float32), expected[Release.FILTER.key, moment])
    return views


def _expected(
    world: World, lens: Lens, style: int, clip: float, company: int, typical: Sequence[Floats], without: int | None = None
) -> dict[tuple[str, int], Floats]:
    """What the attacker's users of a style show on average, without one of them, in each release and moment; `typical` are all of them."""
    kept = [k for k in range(CANDIDATES) if k != without or CANDIDATES == 1]
    found: dict[tuple[str, int], Floats] = {}
    shared = lens.shared
    for number, changes in enumerate(world.rounds, 1):
        own = changes[style, kept].astype(np.float32)
        for release in (Release.NORMS, Release.SHARED, Release.FULL):
            found[release.key, number] = own.mean(0)[lens.mask(release)]
        found[Release.NOISED.key, number] = np.mean([_clip(one[shared], clip) for one in own], axis=0)
        found[Release.SUMMED.key, number] = found[Release.NOISED.key, number] + company * typical[number - 1]
    for moment, changes in enumerate(world.filters, 1):
        kept = [k for k in range(changes.shape[1]) if k != without or changes.shape[1] == 1]
        found[Release.FILTER.key, moment] = changes[style, kept].astype(np.float32).mean(0)
    return found


def _piles(
    world: World, lens: Lens, users: Sequence[Trace], asked: Sequence[int], cohorts: Sequence[Sequence[int]], clip: float, each: int,
    typical: Sequence[Floats], rng: np.random.Generator, watch: Watch,
) -> Iterator[Pile]:  # fmt: skip
    shared, pools, sums = lens.shared, dict[int, tuple[list[int], Floats]](), dict[int, list[Floats]]()

    def told(user: int, round: int) -> Floats:
        return _clip(users[user].rounds[round][shared].astype(np.float32), clip)

    for done, index in enumerate(asked):
        user = users[index]
        watch("photos asked about", done, len(asked))
        if user.style not in pools:  # what is asked of one user is asked of others of its style: a step takes as long as one of training
            pool = rng.choice(len(world.pixels), min(POOL, len(world.pixels)), replace=False).tolist()
            pools[user.style] = pool, membership.steps(world.bases[0], objective_of(world, user.style), world.pixels[pool])
        pool, of_pool = pools[user.style]
        rest = rng.permutation([place for place, photo in enumerate(pool) if photo not in user.pictures])[:each]
        own = membership.steps(world.bases[0], objective_of(world, user.style), world.pixels[list(user.pictures)])
        members = next((one for one in cohorts if index in one), [index])
        if members[0] not in sums:
            sums[members[0]] = [np.sum([told(k, r) for k in members], axis=0) for r in range(len(world.rounds))]
        company = [sums[members[0]][r] - told(index, r) for r in range(len(world.rounds))]
        expected = _expected(world, lens, user.style, clip, len(members) - 1, typical)
        views = _views(lens, user.rounds, user.filters, company, expected, clip)
        yield membership.ask(index, len(user.pictures), np.concatenate([own, of_pool[rest]]), views, shared)


def _shadow_piles(
    world: World, lens: Lens, shadows: Sequence[Floats], terms: Terms, typical: Sequence[Floats], rng: np.random.Generator
) -> Iterator[Pile]:
    """One of the attacker's users of each style, who knows what it holds; in sums, with others of the attacker's."""
    shared, size = lens.shared, terms.cohort - 1
    for style in range(len(world.styles)):
        index = style * CANDIDATES
        company = []
        for row in shadows:
            others = rng.choice(len(row), size)
            company.append(sum((_clip(row[k][shared].astype(np.float32), terms.clip) for k in others), np.zeros(1, np.float32)))
        rest = np.setdiff1d(np.arange(len(world.public)), world.held[index])
        chosen = [*world.held[index], *rng.choice(rest, min(10, len(rest)), replace=False).tolist()]
        steps = membership.steps(world.bases[0], objective_of(world, style), world.public[chosen])
        views = _views(
            lens, [row[index] for row in shadows], [one[style, 0] for one in world.filters], company,
            _expected(world, lens, style, terms.clip, size, typical, without=0), terms.clip,
        )  # fmt: skip
        yield membership.ask(index, len(world.held[index]), steps, views, shared)


def _singles(world: World, photos: int, rng: np.random.Generator, watch: Watch) -> tuple[Floats, Floats, Floats, list[Grams]]:
    """Users with one photo each, all of one style, and the attacker's."""
    last, cuts, style = len(world.rounds), world.lens().cuts, STYLE % len(world.styles)
    taken = {"photo": (world.pixels, rng.choice(len(world.pixels), photos, replace=False)), "own": (world.public, range(len(world.public)))}
    traces: dict[str, list[Trace]] = {}
    for kind, (pixels, all_) in taken.items():
        chosen = list(all_)[:SINGLES]
        traces[kind] = []
        for number, pick in enumerate(chosen):
            watch("single photos" if kind == "photo" else "the attacker's single photos", number, len(chosen))
            seed = seed_of(world.config, "single", kind, number)
            traces[kind].append(trace(world.config, world.bases, pixels, world.styles[style], style, [int(pick)], seed, filters=()))
    mine, own = traces["photo"], traces["own"]
    rounds = [Grams.of(np.stack([u.rounds[k] for u in mine]), np.stack([u.rounds[k] for u in own]), cuts) for k in range(last)]
    wanted = rebuilding.rows(world.pixels[[u.pictures[0] for u in mine]])
    public = rebuilding.rows(world.public[[u.pictures[0] for u in own]])
    return wanted, public, rebuilding.blind(world.public, wanted), rounds


def learned_control(world: World, photos: int, rng: np.random.Generator) -> Estimate:
    """What the learned attack on photos gains where it must: from the plain gradient of this network, of one photo and one step."""
    chosen, objective = rng.choice(len(world.pixels), photos, replace=False), objective_of(world, STYLE % len(world.styles))
    wanted, public = world.pixels[chosen], world.public[:SINGLES]
    seen, own = (membership.steps(world.bases[0], objective, pixels) for pixels in (wanted, public))
    lens, rows = world.lens(), rebuilding.rows(wanted)
    found, ridge = rebuilding.learn_clear([Grams.of(seen, own, lens.cuts)], lens.parts(Release.FULL), rebuilding.rows(public))
    return mean(rebuilding.gain(found, ridge, rows, rebuilding.blind(world.public, rows), rng))


def search(world: World, rng: np.random.Generator, watch: Watch) -> dict[str, list[float]]:
    """The gradient inversion's two controls: PSNR on a small network that leaks, and the gain on this network's plain gradient."""
    pictures = rng.choice(len(world.pixels), SEARCHED, replace=False).tolist()
    prior = world.public.double().mean(0, keepdim=True) / 255
    small = torch.nn.functional.interpolate(world.pixels[pictures].double() / 255, size=(inversion.SIDE, inversion.SIDE), mode="area")
    start = torch.nn.functional.interpolate(prior, size=(inversion.SIDE, inversion.SIDE), mode="area")
    objective, full = objective_of(world, 0), np.ones(sum(world.lens().sizes), bool)
    plain = []
    for number, pick in enumerate(pictures):
        watch("photos searched", number, len(pictures))
        picture = world.pixels[[pick]].double() / 255
        slope = torch.from_numpy(membership.steps(world.bases[0], objective, world.pixels[[pick]])[0])
        found = inversion.invert(inversion.step_of(world.bases[0], objective, full), slope, prior)
        known = max(inversion.psnr(one, picture) for one in (prior, inversion.smoothed(prior)))
        plain.append(inversion.psnr(found, picture) - known)
    return {"psnr": [inversion.control(small[[k]], start, k) for k in range(len(pictures))], "plain": plain}
