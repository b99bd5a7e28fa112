"""The users that an audit simulates: real clients with few pictures each, and what each round of theirs changed."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedstyle import params
from fedstyle.base import Base
from fedstyle.client import Client
from fedstyle.config import Config
from fedstyle.errors import ConfigError
from fedstyle.methods import make_method
from fedstyle.paint import PAINTERS, paint
from fedstyle.params import Params
from fedstyle.photos import Photos
from fedstyle.privacy.noise import flatten
from fedstyle.style import Style
from fedstyle.training import derive, detailed

Vector = NDArray[np.float16]
STYLES = 16
"""Styles among which a user's is looked for, where there are as many."""


@dataclass(frozen=True)
class Held(Photos):
    """Pictures that stand in for a photo library: its crops are these, uint8 (n, 3, S, S), whatever is asked for."""

    pixels: Tensor = field(default_factory=lambda: torch.empty(0), compare=False, repr=False)

    def crops(self, size: int, count: int, seed: int, *, processing: str = "scale-fill") -> Tensor:  # noqa: ARG002  Photos' signature
        """The pictures."""
        return self.pixels


@dataclass(frozen=True)
class Trace:
    """What one user did. Changes are against the base that a round began with, of all the network's parameters by `flatten`'s order.

    They are kept in fp16, as they cross the wire and as filters are exported.
    """

    style: int
    pictures: tuple[int, ...]
    rounds: tuple[Vector, ...]
    filters: tuple[Vector, ...] = ()
    """Of the filter made after the first round and of the one made after the last."""


def styles_of(config: Config) -> list[Style]:
    """Up to 16 style images: fedstyle's own paintings in turn, each family in another palette the second time, or the configured files."""
    from fedstyle.population import plan

    density, strength = config.loss.density, config.loss.strength
    if config.data.styles == "painted":
        names = [(name, turn) for turn in range(3) for name in PAINTERS][:STYLES]
        images = [paint(name, side=max(128, 2 * density), seed=turn) for name, turn in names]
        return [Style(image, strength=strength, density=density) for image in images]
    files = {device.style_file: device for device in plan(config).devices}
    if len(files) < 2:
        raise ConfigError("data.styles gives the audit one style: it needs 2 and more to tell apart")
    return [Style(device.style_image(0), strength=strength, density=density) for device in list(files.values())[:STYLES]]


def tiles(photos: Photos, count: int, size: int, seed: int) -> Tensor:
    """At most `count` pictures uint8 (n, 3, size, size), no two of them of the same place of a photo, and none of one colour.

    Where there are as many photos each gives one; otherwise photos are cut into disjoint squares, as large as the count allows and reduced
    to `size`, about as many from each photo.
    """
    if len(photos) >= count:
        crops = photos.crops(size, count, seed)
        return crops[detailed(crops)]
    images = [photos.load(index) for index in range(len(photos))]
    scale = next((s for s in (8, 6, 4, 3, 2) if sum((i.width // (s * size)) * (i.height // (s * size)) for i in images) >= count), 1)
    side, rng, found = scale * size, np.random.default_rng(seed), []
    for image in images:
        places = [(x, y) for y in range(0, image.height - side + 1, side) for x in range(0, image.width - side + 1, side)]
        for place in rng.permutation(len(places)).tolist()[: -(-count // len(images)) * 2]:
            x, y = places[place]
            found.append(np.asarray(image.resize((size, size), box=(x, y, x + side, y + side)), np.uint8))
    cut = torch.from_numpy(np.stack([found[index] for index in rng.permutation(len(found))])).permute(0, 3, 1, 2)
    return cut[detailed(cut)][:count].contiguous()


def halves(photos: Photos, seed: int) -> tuple[Photos, Photos]:
    """The photos that users hold and those that the attacker has: two halves without a photo in common."""
    if len(photos) < 2:
        raise ConfigError(
            "data.photos gives the audit one photo: it needs 2 and more, to give some to the users and others to the attacker"
        )
    order = np.random.default_rng(seed).permutation(len(photos)).tolist()
    return photos.subset(sorted(order[::2])), photos.subset(sorted(order[1::2]))


def client_of(config: Config, home: Path | None, pixels: Tensor, style: Style, seed: int) -> Client:
    """A user's client, as the configuration has it: its loss, training and method; it does not clip, for a release does."""
    training = replace(config.training, seed=seed, crops=len(pixels), device="cpu")
    return Client(home, Held((), pixels=pixels), style, method=make_method(config.method), loss=config.loss, training=training)


def change(client: Client, base: Base, round: int) -> dict[str, Tensor]:
    """Let a client fit for a round, and give the change of everything: what it would send, and what it keeps at home."""
    update = client.fit(base, round=round)
    assert client.folder is not None
    path = client.folder / "private.safetensors"
    kept = params.unseal(params.load(path), path)
    whole = base.transform()
    private = {name: kept[f"net/{name}"] for name in whole if f"net/{name}" in kept}
    return {**{k: v for k, v in update.delta.items() if k in whole}, **params.subtract(private, {name: whole[name] for name in private})}


def trace(
    config: Config,
    bases: Sequence[Base],
    pixels: Tensor,
    style: Style,
    index: int,
    pictures: Sequence[int],
    seed: int,
    *,
    filters: Container[int],
) -> Trace:
    """A user's way through the rounds that these bases begin, with a filter made after each round that `filters` names.

    The last base is the one after the last round.
    """
    with tempfile.TemporaryDirectory() as home:
        client = client_of(config, Path(home), pixels[list(pictures)], style, seed)
        rounds, made = [], []
        for number, base in enumerate(bases[:-1], 1):
            rounds.append(vector(change(client, base, number)))
            if number in filters:
                made.append(vector(filter_change(client, bases[number], config.training.iterations)))
        return Trace(index, tuple(pictures), tuple(rounds), tuple(made[:1] + made[-1:]))


def filter_change(client: Client, base: Base, iterations: int) -> Params:
    """The filter that the client makes from a base, against that base."""
    weights = client.personalize(base, iterations=iterations).result().weights
    whole = base.transform()
    return params.subtract({name: weights[name] for name in whole}, whole)


def vector(change: Params) -> Vector:
    """A change as one vector, its tensors in the order of their names."""
    return flatten(change).astype(np.float16)


def advance(base: Base, changes: Iterable[Params], shares: Sequence[str]) -> Base:
    """The base of the next round: the shared parameters moved by the plain mean of the users' changes."""
    rows = list(changes)
    moved = {name: base.weights[name] + sum((row[name] for row in rows), torch.zeros(())) / len(rows) for name in shares}
    record = {**base.record, "round": int(base.record.get("round", 0)) + 1}
    return replace(base, weights={**base.weights, **moved}, record=record)


def draws(rng: np.random.Generator, pool: int, each: int) -> Iterator[tuple[int, ...]]:
    """Which pictures each user holds: `each` of the pool, drawn anew for every user."""
    while True:
        yield tuple(sorted(rng.choice(pool, each, replace=False).tolist()))


def seed_of(config: Config, *words: object) -> int:
    """A seed of the audit's own."""
    return derive(config.training.seed, "audit", *words)
