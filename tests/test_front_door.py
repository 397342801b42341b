"""What `import nasir` offers, and how it answers: names, ways to give a spec, one-line reprs."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import nasir
import nasir.passes
from nasir.errors import NasirError, UnknownName
from nasir.registry import passes

LAZY = ("nasir", "nasir.passes")


def seen_by_type_checkers(package: str) -> dict[str, str]:
    """Name -> home of everything that a package imports for type checkers only."""
    tree = ast.parse(Path(str(importlib.import_module(package).__file__)).read_text(encoding="utf-8"))
    found = {}
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                for alias in node.names:
                    known = alias.asname or alias.name
                    home = f"{node.module}.{alias.name}" if node.module == package else str(node.module)
                    found[known] = home if known == alias.name else f"{home}:{alias.name}"
    return found


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_what_is_offered(package: str) -> None:
    assert seen_by_type_checkers(package) == importlib.import_module(package)._HOME


@pytest.mark.parametrize("package", LAZY)
def test_every_name_is_there_and_listed(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    assert "InsertBlok" not in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'InsertBlok'"):
        module.InsertBlok  # noqa: B018


def test_every_shipped_pass_is_a_class_of_nasir_passes() -> None:
    points = [point.value for point in passes._entry_points().values() if point.value.startswith("nasir.passes.")]
    assert sorted(points) == sorted(f"{home}:{name}" for name, home in nasir.passes._HOME.items())
    assert nasir.passes.InsertBlock is nasir.get_pass("insert-block")


def test_a_pass_that_is_no_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes._objects, "no-pass", len)
    with pytest.raises(NasirError, match=r"'no-pass'.*register a subclass of nasir\.Pass"):
        nasir.get_pass("no-pass")
    with pytest.raises(UnknownName, match="did you mean 'insert-block'"):
        nasir.get_pass("insert-blok")
