"""TOML tables, read strictly into frozen dataclasses and written back."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fedstyle.errors import ConfigError

T = TypeVar("T")


def need(condition: bool, key: str, found: object, rule: str) -> None:
    """Raise ConfigError unless `condition` holds: the key, what was found, and the rule it breaks."""
    if not condition:
        raise ConfigError(f"{key} = {found!r}: {rule}")


def load(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises ConfigError, naming the file, when it is absent, no text in UTF-8, or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from None


def read(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `kind` from a TOML table, strictly: unknown keys and wrong types raise ConfigError."""
    hints = get_type_hints(kind)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown key {where}.{key}{nearest(key, known)}")
        values[key] = _fit(hints[key], value, f"{where}.{key}")
    return kind(**values)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f": did you mean {close[0]!r}?" if close else ":"
    return f"{guess} Known are {', '.join(names)}" if names else f"{guess} There is none"


def _fit(kind: Any, value: Any, key: str) -> Any:
    """The value as `kind`, or ConfigError; integers pass as floats, lists as tuples."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        need(value in arguments, key, value, f"choose one of {', '.join(map(str, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        form = tuple if isinstance(value, list) else Mapping if isinstance(value, dict) else None
        options = [option for option in arguments if get_origin(option) is form]
        return _fit((options or arguments)[0], value, key)
    if origin is tuple:
        need(isinstance(value, list), key, value, "give a list")
        return tuple(_fit(arguments[0], item, key) for item in value)
    if origin is not None:
        need(isinstance(value, dict), key, value, "give a table")
        return {name: _fit(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    need(not isinstance(value, float) or math.isfinite(value), key, value, "give a finite number")
    words = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
    need(type(value) is kind, key, value, f"give {words[kind]}")
    return value


def override(tables: dict[str, Any], text: str) -> None:
    """Set a key of parsed tables as `text` says: `table.key=value`, the value as in TOML, a bare word being a text.

    Raises ConfigError for a text of another form, and for a key below one that is no table.
    """
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ConfigError(f"--set {text!r}: write table.key=value, such as server.rounds=3")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a text
    target = tables
    *path, last = (table, *name.split("."))
    for step in path:
        target = target.setdefault(step, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {text!r}: {step} = {target!r} is no table and has no keys below it")
    target[last] = parsed


def plain(value: Any) -> Any:
    """A dataclass as nested dicts, tuples as lists: what TOML can say."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def write(value: Any) -> str:
    """A plain value as TOML on one line; a table as an inline table."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(char if char >= " " and char != "\x7f" else f"\\u{ord(char):04x}" for char in plain) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(write, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{write(name)} = {write(item)}" for name, item in value.items()) + " }" if value else "{}"
    return repr(value)
