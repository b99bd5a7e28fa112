"""What noise and secure sums promise a run's users: no number without unit, neighbours, sampler, accountant, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedstyle.report.html import Html, join, tag
from fedstyle.report.run import Run
from fedstyle.report.words import figure, is_number

SAMPLERS = {
    "poisson": "each of {population} users with a chance of {rate:.3g}",
    "fixed": "{cohort} of {population} users, each cohort of this size as likely",
}


def promised(run: Run) -> Html | None:
    """The section of a run whose sums carried noise, or were secure; None where neither is so."""
    said = run.summary.get("privacy")
    if not isinstance(said, Mapping) or not said.keys() & {"epsilon", "holds against"}:
        return None
    lede = "No differential privacy, for no noise was added: only that the operator reads no single update."
    if "epsilon" in said:
        lede = f"A user-level differential privacy of epsilon {figure(said['epsilon'])} at delta {said.get('delta'):.2g}."
    if said.get("simulated"):
        lede = f"As if drawn in secret: {lede} In this simulation the noise follows from the run's seed, so that it promises nothing."
    words = {"unit": "Unit", "neighbours": "Neighbours", "mechanism": "Mechanism", "accountant": "Accountant"}
    words |= {"operator reads": "The operator reads", "holds against": "Secure sums hold against"}
    items = [(label, str(said[key])) for key, label in words.items() if key in said]
    if is_number(said.get("clip")):
        items.append(("Clipping norm", figure(said["clip"])))
    if "budget" in said:
        items.append(("Budget", f"epsilon {figure(said['budget'])}"))
    items += [("Rounds", _rounds(entry)) for entry in said.get("samplers", [])]
    left = said.get("not covered", [])
    return join(
        tag("h3", "What is promised"),
        tag("p", lede),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items)),
        tag("p", "Not covered:"),
        tag("ul", *(tag("li", one) for one in left)),
    )


def _rounds(entry: Mapping[str, Any]) -> str:
    """A kind of round, such as `20, with noise 1.1, of each of 100 users with a chance of 0.1`."""
    words = SAMPLERS[entry["sampler"]].format(**{"cohort": 0, "rate": 0.0, **entry})
    return f"{entry['rounds']}, with noise of {figure(entry['noise'])} times the clipping norm, asking {words}"
