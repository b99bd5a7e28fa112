"""Numbers and codes in words, and texts without the machine's paths."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

NOTHING = "–"
_SMALL = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

FAILURES = {
    "setup": "could not set itself up",
    "photos": "found no usable photo",
    "style": "could not use its style image",
    "base": "could not use the base that it was sent",
    "training": "failed while training",
    "update": "made an update that may not be sent",
    "disk": "had no room or no right to write to its disk",
    "unknown": "failed for another reason",
    "terms": "was asked for a secure sum on terms that are not its own",
    "phase": "was asked for a step of a secure sum that was not due",
    "altered": "was sent a message of a secure sum that breaks its protocol",
    "few": "found too few others left in a secure sum",
    "replay": "was asked for a round that it had begun before",
    "invalid": "sent a reply that breaks the contract",
    "large": "sent an update over the server's bound",
    "lost": "was gone before it replied",
    "late": "did not reply in time",
    "ConfigError": "could not set itself up",
    "PhotoError": "found no usable photo",
    "StyleError": "could not use its style image",
    "ParamsError": "could not use what it kept from its rounds",
    "BaseError": "could not use the base that it was sent",
    "FilterError": "could not make its filter",
    "ExportError": "could not export its filter",
    "OutputError": "had no room or no right to write to its disk",
    "OSError": "could not read or write a file",
    "MemoryError": "ran out of memory",
    "OutOfMemoryError": "ran out of memory",
}
"""What a failure's code, or in a filter's making an error's class, says of a device."""


def count(number: int) -> str:
    """A count in words up to twelve, then in digits with thousands apart: 3 is "three", 1234 is "1,234"."""
    return _SMALL[number] if 0 <= number < len(_SMALL) else f"{number:,}"


def plural(number: int, noun: str) -> str:
    """A count with its noun: "1 round", "8 rounds"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def amount(size: object) -> str:
    """Bytes in decimal units with three digits: 839,700 is "840 kB"."""
    if not is_number(size):
        return NOTHING
    value = float(size)  # type: ignore[arg-type]
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def duration(seconds: object) -> str:
    """Seconds in words of two units at most: 252.4 is "4 min 12 s"."""
    if not is_number(seconds):
        return NOTHING
    value = float(seconds)  # type: ignore[arg-type]
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    big, small, names = (whole // 60, whole % 60, ("min", "s")) if whole < 3600 else (whole // 3600, whole % 3600 // 60, ("h", "min"))
    return f"{big} {names[0]} {small} {names[1]}" if small else f"{big} {names[0]}"


def figure(value: object, digits: int = 3) -> str:
    """A loss or another plain number with `digits` significant digits, or a dash."""
    if not is_number(value):
        return NOTHING
    number = float(value)  # type: ignore[arg-type]
    places = max(0, digits - 1 - math.floor(math.log10(abs(number)))) if number else digits - 1
    return f"{number:,.{min(places, 6)}f}"


def percent(value: object) -> str:
    """A share as whole per cent, or a dash."""
    return f"{100 * float(value):.0f} %" if is_number(value) else NOTHING  # type: ignore[arg-type]


def change(improvement: object) -> str:
    """How a filter's loss stands to the base's: 0.34 is "34 % lower"."""
    if not is_number(improvement):
        return "not measured"
    value = round(100 * float(improvement))  # type: ignore[arg-type]
    return f"{value} % lower" if value > 0 else f"{-value} % higher" if value < 0 else "no lower"


def is_number(value: object) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def failure(code: object) -> str:
    """A failure's code in words."""
    return FAILURES.get(str(code), f"failed with the code {code}")


def verdict(parity: Mapping[str, Any] | None, package: object) -> tuple[str, str, str]:
    """An export's state (good, bad, none), in a word or two, and in a sentence."""
    if not package:
        return "none", "Not exported", "There is no exported model."
    if not parity:
        return "none", "Not verified", "The exported file was not run on this machine."
    if not parity.get("faithful"):
        problems = [unpath(str(problem)) for problem in parity.get("problems") or ["the check gave no reason"]]
        return "bad", "Not faithful", "The exported file does not do what the filter does: " + "; ".join(problems) + "."
    found = []
    if is_number(parity.get("max")):
        found.append(f"at most {figure(parity['max'], 2)} of 255 apart")
    if is_number(parity.get("psnr")):
        found.append(f"{figure(parity['psnr'])} dB")
    elif is_number(parity.get("max")):
        found.append("no difference in any pixel")
    if parity.get("constants"):
        kind = f" in {parity['precision']}" if parity.get("precision") else ""
        found.append(f"all {parity['constants']} of its arrays exact{kind}")
    return (
        "good",
        "Faithful",
        "Run on this machine, the file itself gives the filter's picture" + (f": {', '.join(found)}." if found else "."),
    )


_QUOTED = re.compile(r"""(["'])(?:~|[A-Za-z]:)?(?:/|\\\\?)(?:(?!\1)[^\n])*?([^/\\"'\n]*)\1""")
_BARE = re.compile(r"""(?<![\w…./:\\])(?:~|[A-Za-z]:|file://)?(?:/|\\)(?:[^\s"'<>/\\]+[/\\])+([^\s"'<>/\\]*)""")


def unpath(text: str) -> str:
    """The text with each absolute path cut down to its last part: "/home/eva/photos" becomes "…/photos"."""
    return _BARE.sub(r"…/\1", _QUOTED.sub(r"\1…/\2\1", text))
