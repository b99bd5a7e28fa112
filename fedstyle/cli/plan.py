"""What `fedstyle simulate --dry-run` shows: the population as a table, as JSON, and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedstyle.cli.terminal import clean_output, plain, say, say_json

if TYPE_CHECKING:
    from fedstyle.config import Config

HEADS = ("client", "role", "style", "strength", "density", "photos", "held out")


def show_plan(config: Config, page: Path | None, as_json: bool) -> None:
    """Check everything that a run would, train nothing, and show who would train on what; `page` is where to write the picture."""
    with clean_output():
        from fedstyle.census import census
        from fedstyle.report.population import write_population
        from fedstyle.simulate import check

        population = check(config)
        facts = census(population)
        if page:
            write_population(page, population, config)
    if as_json:
        say_json(facts)
        return
    rows = [
        HEADS,
        *(tuple(plain(str(one[head.replace(" ", "") if head != "client" else "id"])) for head in HEADS) for one in facts["clients"]),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if head in HEADS[3:] else f"{cell:<{width}}" for head, cell, width in zip(HEADS, row, widths, strict=True)
        ]
        say("  ".join(cells).rstrip())
    totals = facts["totals"]
    sizes, (top, most) = totals["photos_a_client"], next(iter(totals["styles"].items()))
    popular = f"the most popular is {plain(top)} with {most} of {totals['clients']} clients"
    say("")
    say(f"clients   {totals['clients']}: " + ", ".join(f"{count} {role}" for role, count in totals["roles"].items()))
    say(f"styles    {len(totals['styles'])}: {popular if most > min(totals['styles'].values()) else f'as many clients for each, {most}'}")
    spread = f"{sizes['least']} to {sizes['most']} a client, median {sizes['median']:g}"
    say(f"photos    {totals['photos']}: {spread}; {totals['heldout']} held out")
    if totals["skew"] is not None:
        scale = "(0: alike, 1: nothing in common)"
        say(f"kinds     {len(totals['kinds'])}: a client's mix is on average {totals['skew']:.2f} away from that of all {scale}")
    if facts["photos_skipped"]:
        say("skipped   " + ", ".join(f"{count} {reason}" for reason, count in facts["photos_skipped"].items()))
    if page:
        say(f"look at {plain(page)}")
