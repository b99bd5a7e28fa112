"""How fast fedstyle stylises a photo, beside the reference network in eager fp32, and how faithfully.

    python benchmarks/stylize.py

needs no data and no weights. See README.md in this folder.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from reference import options, pictures, ratio, reference_net, seconds, settle
from torch import Tensor

from fedstyle.base import Base
from fedstyle.filter import Filter
from fedstyle.net import portable

GOALS = {"cnn": 3.0, "cnnLite": 8.0}
"""How many times as fast as the reference network of 32 channels each is meant to be, at 45 dB or more."""


def make_filter(arch: str, width: int | None) -> Filter:
    """A filter with random weights whose pictures have the contrast of real ones: pixels spread over the whole range."""
    weights = dict(Base.new(arch, width=width).weights)
    with torch.no_grad():
        seen = torch.logit(Filter(arch, "reflect", weights).net(pictures(1, 128).float() / 255))
        weights["out.conv.weight"] = weights["out.conv.weight"] * (2 / seen.std())
        weights["out.conv.bias"] = weights["out.conv.bias"] * 0
    return Filter(arch, "reflect", weights)


def main(words: Sequence[str] | None = None) -> None:
    args = settle(options(__doc__, "stylize.py --repeats 9", repeats=9, size=512), words)
    photo = pictures(1, args.size).float() / 255
    reference = reference_net(args.width or 32).eval()
    filters = {arch: make_filter(arch, args.width) for arch in GOALS}
    for theirs, ours in zip(reference.parameters(), filters["cnn"].net.parameters(), strict=True):  # the same layers in the same order
        theirs.data.copy_(ours)

    @torch.no_grad()
    def run_reference() -> Tensor:
        return reference(photo)

    steps = {"reference": run_reference} | {arch: (lambda one=one: one.stylise(photo)) for arch, one in filters.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.repeats + 1):  # they take turns, so that drift of the machine touches all alike
        for name, step in steps.items():
            took = seconds(step, args.clock)
            if turn:  # the first warms up
                times[name].append(took)
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.3f} s")
    for arch, goal in GOALS.items():
        plain = torch.sigmoid(run_reference()) if arch == "cnn" else portable(filters[arch].net)(photo)
        noise = (filters[arch].stylise(photo).clone() - plain).square().mean()
        print(f"{arch} stylising ratio: {ratio(times, arch):.1f}x")
        print(f"    goal: {goal:.0f}x")
        print(f"{arch} stylising fidelity: {-10 * noise.clamp_min(1e-20).log10():.1f} dB (contrast {plain.std():.2f})")
        print("    goal: 45 dB")


if __name__ == "__main__":
    main()
