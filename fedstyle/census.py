"""A population in numbers, before anything trains: a row a client, and how uneven styles and photos are spread over them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedstyle.population import Device, Population
from fedstyle.roster import Role


def census(population: Population) -> dict[str, Any]:
    """What `simulate --dry-run --json` prints; see `row` and `totals` for its parts."""
    return {
        "format": "fedstyle-population-1",
        "clients": [row(device) for device in population.devices],
        "totals": totals(population),
        "photos_skipped": dict(population.skipped),
    }


def row(device: Device) -> dict[str, Any]:
    """A client's numbers; `kinds` counts its training photos by kind, where kinds are known."""
    return {
        "id": device.id,
        "style": device.style_name,
        "strength": device.strength,
        "density": device.density,
        "photos": len(device.photos),
        "heldout": len(device.heldout),
        "role": device.role,
        "kinds": dict(sorted(Counter(device.kinds).items())),
    }


def totals(population: Population) -> dict[str, Any]:
    """Numbers of the whole. `skew` is the mean over clients of `distance` between a client's mix of kinds and that of all; or None."""
    devices = population.devices
    sizes = [len(device.photos) for device in devices]
    whole = Counter(kind for device in devices for kind in device.kinds)
    return {
        "clients": len(devices),
        "roles": {role: count for role in Role if (count := sum(device.role is role for device in devices))},
        "photos": len({path for device in devices for path in device.photos.paths}),
        "heldout": len({path for device in devices for path in device.heldout.paths}),
        "photos_a_client": {"least": min(sizes), "median": statistics.median(sizes), "most": max(sizes)},
        "styles": dict(sorted(Counter(device.style_name for device in devices).items(), key=lambda item: (-item[1], item[0]))),
        "kinds": dict(sorted(whole.items())),
        "skew": round(statistics.fmean(distance(Counter(device.kinds), whole) for device in devices), 4) if whole else None,
    }


def distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """The total variation distance of two mixes given as counts: half the sum of |share - share|, 0 for alike, 1 for nothing in common."""
    first, second = sum(one.values()), sum(other.values())
    return sum(abs(one.get(kind, 0) / first - other.get(kind, 0) / second) for kind in {*one, *other}) / 2
