"""The layering: a part imports only from the parts to its left, and nothing but the torch backend knows torch."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import nasir

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("errors", "version", "cores", "counted", "growing", "lazy"),
    ("options", "registry", "files", "images"),
    ("ir", "records"),
    ("ops",),
    ("analysis",),
    ("transfer", "blocks"),
    ("branching", "importing"),
    ("rewriting",),
    ("pruning", "training"),
    ("datasets",),
    ("journal",),
    ("policy",),
    ("spec",),
    ("testing",),
    ("running",),
    ("report",),
    ("api", "figures"),
    ("search",),
    ("cli",),
    ("__main__", "__init__"),  # __init__: the public names, loaded on first use
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
NOT_FOR_PASSES = {"training", "files", "images", "importing"}
FOR_PASSES = {part for part, rank in RANK.items() if rank <= RANK["pruning"]} - NOT_FOR_PASSES
FOR_BACKENDS = {part for part, rank in RANK.items() if rank < RANK["running"]} - {"policy", "spec", "testing"}
OUTSIDE = {"passes", "backends"}  # at the root; only an `__init__` offers names of theirs, all else asks a registry
HEAVY = {"torch", "torchvision", "optuna"}
TORCH = "nasir.backends.torch"
TORCH_ROOMS = (
    ("arrays", "host", "nested", "wrapped", "applying", "data", "device"),
    ("lower",),
    ("optimizers", "penalties"),
    ("train",),
    ("observe",),
    ("model",),
    ("weights", "importing"),
    ("session",),
    ("backend", "__init__"),  # __init__: the names that it offers
)
"""The same map of the torch backend."""


def sources(folder: str) -> list[Path]:
    """Python files below a folder; the links from nasir/ to the folders at the root are not followed."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in files if not any(parent.is_symlink() for parent in path.parents)]


@cache
def parsed(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """All imports of a file, those inside functions and type-checking blocks included."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        else:
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "nasir":  # a submodule, or a name that nasir/__init__.py loads from one
                for alias in node.names:
                    home = nasir._HOME.get(alias.name, f"nasir.{alias.name}")
                    yield home.partition(":")[0], node.lineno
            else:
                yield module, node.lineno


def modules() -> dict[str, Path]:
    """Every file of nasir by the module that it is."""
    by_module = {}
    for folder, package in (("nasir", "nasir"), ("passes", "nasir.passes"), ("backends", "nasir.backends")):
        for path in sources(folder):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            by_module[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return by_module


def imports_of(path: Path, known: Mapping[str, Path]) -> set[str]:
    """The `known` modules that a file imports, wherever in it; for `from package import module` the module."""
    named: set[str] = set()
    for node in parsed(path):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        else:
            for alias in node.names:
                home = nasir._HOME.get(alias.name, "") if node.module == "nasir" else ""
                inner = home.partition(":")[0] or f"{node.module}.{alias.name}"
                named.add(inner if inner in known else str(node.module))
    return named & known.keys()


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules each of which imports all others of its set, through others or not."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        seen: set[str] = set()
        waiting = [*imports[module]]
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting.extend(imports[other])
        reached[module] = seen
    largest: list[set[str]] = []
    for module, seen in reached.items():
        if module in seen and not any(module in circle for circle in largest):
            largest.append({module, *(other for other in seen if module in reached[other])})
    return largest


def part_of(module: str) -> str | None:
    """The part of nasir a module lies in; None outside nasir, and for the package itself."""
    head, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if head == "nasir" else None


def faults(folder: str, allowed: set[str] | None = None) -> list[str]:
    """Imports of parts of nasir that are not `allowed` (None: not left of the file's own part)."""
    problems = []
    for path in sources(folder):
        own = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        for module, line in imported(path):
            part = part_of(module)
            if part is None or (allowed is None and part == own) or (own == "__init__" and part in OUTSIDE):
                continue
            fine = RANK.get(part, 99) < RANK[own] if allowed is None else part in allowed
            if not fine:
                problems.append(f"{path.relative_to(ROOT)}:{line}: imports {module}")
    return problems


def test_every_part_has_a_place() -> None:
    entries = [path for path in (ROOT / "nasir").iterdir() if not path.is_symlink()]
    parts = {path.stem for path in entries if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - RANK.keys() == set()


def test_parts_import_only_from_their_left() -> None:
    assert faults("nasir") == []


def test_no_files_import_each_other_in_a_circle() -> None:
    known = modules()
    imports = {module: imports_of(path, known) - {module} for module, path in known.items()}
    assert [sorted(circle) for circle in circles(imports)] == []


def test_circles_are_found_however_long() -> None:
    chain = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(chain) == [{"a", "b", "c"}, {"d", "e"}]


def test_files_of_the_ir_import_from_rows_above_their_own() -> None:
    text = (ROOT / "nasir/ir/README.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`(\w+)\.py`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
    row = {f"nasir.ir.{name}": number for number, names in enumerate(rows) for name in names}
    known = {module: path for module, path in modules().items() if module.startswith("nasir.ir.")}
    assert row.keys() == known.keys()
    wrong = [(m, other) for m, path in known.items() for other in imports_of(path, known) if row[other] >= row[m]]
    assert wrong == []


def test_passes_see_graphs_transfers_and_evidence_only() -> None:
    assert faults("passes", FOR_PASSES) == []
    outside = {module for path in sources("passes") for module, _ in imported(path)}
    assert {module.partition(".")[0] for module in outside} & HEAVY == set()


def test_the_backend_does_not_know_the_engine() -> None:
    assert faults("backends", FOR_BACKENDS | {"backends"}) == []


def torch_room(module: str) -> str:
    """The room that a module of the torch backend lies in."""
    return module.removeprefix(TORCH).removeprefix(".").partition(".")[0] or "__init__"


def test_rooms_of_the_torch_backend_import_only_from_floors_below_their_own() -> None:
    known = {module: path for module, path in modules().items() if f"{module}.".startswith(f"{TORCH}.")}
    floor = {room: number for number, rooms in enumerate(TORCH_ROOMS) for room in rooms}
    assert {torch_room(module) for module in known} == floor.keys()
    wrong = [
        f"{module} imports {other}"
        for module, path in known.items()
        for other in imports_of(path, known)
        if torch_room(other) != torch_room(module) and floor[torch_room(other)] >= floor[torch_room(module)]
    ]
    assert wrong == []


def test_nasir_itself_imports_neither_torch_nor_optuna() -> None:
    heavy = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in sources("nasir")
        for module, line in imported(path)
        if module.partition(".")[0] in HEAVY and path.parent.name != "search"
    ]
    assert heavy == []


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["nasir", "nasir.ir", "nasir.passes", "nasir.testing", "nasir.cli", "nasir.api"])
def test_importing_leaves_torch_out(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    assert not loaded_after(f"import {module}") & HEAVY


QUICK = "specs/quickstart.yaml"


LOOKING = ["--help", "--version", "schema", f"check {QUICK}", f"show {QUICK}", f"diff {QUICK} {QUICK}"]
LOOK = """
import contextlib, io, json, os, sys
import nasir.spec
from nasir.cli.main import main
heavy, *commands = sys.argv[1:]
ends = {}
for command in commands:
    if os.fork() == 0:  # each in a process of its own
        with contextlib.redirect_stdout(io.StringIO()):
            try: code = main(command.split())
            except SystemExit as stop: code = stop.code
        assert not code, (command, code)
        loaded = {name.partition(".")[0] for name in sys.modules} & set(heavy.split())
        assert not loaded, (command, loaded)
        os._exit(0)
    ends[command] = os.wait()[1]
print(json.dumps(ends))
"""


def test_looking_at_specs_leaves_torch_out() -> None:
    words = [sys.executable, "-c", LOOK, " ".join(HEAVY), *LOOKING]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout and json.loads(done.stdout) == dict.fromkeys(LOOKING, 0), done.stderr
