"""HTML that is escaped by construction: text becomes markup only through `tag` and `join`."""

from __future__ import annotations

import html


class Html(str):
    """Text that is markup already; every other text is escaped when it enters the page."""

    __slots__ = ()


def escape(value: object) -> Html:
    """The value as markup: `Html` as it is, None as nothing, everything else escaped, quotes too."""
    if value is None:
        return Html("")
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(*parts: object) -> Html:
    """Pieces of the page one after the other."""
    return Html("".join(map(escape, parts)))


def tag(element: str, *children: object, **attributes: object) -> Html:
    """An element such as `tag("p", "text", class_="note")`.

    `class_` and `for_` stand for the words that Python keeps for itself, `aria_label` for `aria-label`. An attribute that is None or
    False is left out, True has no value.
    """
    head = [element]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")  # noqa: PLW2901
        head.append(name if value is True else f'{name}="{escape(value)}"')
    if element in ("img", "meta", "link", "line", "path", "br"):
        return Html(f"<{' '.join(head)}>") if element not in ("line", "path") else Html(f"<{' '.join(head)}/>")
    return Html(f"<{' '.join(head)}>{join(*children)}</{element}>")


def table(caption: str, heads: list[object], rows: list[list[object]], *, numbers: int = 1, foot: list[object] | None = None) -> Html:
    """A table in a region that scrolls by itself; the first cell of a row is its header, cells from `numbers` on are right-aligned."""

    def cells(row: list[object], first: str, rest: str, scope: str) -> Html:
        done = []
        for k, value in enumerate(row):
            kind = first if k == 0 else rest
            across = "row" if k == 0 and scope == "row" else scope if kind == "th" else None
            done.append(tag(kind, value, scope=across, class_="n" if k >= numbers else None))
        return tag("tr", *done)

    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", cells(heads, "th", "th", "col")),
            tag("tbody", *(cells(row, "th", "td", "row") for row in rows)),
            tag("tfoot", cells(foot, "th", "td", "row")) if foot else None,
        ),
        class_="scroll",
        role="region",
        tabindex="0",
        aria_label=caption,
    )
