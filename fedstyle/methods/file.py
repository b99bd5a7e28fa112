"""A method from a Python file of the user's own."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from fedstyle.errors import ConfigError
from fedstyle.tables import nearest

_LOADING = threading.Lock()


def load_class(name: str) -> type[Any]:
    """The class that `PATH:CLASS` names; its file is run once a process for each of its contents.

    Raises ConfigError for a file that cannot be read or run, or a class that is no method.
    """
    file, _, wanted = name.rpartition(":")
    path, where = Path(file if file.endswith(".py") else f"{file}.py"), f"method.name = {name!r}"
    try:
        path = path.expanduser()
        content = path.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where}: cannot read {path}: {why}; write PATH:CLASS, with a Python file's path") from None
    key = f"fedstyle_method_{hashlib.sha256(str(path.resolve()).encode() + content).hexdigest()[:16]}"
    with _LOADING:
        if key not in sys.modules:
            module = sys.modules[key] = ModuleType(key)  # dataclasses look there for the names in annotations
            try:
                exec(compile(content, str(path), "exec"), vars(module))  # noqa: S102  the user's own file, which leaves no cache beside it
            except Exception as error:
                del sys.modules[key]
                raise ConfigError(f"{where}: running {path} failed: {type(error).__name__}: {error}") from error
    names = {label: thing for label, thing in vars(sys.modules[key]).items() if isinstance(thing, type) and thing.__module__ == key}
    if wanted not in names:
        raise ConfigError(f"{where}: {path} has no class {wanted!r}{nearest(wanted, names)}")
    kind = names[wanted]
    lacks = [part for part in ("shares", "fit", "personalize") if not callable(getattr(kind, part, None))]
    if lacks or not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(
            f"{where}: {wanted} is no method: " + (f"it has no {lacks[0]}()" if lacks else "make it a @dataclass(frozen=True)")
        )
    return kind
