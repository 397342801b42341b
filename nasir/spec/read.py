"""A spec file to a checked Spec: load, validate, check, and fill in what one part takes from another."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from nasir.spec.check import Findings, check_spec, check_tree
from nasir.spec.load import load_raw, override_tree, parse_mapping
from nasir.spec.model import Spec
from nasir.spec.problems import Path, Problem, raise_problems
from nasir.spec.repeat import expand_phases
from nasir.spec.translate import translate
from nasir.spec.tree import Entry, Tree


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Spec:
    """Read and check a spec; `overrides` are `a.b.0=value`, values in YAML.

    Raises SpecError with one `file:line:column: path: problem; remedy` line for each problem. Imports no plugin:
    names that only a listed plugin can know are in `Spec.notes` (see `import_plugins`).
    """
    return _checked(load_raw(path, overrides).tree, str(path))


def loads_spec(text: str, source: str = "<spec>", overrides: Sequence[str] = ()) -> Spec:
    """The same for the text of a spec, which cannot extend another; `source` names it in messages."""
    tree = parse_mapping(text, source)
    for override in overrides:
        tree = override_tree(tree, override)
    return _checked(tree, source)


def _checked(tree: Tree, source: str) -> Spec:
    tree = _absolute_run(_absolute_plugins(expand_phases(tree)))
    findings = Findings(tree, lenient=bool(tree.child("plugins") and tree.plain()["plugins"]))
    check_tree(tree, findings)
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(_named(tree.plain(), source))
    except ValidationError as error:
        findings.problems += _new(translate(error, tree, Spec), findings.problems)
    if spec is not None and not findings.problems:
        check_spec(spec, findings)
    raise_problems(_once(findings.problems))
    assert spec is not None
    return _filled(spec, findings, source)


def _new(problems: list[Problem], known: list[Problem]) -> list[Problem]:
    """Problems that do not lie inside a value which is a problem as a whole already."""
    whole = {problem.path for problem in known}
    return [problem for problem in problems if not any(_inside(problem.path, path) for path in whole)]


def _once(problems: list[Problem]) -> list[Problem]:
    """Without what is said already of the same place: the phases of a repeated group share theirs."""
    return list({(one.place, one.text, one.remedy): one for one in reversed(problems)}.values())[::-1]


def _inside(path: Path, outer: Path) -> bool:
    return path[: len(outer)] == outer


def _named(data: dict[str, Any], source: str) -> dict[str, Any]:
    """`name` defaults to that of the file."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", File(source).stem).strip("-.")
    return data if "name" in data or not stem else {**data, "name": stem}


def _filled(spec: Spec, findings: Findings, source: str) -> Spec:
    """A phase without an optimizer has that of the phase before; the data is seeded by the run unless it says."""
    phases = []
    optimizer = None
    for phase in spec.phases:
        optimizer = phase.optimizer or optimizer
        phases.append(phase.model_copy(update={"optimizer": optimizer}))
    seed = spec.seed if spec.data.seed is None else spec.data.seed
    data = spec.data.model_copy(update={"seed": seed})
    made = spec.model_copy(update={"phases": tuple(phases), "data": data})
    made._tree, made._source, made._notes = findings.tree, source, tuple(findings.notes)
    return made


def _absolute_plugins(tree: Tree) -> Tree:
    """Plugin paths are relative to the file that lists them; absolute, they survive a copy of the resolved spec."""
    plugins = tree.child("plugins")
    if plugins is None or not isinstance(plugins.value, tuple) or not isinstance(tree.value, Mapping):
        return tree
    items = tuple(_absolute(item) for item in plugins.value)
    entry = Entry(tree.value["plugins"].key, Tree(items, plugins.place))
    return Tree({**tree.value, "plugins": entry}, tree.place)


def _absolute_run(tree: Tree) -> Tree:
    """So is the path of the run that a network is taken from, or, if nothing is there, to the current folder."""
    network = tree.child("network")
    run = network.child("run") if network is not None else None
    if network is None or run is None or not isinstance(network.value, Mapping) or not isinstance(tree.value, Mapping):
        return tree
    near = _absolute(run)
    if isinstance(run.value, str) and not File(str(near.value)).exists() and File(run.value).exists():
        near = Tree(str(File(run.value).resolve()), run.place)
    moved = Tree({**network.value, "run": Entry(network.value["run"].key, near)}, network.place)
    return Tree({**tree.value, "network": Entry(tree.value["network"].key, moved)}, tree.place)


def _absolute(item: Tree) -> Tree:
    if not isinstance(item.value, str) or not item.place.line:
        return item
    return Tree(str((File(item.place.file).parent / item.value).resolve()), item.place)
