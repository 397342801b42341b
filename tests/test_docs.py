"""What README and docs show is true: links resolve, specs build, marked Python runs, commands and names exist.

Two comments mark a fenced block: `<!-- run -->` before Python that runs by itself from the root of the repository, and
`<!-- file: NAME -->` before text that is written to a file of that name, beside the specs of the same page.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architecture
import journal_table
import models_table
import pytest
import warm

from nasir.cli import main as cli
from nasir.journal.directory import RunDirectory
from nasir.records import RewriteRecord
from nasir.registry import blocks, datasets, exporters, ops, optimizers, passes, penalties, policies

ROOT = Path(__file__).parents[1]
NAMED = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]
PAGES = [*NAMED, *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)

BUILD = """
import sys
from pathlib import Path
from nasir import build
from nasir.spec import import_plugins
from nasir.spec.imported import imported
from nasir.spec.search import load_any
for path in sys.argv[1:]:
    spec, _ = load_any(path)
    import_plugins(spec)
    assert build(spec, module=imported(spec)).cost().params > 0, path
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `mark` is the text of a comment right before it."""

    page: str
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str | None:
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None


def fenced(page: Path) -> Iterator[Block]:
    for match in FENCE.finditer(page.read_text()):
        yield Block(page.name, match["language"], match["text"], (match["mark"] or "").strip())


ALL = [block for page in PAGES for block in fenced(page)]
RUNNABLE = [block for block in ALL if block.mark == "run"]


def whole_spec(block: Block) -> bool:
    return block.language == "yaml" and block.text.startswith("nasir: 1")


def anchors(page: Path) -> set[str]:
    """Fragment names of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        assert not fragment or fragment in anchors(file), f"{page.name} links to {target}: no such heading"


@pytest.mark.parametrize("page", sorted({block.page for block in ALL if whole_spec(block)}))
def test_every_spec_loads_and_builds(page: str, tmp_path: Path) -> None:
    specs = []
    for number, block in enumerate(block for block in ALL if block.page == page):
        name = block.file or f"spec{number}.yaml"
        if block.file or whole_spec(block):
            (tmp_path / name).write_text(block.text)
        if whole_spec(block):
            specs.append(str(tmp_path / name))
    done = warm.completed("-c", BUILD, *specs)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=lambda block: block.page)
def test_marked_python_runs(block: Block) -> None:
    done = warm.completed("-c", block.text, folder=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_map_of_the_house_is_up_to_date() -> None:
    for written in (architecture, journal_table, models_table):
        page = written.PAGE.read_text()
        assert page == written.updated(page), f"{written.PAGE.name}: run `make docs`"


def test_python_imports_from_packages_not_from_files_within_them() -> None:
    for block in ALL:
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                spec = importlib.util.find_spec(str(name)) if str(name).startswith("nasir.") else None
                deep = spec is not None and spec.submodule_search_locations is None and str(name).count(".") > 1
                assert not deep, f"{block.page} imports from {name}; offer the name in its package, or at the top"


def files_of(page: str) -> dict[str, str]:
    return {block.file: block.text for block in ALL if block.page == page and block.file}


def test_the_pass_of_the_readme_is_short() -> None:
    text = files_of("README.md")["my_pass.py"]
    assert "@register(" in text
    assert len(text.splitlines()) <= 25


@pytest.mark.slow
def test_the_pass_of_the_readme_works_by_path_from_any_folder(tmp_path: Path) -> None:
    for name, text in files_of("README.md").items():
        (tmp_path / name).write_text(text)
    overrides = ["data.dataset=synthetic", "data.options={classes: 10, train: 320, test: 40}", "phases.0.epochs=1"]
    command = ["run", "prune.yaml", "--out", "runs/prune", "--json"]
    done = warm.nasir(*command, *[f"--set={override}" for override in overrides], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "imported plugin" in done.stderr
    records = RunDirectory(tmp_path / "runs/prune").records()
    rewrites = [record for record in records if isinstance(record, RewriteRecord)]
    assert {record.pass_name for record in rewrites} == {"prune-quiet-channels"}
    assert rewrites[-1].cost["params"] < records[0].cost["params"]
    drawn = warm.nasir("show", "runs/prune", folder=tmp_path)
    assert "18x4x4" in drawn.stdout, drawn.stdout + drawn.stderr  # 32 channels, 3/4 of them twice


def test_what_something_new_costs_is_counted() -> None:
    blocks = [block for block in ALL if block.page == "CONTRIBUTING.md"]
    counted = [len(block.text.splitlines()) for block in blocks if block.language == "python"]
    page = (ROOT / "CONTRIBUTING.md").read_text()
    table = re.findall(r"^\| \[[\w ]+\]\(#[\w-]+\) \| `[\w.]+` \| 1 \| (\d+) \|", page, re.M)
    kinds = page.count("\n## A")
    assert sorted(map(int, table)) == sorted(counted) and len(counted) == kinds == 8
    assert max(counted) <= 25


@pytest.mark.slow
def test_what_contributing_shows_runs_together(tmp_path: Path) -> None:
    for name, text in files_of("CONTRIBUTING.md").items():
        (tmp_path / name).write_text(text)
    done = warm.nasir("run", "own.yaml", "--out", "runs/own", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    records = RunDirectory(tmp_path / "runs/own").records()
    assert {record.pass_name for record in records if isinstance(record, RewriteRecord)} == {"insert-block", "halve"}
    exported = warm.nasir("export", "own.yaml", "--to", "dot", "--plugin", "own_exporter.py", folder=tmp_path)
    assert exported.returncode == 2 and "clipped" in exported.stderr, "only a run imports the plugins of a spec"
    plugins = [f"--plugin={name}" for name in ("own_exporter.py", "own_op.py", "own_block.py")]
    exported = warm.nasir("export", "runs/own", "--to", "dot", *plugins, folder=tmp_path)
    assert exported.stdout.startswith("digraph {\n  0 [label=") and "clipped" in exported.stdout, exported.stderr
    assert "clipped" in (tmp_path / "own_op.py").read_text() and records[-1].metrics["test.accuracy"] > 0.5


def commands() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every `nasir ...` line that the pages show as typed."""
    typed = []
    for block in ALL:
        for line in block.text.splitlines() if block.language == "console" else ():
            if line.startswith("$ nasir "):
                typed.append((block.page, shlex.split(line.partition(" > ")[0])[2:]))
    return typed


def subcommands(parser: ArgumentParser) -> set[str]:
    return {name for action in parser._actions if isinstance(action.choices, dict) for name in action.choices}


def test_commands_as_typed_are_understood() -> None:
    typed = commands()
    assert typed
    for page, arguments in typed:
        try:
            cli._parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: nasir {shlex.join(arguments)}")


def test_commands_named_in_the_text_exist() -> None:
    known = subcommands(cli._parser())
    make = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`nasir ([a-z]+)\b", text):
            assert name in known, f"{page.name}: nasir {name}"
        for name in re.findall(r"(?:`|\$ )make ([\w-]+)", text):
            assert name in make, f"{page.name}: make {name}"


def keys_of(schema: Any) -> Iterator[str]:
    """All property names in a JSON Schema."""
    if isinstance(schema, dict):
        if isinstance(properties := schema.get("properties"), dict):
            yield from properties
        for inner in schema.values():
            yield from keys_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from keys_of(inner)


def mentioned(page: str) -> set[str]:
    """Words between backticks outside fenced blocks."""
    text = FENCE.sub("", (ROOT / page).read_text())
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w-]+", code)}


def test_every_key_of_a_spec_is_described() -> None:
    described = mentioned("docs/specs.md") | mentioned("docs/passes.md") | mentioned("docs/policies.md")
    # in a process of its own: other tests register passes of theirs here
    code = "import json; from nasir.spec import json_schema; print(json.dumps(json_schema()))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    missing = sorted(set(keys_of(json.loads(printed))) - described)
    assert not missing, f"docs/specs.md lacks {', '.join(missing)}"


def shipped(registry: Any) -> set[str]:
    """Names that come from nasir itself, not from what else is installed or was registered by other tests."""
    points = {name for name, point in registry._entry_points().items() if point.value.startswith("nasir.")}
    here = {name for name, thing in registry._objects.items() if home(thing).startswith("nasir.")}
    return {name for name in points | here if "nasir_plugin" not in home(registry._objects.get(name))}


def home(thing: Any) -> str:
    """The module that a registered thing was defined in."""
    return str(getattr(getattr(thing, "rule", thing), "__module__", ""))


def test_all_that_ships_is_named() -> None:
    table = mentioned("README.md")
    for registry in (passes, ops, blocks, datasets, optimizers, penalties, exporters):
        missing = sorted(shipped(registry) - table)
        assert not missing, f"README.md does not name the {registry.plural} {', '.join(missing)}"
    for system in ("autogrow", "resbuilder", "morphnet", "rrrnet"):
        specs = {path.stem for path in (ROOT / "specs" / system).glob("*.yaml")}
        missing = sorted(specs - mentioned(f"docs/{system}.md"))
        assert specs and not missing, f"docs/{system}.md does not name the specs {', '.join(missing)}"


def test_every_policy_and_its_options_are_described() -> None:
    described = mentioned("docs/policies.md")
    specs = {path.stem for path in (ROOT / "specs/evolution").glob("*.yaml")}
    assert specs and specs <= described
    for name in shipped(policies):
        options = getattr(policies.get(name), "Options", None)
        fields = set(options.__dataclass_fields__) if options else set()
        missing = sorted({name, *fields} - described)
        assert not missing, f"docs/policies.md lacks {', '.join(missing)}"


def test_every_option_of_a_pass_is_described() -> None:
    described = mentioned("docs/passes.md")
    for name in shipped(passes):
        missing = sorted(set(passes.get(name).__dataclass_fields__) - described)
        assert not missing, f"docs/passes.md lacks options of {name}: {', '.join(missing)}"
