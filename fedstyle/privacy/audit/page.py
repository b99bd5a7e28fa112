"""An audit as one page that a data-protection officer can read: what leaks, what was checked, how, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.words import NOTHING, figure, percent, plural

MARKS = {"met": "good", "not met": "bad", "unresolved": "none"}
METHOD = {
    "Style named": "The attacker simulates users of every style on public pictures, and names the style whose simulated updates lie most"
    " like the one that was seen. Chance is one in the number of styles.",
    "Membership": "Knowing the style, the attacker scores a pile of photos, some of which were trained on, by how the step that each alone"
    " would make lies to what was seen. AUC is the chance that a photo that was trained on scores over one that was not: 0.5 is guessing."
    " TPR is the share of trained photos found at 1 % false alarms.",
    "Photo rebuilt": "Of a user with a single photo, the attacker searches the picture whose step is most like what was seen. The gain is"
    " in dB over the best of a mean picture, a smoothed one, and the same search on a random update, none of which knows the user.",
    "Checks of the aggregator": "The code that clips, sums and adds noise is run many times on made-up updates. Each check knows the law of"
    " what should come out. Seeded faults show that each check can see what it is there for.",
    "Canaries": "Made-up users, each in the federation with chance one half, are guessed from the released means (Steinke, Nasr, Jagielski"
    " 2023). The more are guessed right, the larger epsilon must be. The bound finds faults; it never proves safety.",
}
LEDE = (
    "Keeping the norms on the device is not a privacy mechanism. The table says what an attacker makes of what it sees, with 95 %"
    " intervals. A limit is met when the whole interval keeps it, and unresolved when the interval is too wide to say."
)


def headline(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence: the setting that protects best, or that none is shown to."""
    verdicts = _verdicts(result)
    bad = [name for name, row in verdicts.items() if "not met" in row]
    good = [name for name, row in verdicts.items() if set(row) == {"met"} and name != "nothing"]
    if good:
        return f"Of the releases attacked here, these keep every limit: {', '.join(good)}."
    if bad:
        return f"No release is shown to keep every limit; these break one: {', '.join(bad)}."
    return "Nothing is resolved: the audit was too small, or its attacks too weak, to tell."


def body(result: Mapping[str, Any]) -> Html:
    """Everything that is seen."""
    return join(
        tag("header", tag("p", "fedstyle · audit of privacy", class_="brand"), tag("h1", headline(result)), tag("p", LEDE, class_="lede")),
        tag("main", _releases(result), _controls(result), _aggregator(result["mechanism"]), _method(result)),
        tag("footer", "This page holds everything it shows. It sends nothing and loads nothing."),
    )


def _verdicts(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """The verdicts of each release after all rounds."""
    last = max(row["rounds"] for row in result["releases"])
    return {
        row["release"]: [one["verdict"] for one in _figures(row) if one is not None] for row in result["releases"] if row["rounds"] == last
    }


def _figures(row: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    return [row["reidentification"], row["membership"]["auc"], row["reconstruction"]]


def _releases(result: Mapping[str, Any]) -> Html:
    goal, work = result["targets"], result["workload"]
    heads: list[object] = ["What is seen", "After", f"Style named (limit {percent(goal['reidentification'])})", "",
                           f"Membership AUC (limit {goal['membership']:g})", "", "TPR at 1 %",
                           f"Photo rebuilt (limit {goal['reconstruction']:g} dB)", ""]  # fmt: skip
    rows: list[list[object]] = []
    for row in result["releases"]:
        named, auc, gain = _figures(row)
        cells = [
            _share(named),
            _mark(named),
            _interval(auc, 2),
            _mark(auc),
            _share(row["membership"]["tpr"]),
            _interval(gain, 1),
            _mark(gain),
        ]
        rows.append([row["release"], plural(row["rounds"], "round"), *cells])
    chance = f"Chance names the style in {percent(goal['chance'])} of cases; {plural(work['trials'], 'user')} were tried."
    abouts = {row["release"]: row["about"] for row in result["releases"]}
    return _section(
        "releases",
        "What each release tells",
        tag("p", chance, class_="note"),
        table("Seven releases side by side, with 95 % intervals", heads, rows, numbers=2),
        tag("dl", *(tag("div", tag("dt", tag("b", name)), tag("dd", about)) for name, about in abouts.items())),
    )


def _controls(result: Mapping[str, Any]) -> Html:
    controls = result["controls"]
    rebuilt = controls["reconstruction"]
    reached = ", ".join(f"{value:.0f}" for value in rebuilt["psnr"])
    gained = ", ".join(f"{round(value, 1) + 0.0:.1f}" for value in rebuilt["plain"])
    limit = result["targets"]["reconstruction"]
    small = f"{reached} dB from a small network that is known to leak ({rebuilt['needed']:g} needed)"
    here = f"a gain of {gained} dB from this network's plain gradient ({limit:g} needed)"
    rows: list[list[object]] = [
        ["Photo rebuilt", _holds(rebuilt), f"{small}; {here}"],
        ["Style named", _holds(controls["reidentification"]), "over chance where the update is seen in the clear"],
        ["Membership", _holds(controls["membership"]), "over guessing where the update is seen in the clear"],
    ]
    note = "An attack that fails where it must succeed says nothing elsewhere: without its control no limit counts as met."
    return _section(
        "controls",
        "Do the attacks work at all?",
        tag("p", note, class_="note"),
        table("Positive controls", ["Attack", "", "Found"], rows, numbers=9),
    )


def _aggregator(mechanism: Mapping[str, Any]) -> Html:
    checks: list[list[object]] = [
        [one["name"], figure(one["found"]), figure(one["wanted"]), f"{one['chance']:.2g}", _word(one["passed"], "passed", "failed")]
        for one in mechanism["checks"]
    ]
    faults: list[list[object]] = [
        [one["name"], one["size"], one["check"], _word(one["caught"], "caught", "missed")] for one in mechanism["faults"]
    ]
    canaries: list[list[object]] = [
        [
            one["about"],
            f"{one['right']} of {one['guesses']}",
            f"{one['low']:.2f}",
            f"{one['claimed']:.2f}",
            _word(not one["alarm"], "no alarm", "alarm"),
        ]
        for one in mechanism["canaries"]
    ]
    small = mechanism["canaries"][0]["delta"]
    promise = (
        f"Clipping norm {figure(mechanism['clip'])} ({mechanism['clip from']}), noise multiplier {mechanism['noise']:g}, "
        f"{mechanism['cohort']:g} of {mechanism['population']:,} users expected a round by {mechanism['sampler']} sampling, "
        f"{plural(mechanism['rounds'], 'round')}: epsilon {mechanism['epsilon']:.2f} at delta {mechanism['delta']:.1e}. "
        f"Unit: one user with all their photos; neighbours: {mechanism['neighbours']}; accountant: {str(mechanism['accountant']).upper()}. "
        "Not covered: metrics, logs, who took part, and filters that users share."
    )
    return _section(
        "aggregator",
        "Does the aggregator do what is accounted?",
        tag("p", promise, class_="note"),
        table(
            f"Checks, with a false alarm in {1 / mechanism['false alarms']:,.0f} runs of all",
            ["Check", "Found", "Wanted", "Chance", ""],
            checks,
        ),
        table("Seeded faults", ["Fault", "Size", "Check", ""], faults, numbers=9),
        table(
            f"Canaries: epsilon at delta {small:.0e}, with 95 % confidence",
            ["Setting", "Guessed right", "At least", "Accounted", ""],
            canaries,
        ),
    )


def _method(result: Mapping[str, Any]) -> Html:
    work: list[list[object]] = [[name, f"{value:,}" if isinstance(value, int) else value] for name, value in result["workload"].items()]
    return _section(
        "method",
        "Method, and what is not known",
        tag("dl", *(tag("div", tag("dt", tag("b", name)), tag("dd", text)) for name, text in METHOD.items())),
        table("The workload", ["What", "How much"], work),
        tag("h3", "Limits"),
        tag("ul", *(tag("li", text) for text in _texts(result["limits"])), class_="note"),
    )


def _texts(values: Sequence[Any]) -> list[str]:
    return [str(value) for value in values]


def _section(name: str, title: str, *parts: object) -> Html:
    return tag("section", tag("h2", title, id=f"{name}-title"), *parts, id=name, aria_labelledby=f"{name}-title")


def _mark(one: Mapping[str, Any] | None) -> object:
    return tag("b", one["verdict"], class_=f"mark {MARKS[one['verdict']]}") if one else None


def _word(good: bool, yes: str, no: str) -> Html:
    return tag("b", yes if good else no, class_=f"mark {'good' if good else 'bad'}")


def _holds(control: Mapping[str, Any]) -> Html:
    return _word(control["holds"], "holds", "void")


def _share(one: Mapping[str, Any] | None) -> str:
    return f"{100 * one['value']:.0f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})" if one else NOTHING


def _interval(one: Mapping[str, Any] | None, digits: int) -> str:
    value, low, high = (f"{round(one[key], digits) + 0.0:.{digits}f}" if one else NOTHING for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if one else NOTHING
