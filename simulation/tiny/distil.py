"""Distil VGG-16's first three taps into the embedded feature network `tiny`.

python simulation/tiny/distil.py --photos DIR --styles DIR --vgg FILE --out tiny.safetensors [--steps 12000]

Targets are computed once for a fixed pool of crops, projected on VGG's principal directions; the student then learns from them alone,
which makes a step eight times cheaper than running VGG in it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedstyle import params
from fedstyle.perceptual import calibrate, load_features, tiny_network
from fedstyle.photos import Photos

CROP, CHUNK, JUDGES = 96, 12, 120
"""The side of a crop in pixels, crops a step, and how many at the pool's end only judge."""


def pool(photos: Photos, styles: Photos, count: int, generator: torch.Generator) -> Tensor:
    """Crops (count, 3, CROP, CROP) uint8: photos, styles and blends of both, recoloured, blurred, noisy and rescaled."""
    each = -(-count // 3)
    small = [source.crops(CROP, each, seed) for seed, source in enumerate((photos, styles))]
    large = [
        F.avg_pool2d(source.crops(2 * CROP, each, 9 + seed).float(), 2).to(torch.uint8) for seed, source in enumerate((photos, styles))
    ]
    crops = torch.cat([small[0][: each // 2], small[1], large[0][: each // 2], large[1]])
    crops = crops[torch.randperm(len(crops), generator=generator)][:count].float() / 255
    mixed = []
    for index in range(len(crops)):
        image, roll = crops[index], torch.rand(6, generator=generator)
        if roll[0] < 0.5:
            image = image[torch.randperm(3, generator=generator)]
        if roll[1] < 0.3:
            other = crops[int(torch.randint(len(crops), (1,), generator=generator))]
            image = torch.lerp(image, other, float(roll[2]))
        if roll[3] < 0.25:
            image = F.interpolate(F.avg_pool2d(image[None], 4), scale_factor=4, mode="bilinear" if roll[3] < 0.12 else "nearest")[0]
        gain, shift = 0.6 + 0.8 * roll[4], 0.4 * roll[5] - 0.2
        image = (image - 0.5) * gain + 0.5 + shift
        if roll[2] < 0.35:  # what half-trained filters paint: grain and ringing of every wavelength
            cells = int(2 ** torch.randint(3, 7, (1,), generator=generator)) + 32
            grain = F.interpolate(
                torch.randn(1, 3, cells, cells, generator=generator), size=(CROP, CROP), mode="bilinear", align_corners=False
            )[0]
            image = image + grain * 0.25 * torch.rand(1, generator=generator)
        mixed.append(image.clamp(0, 1))
    return (torch.stack(mixed) * 255).round().to(torch.uint8)


@torch.no_grad()
def taps(vgg: nn.Module, crops: Tensor) -> list[Tensor]:
    """VGG's taps of uint8 crops, average-pooled by 2 to the student's resolution."""
    return [F.avg_pool2d(tap, 2) for tap in vgg(crops.float() / 255)]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("photos", "styles", "vgg", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--pool", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights of an earlier run to go on from")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    photos, styles = Photos.open(Path(options.photos)), Photos.open(Path(options.styles))
    photos, styles = (source.subset([i for i in range(len(source)) if i % 4]) for source in (photos, styles))  # every fourth stays unseen
    vgg = load_features("vgg16", options.vgg)
    crops = pool(photos, styles, options.pool, generator)
    student = tiny_network()
    heads = [stage.head for stage in student.stages]
    ranks = [head.out_channels for head in heads]

    # Principal directions of each tap, from 200 crops.
    sample = [
        torch.cat(parts) for parts in zip(*(taps(vgg, crops[i : i + CHUNK]) for i in range(0, min(200, len(crops)), CHUNK)), strict=True)
    ]
    bases, means, scales = [], [], []
    for tap, rank in zip(sample, ranks, strict=True):
        flat = tap.permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        print(f"tap of {tap.shape[1]} channels: {rank} directions hold {float(values[-rank:].sum() / values.sum()):.3f} of the variance")
        bases.append(vectors[:, -rank:].float())
        means.append(mean.float())
        scales.append(float(values.sum().sqrt()))
    targets: list[list[Tensor]] = [[], [], []]
    start = time.time()
    for i in range(0, len(crops), CHUNK):
        for index, tap in enumerate(taps(vgg, crops[i : i + CHUNK])):
            centred = (tap - means[index][:, None, None]) / scales[index]
            targets[index].append(torch.einsum("nchw,cr->nrhw", centred, bases[index]).half())
    goal = [torch.cat(parts) for parts in targets]
    print(f"targets of {len(crops)} crops in {time.time() - start:.0f} s", flush=True)

    kept = len(crops) - JUDGES
    variance = [float(g[:kept].float().square().sum(1).mean()) for g in goal]

    @torch.no_grad()
    def quality() -> list[float]:
        errors = [0.0, 0.0, 0.0]
        for i in range(kept, len(crops), CHUNK):
            for index, out in enumerate(student(crops[i : i + CHUNK].float() / 255)):
                want = goal[index][i : i + CHUNK].float()
                errors[index] += float((out - want).square().sum(1).mean()) * len(want) / (len(crops) - kept)
        spread = [float(g[kept:].float().square().sum(1).mean()) for g in goal]
        return [1 - error / value for error, value in zip(errors, spread, strict=True)]

    # VGG's mean, put back into the heads at the end, so that the taps are VGG's own in a rotated frame and Gram matrices compare.
    offsets = {f"stages.{i}.head.bias": means[i] @ bases[i] / scales[i] for i in range(3)}
    if options.start:
        given = {name: value.float() - offsets.get(name, torch.zeros(())) for name, value in params.load(options.start).items()}
        student.load_state_dict(given | {"scales": student.scales})
    adam = torch.optim.AdamW(student.parameters(), lr=options.rate, weight_decay=1e-4)
    for p in student.parameters():
        p.requires_grad_(True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, options.rate, total_steps=options.steps, pct_start=0.05)
    for step in range(1, options.steps + 1):
        chosen = torch.randint(kept, (CHUNK,), generator=generator)
        flip = bool(step % 2)
        pixels = crops[chosen].float() / 255
        outs = student(pixels.flip(-1) if flip else pixels)
        loss = torch.zeros(())
        for index, out in enumerate(outs):
            want = goal[index][chosen].float()
            loss = loss + ((out.flip(-1) if flip else out) - want).square().sum(1).mean() / variance[index]
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        adam.step()
        schedule.step()
        if step % 500 == 0 or step == options.steps:
            scores = " / ".join(f"{value:.3f}" for value in quality())
            print(f"step {step}: R2 {scores}, {time.time() - start:.0f} s", flush=True)
            weights = {name: value.detach().clone() for name, value in student.state_dict().items() if name != "scales"}
            weights = {name: (value + offsets.get(name, torch.zeros(()))).half() for name, value in weights.items()}
            twin = tiny_network()
            twin.load_state_dict({"scales": twin.scales} | weights)
            params.save(weights | {"scales": calibrate(twin).scales}, Path(options.out))


if __name__ == "__main__":
    main()
