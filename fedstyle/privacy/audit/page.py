"""An audit as one page that a data-protection officer can read: what leaks, what was checked, how, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedstyle.report.html import Html, join, table, tag
from fedstyle.report.words import NOTHING, figure, percent, plural

NOISED = "clipped and noised"
MARKS = {"met": "good", "not met": "bad", "unresolved": "none"}
METHOD = {
    "Style named": "The attacker simulates users of every style on public pictures, learns from their updates (or from sums of them, as the"
    " release has it) what tells styles apart, and names the likeliest. Chance is one in the number of styles.",
    "Membership": "Knowing the style, the attacker scores a pile of photos, some of which were trained on, by how the step that each alone"
    " would make lies to what was seen, beyond what its own users of the style would have shown. AUC is the chance that a photo that was"
    " trained on scores over one that was not: 0.5 is guessing. The share found at 1 % false alarms is in audit.json.",
    "Photo rebuilt": "Of a user with a single photo, the attacker guesses pixels by what it learned from single photos of its own. The gain"
    " is in dB over the best of a mean picture, a smoothed one, a mean colour, and the same guess from a random update, none of which knows"
    " the user. A search by gradients runs beside it and counts only where it works at all.",
    "What is left of the base": "Users whom no round asked make a filter in 25 steps from the base of a setting, and from the base that"
    " the same rounds made without clipping and noise; their losses on pictures that they do not hold are compared.",
    "Checks of the aggregator": "Rounds run as in a federation, through Flower, its strategy FedAvg and every check of a reply, with"
    " made-up updates. Each check knows the law of what should come out. Seeded faults show that each check can see what it is there for.",
    "Canaries": "Made-up users, each in the federation with chance one half, are guessed from the released means (Steinke, Nasr, Jagielski"
    " 2023). The more are guessed right, the larger epsilon must be. The bound finds faults; it never proves safety.",
}
LEDE = (
    "Keeping the norms on the device is not a privacy mechanism. The table says what an attacker makes of what it sees, with 95 %"
    " intervals. A limit is met when the whole interval keeps it, and unresolved when the interval is too wide to say, or an attack does"
    " not work where it must."
)


def headline(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence: the setting that protects best, or that none is shown to."""
    verdicts = _verdicts(result)
    bad = [name for name, row in verdicts.items() if "not met" in row]
    good = [name for name, row in verdicts.items() if set(row) == {"met"} and name != "nothing"]
    if result["mode"] == "private":
        row = verdicts[NOISED]
        left = [one["worse"]["verdict"] for one in result["frontier"]["utility"] if "clip" in one][:1]
        limit = percent(result["targets"]["utility"])
        words = {"met": f", and unseen users lose less than {limit} by it", "not met": f", and unseen users lose more than {limit} by it"}
        useful = words.get(left[0] if left else "", "")
        names = ("style", "membership", "photo")
        if wrong := [f"{name} {verdict}" for name, verdict in zip(names, row, strict=True) if verdict != "met"]:
            kept = ("none", "one", "two")[3 - len(wrong)]
            return f"The private mode keeps {kept} of three limits on what leaks ({', '.join(wrong)}){useful}."
        return f"The private mode keeps every limit on what leaks{useful}."
    if good:
        return f"Of the releases attacked here, these keep every limit: {', '.join(good)}."
    if bad:
        return f"No release is shown to keep every limit; these break one: {', '.join(bad)}."
    return "Nothing is resolved: the audit was too small, or its attacks too weak, to tell."


def body(result: Mapping[str, Any]) -> Html:
    """Everything that is seen."""
    return join(
        tag("header", tag("p", "fedstyle · audit of privacy", class_="brand"), tag("h1", headline(result)), tag("p", LEDE, class_="lede")),
        tag("main", _releases(result), _frontier(result), _controls(result), _aggregator(result["mechanism"]), _method(result)),
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
    heads: list[object] = ["What is seen", "Rounds", f"Style named (limit {percent(goal['reidentification'])})", "",
                           f"Membership AUC (limit {goal['membership']:g})", "",
                           f"Photo, dB (limit {goal['reconstruction']:g})", ""]  # fmt: skip
    rows: list[list[object]] = []
    for row in result["releases"]:
        named, auc, gain = _figures(row)
        cells = [
            _share(named),
            _mark(named),
            _interval(auc, 2),
            _mark(auc),
            _interval(gain, 1),
            _mark(gain),
        ]
        rows.append([row["release"], row["rounds"], *cells])
    chance = f"Chance names the style in {percent(goal['chance'])} of cases; {plural(work['trials'], 'user')} were tried."
    if result["mode"] == "private":
        chance += f' The configuration is of the private mode: "{NOISED}" is what it promises against, at its noise, to someone who knows'
        chance += " everybody else's update. Its server sees less: the sum of a whole cohort, with that noise."
    abouts = {row["release"]: row["about"] for row in result["releases"]}
    return _section(
        "releases",
        "What each release tells",
        tag("p", chance, class_="note"),
        table("Seven releases side by side, with 95 % intervals", heads, rows, numbers=2),
        tag("dl", *(tag("div", tag("dt", tag("b", name)), tag("dd", about)) for name, about in abouts.items())),
    )


def _frontier(result: Mapping[str, Any]) -> Html:
    """What less noise would tell, and what noise leaves of the base."""
    private: list[list[object]] = []
    for row in result["frontier"]["privacy"]:
        named, auc, gain = _figures(row)
        figures = [_share(named), _mark(named), _interval(auc, 2), _mark(auc), _interval(gain, 1), _mark(gain)]
        private.append([figure(row["noise"]), figure(row["epsilon"]), *figures])
    useful: list[list[object]] = []
    for row in result["frontier"]["utility"]:
        about = row["setting"] or f"noise {figure(row['noise'])}, clipping norm {figure(row['clip'])}"
        moved = percent(row["of the base"]) if "clip" in row else NOTHING
        useful.append([about, moved, f"{100 * row['worse']['value']:+.0f} %", _range(row["worse"]), _mark(row["worse"])])
    note = (
        "How much a release tells hangs on the noise multiplier alone, as noise is measured in the clipping norm; what is left of the "
        "base hangs on both. A small clipping norm keeps the base and learns little from so few users."
    )
    limit = percent(result["targets"]["utility"])
    heads: list[object] = ["Noise", "Epsilon", "Style named", "", "Membership AUC", "", "Photo rebuilt, dB", ""]
    return _section(
        "frontier",
        "How much noise, and what it costs",
        tag("p", note, class_="note"),
        table("Clipped and noised, after all rounds, to someone who knows everybody else's update", heads, private),
        table(
            f"Loss of unseen users after 25 steps over that from the base without noise (limit {limit})",
            ["Setting", "Noise, of the base's length", "More loss", "95 %", ""],
            useful,
            numbers=1,
        )
        if useful
        else "",
    )


def _range(one: Mapping[str, Any]) -> str:
    return f"{100 * one['low']:+.0f} to {100 * one['high']:+.0f} %"


def _controls(result: Mapping[str, Any]) -> Html:
    controls = result["controls"]
    learned, search = controls["reconstruction"], controls["search"]
    reached = ", ".join(f"{value:.0f}" for value in search["psnr"])
    gained = ", ".join(f"{round(value, 1) + 0.0:.1f}" for value in search["plain"])
    limit = result["targets"]["reconstruction"]
    small = f"{reached} dB from a network that leaks ({search['needed']:g} needed)"
    here = f"a gain of {gained} dB here ({limit:g} needed)"
    rows: list[list[object]] = [
        ["Photo rebuilt", _holds(learned), f"a gain of {_interval(learned, 1)} dB from this network's plain gradient ({limit:g} needed)"],
        ["Photo searched by gradients", _holds(search), f"{small}; {here}"],
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
        [
            one["name"],
            one["path"],
            figure(one["found"]),
            figure(one["wanted"]),
            f"{one['chance']:.2g}",
            _word(one["passed"], "passed", "failed"),
        ]
        for one in mechanism["checks"]
    ]
    faults: list[list[object]] = [
        [
            one["name"],
            one["size"],
            one["check"],
            f"{figure(one['found'])}, not {figure(one['wanted'])}",
            _word(one["caught"], "caught", "missed"),
        ]
        for one in mechanism["faults"]
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
        f"Clipping norm {figure(mechanism['clip'])} ({mechanism['clip from']}), noise multiplier {figure(mechanism['noise'])}, "
        f"{mechanism['cohort']:g} of {mechanism['population']:,} users expected a round by {mechanism['sampler']} sampling, "
        f"{plural(mechanism['rounds'], 'round')}: epsilon {mechanism['epsilon']:.2f} at delta {mechanism['delta']:.1e}. "
        f"Unit: one user with all their photos; neighbours: {mechanism['neighbours']}; accountant: {str(mechanism['accountant']).upper()}. "
        + ("Sums are secure and devices add the noise: sampling saves nothing against the server. " if mechanism["secure"] else "")
        + "Not covered: metrics, logs, who took part, and filters that users share."
    )
    return _section(
        "aggregator",
        "Does the aggregator do what is accounted?",
        tag("p", promise, class_="note"),
        table(
            f"Checks, with a false alarm in {1 / mechanism['false alarms']:,.0f} runs of all",
            ["Check", "Rounds with", "Found", "Wanted", "Chance", ""],
            checks,
            numbers=2,
        ),
        table("Seeded faults", ["Fault", "Size", "Check", "Found", ""], faults, numbers=9),
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
