"""Modules that can be called: `fedstyle.export` and `fedstyle.simulate` are each a module and the function that it is for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Let a call of the module run `function`.

    Importing a submodule binds it in its package, over any function of that name; without this `fedstyle.export(...)` would work or fail
    by the order of imports.
    """

    class CallableModule(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

    sys.modules[module].__class__ = CallableModule
