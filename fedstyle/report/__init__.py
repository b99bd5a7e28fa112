"""What a person looks at after a run: one page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path

from fedstyle.files import write_bytes
from fedstyle.report.html import Html, join, tag
from fedstyle.report.page import body, headline
from fedstyle.report.run import Run, read_run

__all__ = ["document", "render", "write_report"]


def write_report(run: Path) -> Path:
    """Read a finished run's folder, write its report.html, and give that file's path.

    The page holds its pictures, charts and program itself, asks for nothing from anywhere, reads without JavaScript, and names no
    absolute path. What is optional in the folder and absent is left out of the page.
    Raises ConfigError when the folder holds no finished run or a damaged one, OutputError when the page cannot be written.
    """
    run = Path(run)
    path = run / "report.html"
    write_bytes(path, render(read_run(run)).encode())
    return path


def render(run: Run) -> str:
    """The page of a run, as HTML."""
    return document(headline(run), body(run))


def document(title: str, body: Html) -> str:
    """A whole page that holds its style and its program, and lets no request out."""
    own = resources.files("fedstyle.report")
    style, script = Html((own / "page.css").read_text()), Html((own / "page.js").read_text())
    # The policy lets no request out, whatever the page comes to hold, and lets no program run but this one.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} – fedstyle"),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )
    return join(Html("<!doctype html>\n"), tag("html", head, tag("body", body, tag("script", script)), lang="en"), "\n")
