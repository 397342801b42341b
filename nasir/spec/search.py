"""A spec with choices: its space, its search section, and the plain spec that a point of the space stands for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

from nasir.options import suggestion
from nasir.spec.check_search import check_space
from nasir.spec.choice_syntax import choice_paths, read_choices
from nasir.spec.choices import Choice, Space, Suggest, Value
from nasir.spec.domains import shown
from nasir.spec.dump import dump
from nasir.spec.given import TEXT, Given, read_given
from nasir.spec.load import load_raw, overridden, parse_mapping, without
from nasir.spec.model import Spec
from nasir.spec.model_search import TRIALS, Search
from nasir.spec.past import tree_as_stored
from nasir.spec.paths import absolute_paths
from nasir.spec.problems import Problem, raise_problems
from nasir.spec.read import checked, examine, named, once
from nasir.spec.repeat import expand_phases
from nasir.spec.tree import Entry, Tree
from nasir.spec.variants import check_variants, points_to_check


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """A spec with choices.

    `base` is the plain spec with every default, else the first alternative or the lowest number. `search` has its
    defaults filled in: `trials` and `seed` are numbers. `notes` are remarks of the check that are no errors. `past`:
    what it leaves out means what it meant when studies were begun before it could be said (see `tree_as_stored`).
    """

    source: File
    search: Search
    space: Space
    base: Spec
    tree: Tree
    notes: tuple[str, ...] = ()
    past: bool = False

    @property
    def name(self) -> str:
        """The name of the study, unless it is given another."""
        return self.base.name

    @property
    def seed(self) -> int:
        """The seed of the search."""
        return self.search.seed if self.search.seed is not None else self.base.seed

    @property
    def trials(self) -> int:
        """The number of points of the study."""
        return self.search.trials if self.search.trials is not None else TRIALS

    @property
    def base_folder(self) -> File:
        """The folder of the spec, which paths of data sets are relative to."""
        return self.source.resolve().parent

    def sample(self, suggest: Suggest) -> tuple[dict[str, Value], Spec]:
        """A point and its spec; `suggest` is asked for a value of each active choice, in the order of the spec.

        Raises ValueError for a value outside the domain of its choice, SpecError where the values do not go together.
        """
        values = self.space.ask(suggest)
        return values, self._resolved(values)

    def trial(self, values: Mapping[str, Value]) -> Spec:
        """The spec of a point, without `search`: what `nasir run` would train.

        Raises SpecError for a choice that is unknown, missing or not asked at this point, and for values that it does
        not offer.
        """
        remaining = dict(values)
        problems = []

        def given(choice: Choice) -> Value:
            if choice.name not in values:
                problems.append(
                    Problem(choice.place, (choice.name,), "this point has no value for it", f"give {choice.domain}")
                )
                return choice.base
            value = remaining.pop(choice.name, values[choice.name])
            try:
                return choice.domain.accept(value)
            except ValueError as error:
                problems.append(Problem(choice.place, (choice.name,), f"cannot be {shown(value)}", f"give {error}"))
                return choice.base

        chosen = self.space.ask(given)
        known = [choice.name for choice in self.space.choices]
        for name in remaining:
            if name in known:
                problems.append(self._inactive(name))
            else:
                place = self.tree.place
                problems.append(Problem(place, (), f"there is no choice {name!r}", suggestion(name, known)))
        raise_problems(problems)
        return self._resolved(chosen)

    def _inactive(self, name: str) -> Problem:
        choice = next(choice for choice in self.space.choices if choice.name == name)
        text = "has a value, but is not asked at this point"
        return Problem(choice.place, (choice.name,), text, "leave it out, or choose what it belongs to")

    def _resolved(self, values: Mapping[str, Value]) -> Spec:
        tree = without(self.space.resolve(self.tree, values), "search")
        return checked(tree_as_stored(tree) if self.past else tree, str(self.source))

    def of_the_past(self) -> SearchSpec:
        """The search spec as it was read before what `tree_as_stored` states could be chosen."""
        past = replace(self, past=True)
        return replace(past, base=past._resolved(self.space.base()))

    def variants(self) -> Iterator[Tree]:
        """The spec at the base point and at each that differs from it in one choice, its phases written out."""
        for values in points_to_check(self.space):
            yield expand_phases(self.space.resolve(self.tree, values))

    def to_text(self) -> str:
        """The whole spec with its choices, extended files included and paths absolute, for `loads_search`."""
        return dump(named(self.tree.plain(), str(self.source)))

    def difference(self, before: SearchSpec) -> list[str]:
        """How this spec differs from the one that a study began with, a sentence each.

        How many trials there are, which sampler and pruner choose them and how workers run them may change; what can
        be chosen, what is trained and what counts as good may not.
        """
        differences = self.space.difference(before.space.describe())
        old, new = before.search.plain(), self.search.plain()
        for part in ("objectives", "constraints", "axis", "latency"):
            differences += _changes(old[part], new[part], f"search.{part}")
        if differences:
            return differences
        values = before.space.base()
        return list(_changes(before._resolved(values).identity(), self._resolved(values).identity(), ""))


def load_search(given: Given, overrides: Sequence[str] = ()) -> SearchSpec:
    """Read a spec with choices and check every alternative, one at a time, and both ends of every range.

    `given` is a path or YAML text, as for `load_spec`. Raises SpecError with all problems, each at the place where it
    was written.
    """
    return _made(*read_given(given, overrides), thorough=True)


def load_any(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> tuple[Spec, SearchSpec | None]:
    """A plain spec, or the base of one with choices and what `load_search` makes of it."""
    tree = load_raw(path, overrides).tree
    if next(choice_paths(tree), None) is None:
        return checked(tree, str(path)), None
    search = _made(tree, str(path), thorough=True)
    return search.base, search


def loads_search(text: str, source: str = TEXT, overrides: Sequence[str] = (), *, thorough: bool = False) -> SearchSpec:
    """The same for a text; `source` is the file it came from, which paths are relative to.

    That of `to_text` was checked before, so that only `thorough` looks at every alternative again.
    """
    return _made(overridden(parse_mapping(text, source), overrides), source, thorough)


def _made(tree: Tree, source: str, thorough: bool) -> SearchSpec:
    tree = absolute_paths(tree)
    space, problems = read_choices(tree)
    raise_problems(problems)
    if not len(space):
        text = "there is nothing to choose"
        raise_problems(
            [Problem(tree.place, (), text, "write `{choose: [a, b]}` in place of a value, or use `nasir run`")]
        )
    whole = _with_search(tree)
    spec, findings = examine(space.resolve(whole, space.base()), source)
    if thorough:
        check_variants(whole, source, space, None if spec is None else spec.search, findings)
    if spec is not None:
        assert spec.search is not None
        check_space(spec, spec.search, space, findings)
    raise_problems(once(findings.problems))
    assert spec is not None and spec.search is not None
    base = checked(without(space.resolve(tree, space.base()), "search"), source)
    search = _filled(spec.search, base, space)
    return SearchSpec(File(source), search, space, base, tree, tuple(dict.fromkeys(findings.notes)))


def _with_search(tree: Tree) -> Tree:
    """With the section that says how to search, if only an empty one: its defaults must fit the spec too."""
    given = tree.child("search")
    if given is not None and given.value is not None:
        return tree
    assert isinstance(tree.value, Mapping)
    return Tree({**tree.value, "search": Entry(tree.place, Tree({}, tree.place))}, tree.place)


def _filled(search: Search, base: Spec, space: Space) -> Search:
    size = space.size()
    trials = search.trials
    if search.sampler.kind == "grid" and size is not None:
        trials = size if trials is None else min(trials, size)
    seed = base.seed if search.seed is None else search.seed
    return search.model_copy(update={"trials": trials or TRIALS, "seed": seed, "objective": None})


def _changes(old: Any, new: Any, path: str) -> Iterator[str]:
    """A sentence for each value that differs; a value that is not there is nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}".removeprefix("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changes(before, after, f"{path}.{index}")
    elif old != new:
        yield f"{path}: was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
