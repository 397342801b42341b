"""Names of a package that are loaded on first use (PEP 562), so that importing the package stays fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that offers each name of `homes` from the module that it maps to.

    A home is MODULE, or MODULE:NAME where it has another name there. A name whose home is PACKAGE.NAME is that module
    itself. Type checkers and editors do not see what is offered so:
    import the same names under TYPE_CHECKING, too (tests/test_front_door.py compares the two).
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, there = homes[name].partition(":")
        module = import_module(home)
        return module if home == f"{package}.{name}" else getattr(module, there or name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names
