"""What teaches a small feature network VGG-16's taps: crops of one split, adversaries, the teacher's targets, and the loop.

The student learns from pictures that are made as it goes, also by adversaries that train against it (after DAgger, Ross et al. 2011), for a
filter finds whatever its features do not see. A cycle makes four new crops, lets VGG-16 label them, and takes two steps on crops drawn from
the last few thousand. `prune.py` gives it its first weights and is what runs.
"""

from __future__ import annotations

import copy
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle import params
from fedstyle.demo import demo_photos
from fedstyle.hardware import has_fast_bf16
from fedstyle.net import InstanceNorm, TransformNet, initialise
from fedstyle.paint import PAINTERS, paint
from fedstyle.perceptual import FeatureNet, Objective, calibrate, gram
from fedstyle.photos import Photos

SPLITS = Path(__file__).parents[1] / "splits.toml"
CROP, SOURCE, CHUNK = 96, 192, 12
"""Sides in pixels of a crop and of the pictures that crops are cut from, and crops a step."""
SOURCES, FRAME, JUDGES = 300, 300, 96
"""Pictures of each kind that crops are cut from, crops that set VGG's principal directions, and crops that only judge."""
PLAIN, PAINTED = 900, 1600
"""Labelled crops that are kept: photos and styles, and what adversaries made."""
WEIGHTS = (1.0, 2.0, 1.5)
"""Of the taps' squared errors. The relative Gram errors' is 1: pruning has brought them near already, and 3 was no better."""


class Library:
    """What one split may show: pictures (n, 3, SOURCE, SOURCE) uint8 of photos and of styles."""

    def __init__(self, data: Path, split: str) -> None:
        splits = tomllib.loads(SPLITS.read_text())
        files = [data / "photos" / name for name in splits["photos"][split]]
        files += demo_photos().values() if "demo" in splits["collections"][split] else []
        self.photos = Photos.open(files).crops(SOURCE, SOURCES, 1)
        styles = Photos.open([data / "styles" / name for name in splits["styles"][split]]).crops(SOURCE, SOURCES * 3 // 4, 2)
        names = [name for name in splits["painters"][split] if name in PAINTERS]
        painted = [paint(names[i % len(names)], side=SOURCE, seed=i // len(names)) for i in range(SOURCES // 8)]
        self.styles = torch.cat([styles, torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in painted])])


def window(pictures: Tensor, count: int, side: int) -> Tensor:
    """Random windows (count, 3, side, side) of pictures, in [0, 1], each at its own scale, some flipped and with colours exchanged."""
    cut = []
    for index in torch.randint(len(pictures), (count,)).tolist():
        edge = int(torch.randint(min(side, SOURCE), SOURCE + 1, ()))
        y, x = torch.randint(SOURCE - edge + 1, (2,)).tolist()
        piece = pictures[index : index + 1, :, y : y + edge, x : x + edge].float() / 255
        piece = F.interpolate(piece, size=(side, side), mode="bilinear", antialias=True)[0]
        piece = piece.flip(-1) if torch.rand(()) < 0.5 else piece
        cut.append(piece[torch.randperm(3)] if torch.rand(()) < 0.4 else piece)
    return torch.stack(cut)


def pattern(side: int) -> Tensor:
    """A periodic pattern (3, side, side) of one colour and any direction, soft or hard, in all of the crop or in a part of it.

    VGG answers some gratings with many times their contrast, and pictures hold few of them: what a filter paints must not surprise here.
    Periods are 2, 3, 4 or 8 pixels along the axes (what upsampling leaves), or any from 2 to 24 in any direction.
    """
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    roll, phase = torch.rand(6), 6.283 * torch.rand(2)
    if roll[0] < 0.4:
        period = (2, 2, 3, 4, 4, 8)[int(torch.randint(6, ()))]
        down, across = ((place.remainder(period) < period / 2).float() * 2 - 1 for place in (y, x))
    else:
        turn, period = 3.1416 * roll[1], 2 * 12 ** roll[2]
        down = torch.sin(6.283 / period * (torch.cos(turn) * x + torch.sin(turn) * y) + phase[0])
        across = torch.sin(6.283 / period * (torch.cos(turn) * y - torch.sin(turn) * x) + phase[1])
        down, across = (torch.tanh(4 * wave) if roll[3] < 0.3 else wave for wave in (down, across))
    wave = (down, down, down * across, (down + across) / 2)[int(torch.randint(4, ()))]
    if roll[4] < 0.3:
        wave = wave * torch.sigmoid(8 * (torch.rand(4)[:, None, None] - 0.5) * torch.stack([x, y, side - x, side - y]) / side).prod(0) * 4
    colour = torch.ones(3) if roll[5] < 0.4 else torch.randn(3)
    return wave * colour[:, None, None] * 0.01 * 25 ** torch.rand(())


def disturb(image: Tensor, other: Tensor) -> Tensor:
    """A crop (3, S, S) as half-trained filters might leave it: blended, blurred, coarse, recoloured, with grain, patterns, flat parts."""
    side, roll = image.shape[-1], torch.rand(8)
    if roll[0] < 0.25:
        image = torch.lerp(image, other, float(torch.rand(())))
    if roll[1] < 0.25:
        factor = (2, 2, 4)[int(torch.randint(3, ()))]
        mode = "bilinear" if roll[1] < 0.12 else "nearest"
        image = F.interpolate(F.avg_pool2d(image[None], factor), size=(side, side), mode=mode)[0]
    if roll[2] < 0.6:
        image = (image - 0.5) * (0.4 + 1.4 * torch.rand(())) + 0.5 + 0.3 * torch.randn(3 if roll[2] < 0.3 else 1)[:, None, None]
    if roll[3] < 0.4:
        cells = side // (1, 1, 2, 3, 4, 8)[int(torch.randint(6, ()))]
        grain = torch.randn(1, 3 if roll[3] < 0.25 else 1, cells, cells) * (0.3 * torch.rand(()))
        image = image + F.interpolate(grain, size=(side, side), mode="nearest" if roll[3] < 0.15 else "bilinear")[0]
    if roll[4] < 0.5:
        image = image + pattern(side)
    if roll[5] < 0.08:
        image = torch.where(other.mean(0) < 0.5, image, torch.rand(3)[:, None, None])
    return image.clamp(0, 1)


def plain(library: Library, count: int) -> Tensor:
    """Crops (count, 3, CROP, CROP) of photos and styles, half of each, every other one disturbed."""
    crops = torch.cat([window(library.photos, count - count // 2, CROP), window(library.styles, count // 2, CROP)])
    order = torch.randperm(count)
    return torch.stack([disturb(crops[i], crops[order[i]]) if torch.rand(()) < 0.6 else crops[i] for i in range(count)])


def task(student: FeatureNet, style: Tensor, strength: float) -> Objective:
    """What an adversary is to reach: a style (1, 3, H, W) as the student sees it now."""
    with torch.no_grad():
        return Objective(student, tuple(gram(tap)[0] for tap in student(style)), 1.0, 10 * strength)


def filters(library: Library, student: FeatureNet) -> Iterator[Tensor]:
    """What small transform nets paint on their way, four crops a turn; a net lives some dozens of turns, then a new one learns a new style.

    Every third net upsamples by transposed convolutions, which leave checkerboards unless the features punish them.
    """
    for life in range(10**9):
        net = TransformNet("cnnLite", width=(8, 8, 12, 16)[life % 4])
        initialise(net, int(torch.randint(2**31, ())))
        if life % 3 == 2:
            for name in ("up1", "up2"):
                conv = getattr(net, name).conv
                inputs, outputs = conv.in_channels, conv.out_channels
                layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
                setattr(net, name, nn.Sequential(layer, InstanceNorm(outputs), nn.ReLU()))
            net.portable = True  # torch's operators alone: `fast` knows no such layer
        adam = torch.optim.Adam(net.parameters(), lr=float(2e-3 * 4 ** torch.rand(())))
        style, strength = window(library.styles, 1, SOURCE * 3 // 4), float(4 ** (2 * torch.rand(()) - 1))
        for _ in range(int(torch.randint(12, 80, ()))):
            objective = task(student, style, strength)
            for _ in range(3):
                photos = window(library.photos, 4, CROP)
                y = net(photos)
                descend(adam, objective, y, photos)
            yield y.detach()


def canvases(library: Library, student: FeatureNet) -> Iterator[Tensor]:
    """Four pictures whose pixels themselves descend the loss (Gatys et al. 2016), from photos or noise, for some turns; then others."""
    while True:
        photos, roll = window(library.photos, 4, CROP), torch.rand(())
        first = photos if roll < 0.7 else torch.rand_like(photos) if roll < 0.85 else plain(library, 4)
        pixels = torch.logit(first.clamp(0.03, 0.97)).requires_grad_()
        adam = torch.optim.Adam([pixels], lr=float(0.05 * 6 ** torch.rand(())))
        objective = task(student, window(library.styles, 1, SOURCE * 3 // 4), float(4 ** (2 * torch.rand(()) - 1)))
        for _ in range(int(torch.randint(2, 12, ()))):
            for _ in range(4):
                descend(adam, objective, torch.sigmoid(pixels), photos)
            yield torch.sigmoid(pixels).detach()


def descend(adam: torch.optim.Optimizer, objective: Objective, y: Tensor, photos: Tensor) -> None:
    """One step of an adversary."""
    with torch.no_grad():
        content = objective.content_features(photos)
    adam.zero_grad()
    objective(y, content).total.mean().backward()
    adam.step()


def rows(tap: Tensor) -> Tensor:
    """(N, C, H, W) as (N H W, C)."""
    return tap.permute(0, 2, 3, 1).flatten(0, 2)


class Teacher:
    """VGG-16's taps, average-pooled by 2, centred, in the frame of their principal directions, of total variance 1 on plain crops."""

    def __init__(self, vgg: FeatureNet, crops: Tensor, ranks: list[int]) -> None:
        self.vgg = vgg
        self.frames: list[Tensor] = []
        self.offsets: list[Tensor] = []
        self.means: list[Tensor] = []
        for index, rank in enumerate(ranks):
            flat = torch.cat([rows(self._pooled(part)[index]) for part in crops.split(CHUNK)]).double()
            mean, moment = flat.mean(0), flat.T @ flat / len(flat)
            total = moment.trace() - mean @ mean
            _, vectors = torch.linalg.eigh(moment)  # of the second moment, not of the variance: Gram matrices hold the mean too
            frame = vectors[:, -rank:]
            kept = (frame.T @ moment @ frame).trace() - (mean @ frame).square().sum()
            print(f"tap {index + 1}: {rank} directions hold {float(kept / total):.3f} of the variance", flush=True)
            frame = (frame / total.sqrt()).float()
            self.frames.append(frame)
            self.means.append(mean.float())
            self.offsets.append(mean.float() @ frame)

    @torch.no_grad()
    def _pooled(self, crops: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(tap, 2) for tap in self.vgg(crops)]

    def __call__(self, crops: Tensor) -> list[Tensor]:
        """The targets of crops in [0, 1], in half precision; clamped, for rare patterns excite VGG beyond its range."""
        parts = [
            [torch.einsum("nchw,cr->nrhw", tap - m[:, None, None], f) for tap, m, f in zip(taps, self.means, self.frames, strict=True)]
            for taps in (self._pooled(part) for part in crops.split(CHUNK))
        ]
        return [torch.cat(tap).clamp(-6e4, 6e4).half() for tap in zip(*parts, strict=True)]


class Ring:
    """The last `size` crops (uint8) with their targets."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self.crops: Tensor = torch.empty(0)
        self.targets: list[Tensor] = []

    def add(self, crops: Tensor, targets: list[Tensor]) -> None:
        """Put crops (n, 3, S, S) in [0, 1] in the place of the oldest."""
        if not self.count:
            self.crops = torch.empty(self.size, *crops.shape[1:], dtype=torch.uint8)
            self.targets = [target.new_empty(self.size, *target.shape[1:]) for target in targets]
        for i in range(len(crops)):
            place = self.count % self.size
            self.crops[place] = (crops[i] * 255).round().to(torch.uint8)
            for kept, target in zip(self.targets, targets, strict=True):
                kept[place] = target[i]
            self.count += 1

    def draw(self, count: int) -> tuple[Tensor, list[Tensor]]:
        """Crops in [0, 1] and targets at random."""
        chosen = torch.randint(min(self.count, self.size), (count,))
        return self.crops[chosen].float() / 255, [target[chosen].float() for target in self.targets]


def errors(outs: list[Tensor], wants: list[Tensor], offsets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Each (taps, n): squared error, the target's own energy, and the relative error of the Gram matrices once VGG's mean is back."""
    error = torch.stack([(out - want).square().sum(1).mean((1, 2)) for out, want in zip(outs, wants, strict=True)])
    energy = torch.stack([want.square().sum(1).mean((1, 2)) for want in wants])
    grams = []
    for out, want, offset in zip(outs, wants, offsets, strict=True):
        ours, theirs = gram(out + offset[:, None, None]), gram(want + offset[:, None, None])
        grams.append((ours - theirs).square().sum((1, 2)) / theirs.square().sum((1, 2)))
    return error, energy, torch.stack(grams)


def installed(student: FeatureNet, offsets: list[Tensor]) -> FeatureNet:
    """A frozen copy with VGG's mean put back into the heads, so that taps are VGG's own in a rotated frame and Gram matrices compare."""
    twin = copy.deepcopy(student).requires_grad_(False)
    for stage, offset in zip(twin.stages, offsets, strict=True):
        stage.head.bias += offset
    return twin


def scores(net: FeatureNet, crops: Tensor, wants: list[Tensor], offsets: list[Tensor]) -> str:
    """R2 and relative Gram error of each tap, as text; `net` has VGG's mean in its heads."""
    with torch.no_grad():
        outs = [torch.cat(tap) for tap in zip(*(net(part) for part in crops.split(CHUNK)), strict=True)]
    centred = [out - offset[:, None, None] for out, offset in zip(outs, offsets, strict=True)]
    error, energy, grams = (value.mean(1) for value in errors(centred, [want.float() for want in wants], offsets))
    return " ".join(f"{1 - float(e / v):.3f}" for e, v in zip(error, energy, strict=True)) + " gram " + " ".join(f"{g:.3f}" for g in grams)


def learn(
    student: FeatureNet,
    teacher: Teacher,
    library: Library,
    judges: Library,
    plainly: tuple[Tensor, list[Tensor]],
    cycles: int,
    rate: float,
    out: Path,
) -> None:
    """Train a student of which each stage has a head, and write its weights to `out` every 100 cycles and at the end.

    `plainly` are the first plain crops and their targets.
    """
    offsets = teacher.offsets
    average = copy.deepcopy(student).requires_grad_(False)
    shadow = installed(average, offsets)
    rings = (Ring(PLAIN), Ring(PAINTED))
    rings[0].add(*plainly)
    with torch.random.fork_rng():
        held = plain(judges, JUDGES)
    goal = teacher(held)
    makers = [filters(library, shadow) for _ in range(4)] + [canvases(library, shadow) for _ in range(6)]
    adam = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=2 * cycles, pct_start=0.05, div_factor=10)
    start, half = time.time(), has_fast_bf16(torch.device("cpu"))
    print(f"at first: held R2 {scores(shadow, held, goal, offsets)}", flush=True)
    recent: dict[str, list[Tensor]] = {"filters": [], "canvases": []}
    for cycle in range(1, cycles + 1):
        kind = ("filters", "canvases", "filters", "plain")[cycle % 4]
        if kind != "plain":
            chosen = makers[cycle // 2 % 4] if kind == "filters" else makers[4 + cycle // 4 % 6]
            crops = next(chosen)
            wants = teacher(crops)
            rings[1].add(crops, wants)
            with torch.no_grad():
                centred = [out - offset[:, None, None] for out, offset in zip(shadow(crops), offsets, strict=True)]
                recent[kind].append(torch.stack(errors(centred, [w.float() for w in wants], offsets)).mean(2))
        else:
            crops = plain(library, 4)
            rings[0].add(crops, teacher(crops))
        for _ in range(2):
            parts = [ring.draw(n) for ring, n in zip(rings, (CHUNK // 2 - 1, CHUNK - CHUNK // 2 + 1), strict=True) if ring.count]
            pixels = torch.cat([part[0] for part in parts])
            wants = [torch.cat(tap) for tap in zip(*(part[1] for part in parts), strict=True)]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outs = student(pixels)
            error, energy, grams = errors([out.float() for out in outs], wants, offsets)
            # Relative to each crop's own energy in part, so that the wildest pictures do not drown the others.
            loss = ((error / (0.5 + 0.5 * energy)).mean(1) * torch.tensor(WEIGHTS)).sum()
            loss = loss + (grams / (1 + grams)).mean(1).sum()
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adam.step()
            schedule.step()
            with torch.no_grad():
                for mean, value in zip(average.parameters(), student.parameters(), strict=True):
                    mean.lerp_(value, 1 - min(0.998, 1 - 1 / (cycle + 1)))
        for kept, value in zip(shadow.parameters(), installed(average, offsets).parameters(), strict=True):
            kept.copy_(value)
        if cycle % 100 == 0 or cycle == cycles:
            line = f"cycle {cycle}, {time.time() - start:.0f} s: held R2 {scores(shadow, held, goal, offsets)}"
            for name, rows in recent.items():
                if rows:
                    e, v, g = torch.stack(rows).mean(0)
                    line += (
                        f" | {name} {' '.join(f'{x:.3f}' for x in (1 - e / v).tolist())} gram {' '.join(f'{x:.3f}' for x in g.tolist())}"
                    )
                    rows.clear()
            print(line, flush=True)
            weights = {name: value.half() for name, value in shadow.state_dict().items() if name != "scales"}
            twin = copy.deepcopy(shadow)
            twin.load_state_dict({name: value.float() for name, value in weights.items()} | {"scales": twin.scales})
            params.save(weights | {"scales": calibrate(twin).scales}, out)
