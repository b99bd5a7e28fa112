"""Clients by their part in the rounds: what unseen, late and flaky ones got, apart from the others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from fedstyle.report.html import Html, table
from fedstyle.report.run import Device, Run
from fedstyle.report.words import NOTHING, change, is_number

WORDS: Mapping[str, str] = {
    "seen": "Seen: could be asked in every round",
    "flaky": "Flaky: failed now and then when asked",
    "late": "Late: could be asked from a later round on",
    "unseen": "Unseen: no round asked them",
}


def by_role(run: Run) -> Html | None:
    """A table of the gain over the base for each role, or None where all clients have one role."""
    groups: dict[str, list[Device]] = {role: [] for role in WORDS}
    for device in run.devices:
        groups.setdefault(str(device.facts.get("role", "seen")), []).append(device)
    rows = [_row(WORDS.get(role, role), devices) for role, devices in groups.items() if devices]
    if len(rows) < 2:
        return None
    heads: list[object] = ["Part in the rounds", "Devices", "Mean total loss", "Least gain", "Worse than the base"]
    return table("What personalisation gained on the base, by part in the rounds", heads, rows)


def _row(words: str, devices: Sequence[Device]) -> list[object]:
    gains = [float(device.facts["improvement"]) for device in devices if is_number(device.facts.get("improvement"))]
    if not gains:
        return [words, len(devices), NOTHING, NOTHING, NOTHING]
    worse = sum(gain < 0 for gain in gains)
    return [words, len(devices), change(statistics.fmean(gains)), change(min(gains)), f"{worse} of {len(gains)}"]
