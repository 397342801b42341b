"""A spec file to a checked Spec: load, validate, check, and fill in what one part takes from another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from nasir.options import Path
from nasir.spec.check import Findings, check_spec, check_tree
from nasir.spec.check_import import check_import
from nasir.spec.check_search import check_search
from nasir.spec.choice_syntax import refused_choices
from nasir.spec.given import TEXT, Given, read_given
from nasir.spec.load import overridden, parse_mapping
from nasir.spec.model import Spec
from nasir.spec.paths import absolute_paths
from nasir.spec.problems import Problem, SpecProblems, raise_problems
from nasir.spec.repeat import expand_phases
from nasir.spec.translate import translate
from nasir.spec.tree import Tree


def load_spec(given: Given | Spec, overrides: Sequence[str] = ()) -> Spec:
    """Read and check a spec; `overrides` are `a.b.0=value`, values in YAML.

    `given` is a path, YAML text (a str with a line break, or that reads as a mapping) or a Spec, which is returned as
    it is where there are no overrides. Paths within a text are relative to the current folder; it cannot extend a file.

    Raises SpecError with one `file:line:column: path: problem; remedy` line for each problem. Imports no plugin:
    names that only a listed plugin can know are in `Spec.notes` (see `import_plugins`).
    """
    if not isinstance(given, Spec):
        return checked(*read_given(given, overrides))
    if not overrides:
        return given
    source = str(given.source)
    return checked(overridden(given.tree or parse_mapping(given.to_yaml(), source), overrides), source)


def loads_spec(text: str, source: str = TEXT, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a text; `source` names it in messages, and paths are relative to it."""
    return checked(overridden(parse_mapping(text, source), overrides), source)


def checked(tree: Tree, source: str) -> Spec:
    """The spec of a merged tree; raises SpecError with all problems."""
    raise_problems(refused_choices(tree))
    spec, findings = examine(tree, source)
    raise_problems(findings.problems)
    assert spec is not None
    return spec


def examine(tree: Tree, source: str) -> tuple[Spec | None, Findings]:
    """The spec of a merged tree without choices, and the findings; None if there is a problem."""
    findings = Findings(tree, lenient=bool(tree.child("plugins") and tree.plain()["plugins"]))
    try:
        tree = findings.tree = expand_phases(absolute_paths(tree))
    except SpecProblems as error:
        findings.problems += error.problems
        return None, findings
    check_tree(tree, findings)
    spec: Spec | None = None
    try:
        spec = Spec.model_validate(named(tree.plain(), source))
    except ValidationError as error:
        findings.problems += _new(translate(error, tree, Spec), findings.problems)
    if spec is not None and not findings.problems:
        check_spec(spec, findings)
        check_import(spec, findings)
        check_search(spec, findings)
    findings.problems = once(findings.problems)
    return (None if spec is None or findings.problems else _filled(spec, findings, source)), findings


def _new(problems: list[Problem], known: list[Problem]) -> list[Problem]:
    """Problems that do not lie inside a value which is a problem as a whole already."""
    whole = {problem.path for problem in known}
    return [problem for problem in problems if not any(_inside(problem.path, path) for path in whole)]


def once(problems: list[Problem]) -> list[Problem]:
    """Each problem of a place once: the phases of a repeated group share their places."""
    said = {(problem.place, problem.text, problem.remedy): problem for problem in reversed(problems)}
    return list(said.values())[::-1]


def _inside(path: Path, outer: Path) -> bool:
    return path[: len(outer)] == outer


def named(data: dict[str, Any], source: str) -> dict[str, Any]:
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
