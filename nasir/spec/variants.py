"""Every alternative of every choice checked once: the sum of the alternatives, not their product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nasir.errors import TooManyNodes, UnknownName
from nasir.spec.check import Findings
from nasir.spec.choices import Node, Space
from nasir.spec.domains import Options, Value, shown
from nasir.spec.imported import NotImported
from nasir.spec.model_search import Search
from nasir.spec.network import build
from nasir.spec.problems import Place, Problem, SpecProblems
from nasir.spec.reachable import StartNetwork, all_starts, check_reachable
from nasir.spec.read import examine
from nasir.spec.tree import Tree, children, key_place

MOST = 500
"""Specs that one check looks at."""
MOST_LOOKED_AT = 100_000
"""Values of these specs and nodes of their networks, after which one check looks at no further spec."""
WHERE = " (where "
"""The beginning of what a problem says of its alternative."""


@dataclass(frozen=True, slots=True)
class _Variant:
    """A point, and the choice in which it differs from the base point."""

    values: Mapping[str, Value]
    changed: Node | None

    @property
    def choice(self) -> tuple[str, bool]:
        """The name of that choice, and whether each of its values is in some variant."""
        assert self.changed is not None
        return self.changed.choice.name, isinstance(self.changed.choice.domain, Options)

    def words(self, place: Place) -> str:
        """The alternative that a problem belongs to, where its place does not show it."""
        if self.changed is None or self.changed.choice.name not in self.values:
            return ""
        value = self.values[self.changed.choice.name]
        if place in _places(self.changed.chosen(value)):
            return ""
        return f"{WHERE}{self.changed.choice.name} is {shown(value)})"


def check_variants(tree: Tree, source: str, space: Space, search: Search | None, findings: Findings) -> None:
    """Add to `findings` what is wrong with the base point, and with each that differs from it in one choice.

    Choices that are not asked at the base point are checked with the alternatives that they belong to. `search`: its
    section, None if that is wrong itself.
    """
    number = checked = seen = 0
    values = sum(1 for _ in _places(tree))
    starts: list[tuple[_Variant, StartNetwork]] = []
    for number, variant in enumerate(_distinct(space), start=1):
        if number > MOST or seen > MOST_LOOKED_AT:
            continue
        checked = number
        known = {(problem.place, problem.text.partition(WHERE)[0]) for problem in findings.problems}
        start, problems, nodes = _examined(space.resolve(tree, variant.values), source, findings)
        seen += values + nodes
        if start is not None:
            starts.append((variant, start))
        for problem in problems:
            if (problem.place, problem.text) not in known:
                findings.problems.append(replace(problem, text=problem.text + variant.words(problem.place)))
    if number > checked:
        findings.notes.append(f"{tree.place}: checked {checked} of {number} alternatives")
    elif search is not None and len(starts) == number:
        (_, base), *others = starts
        known_starts = all_starts(base, [(*variant.choice, start) for variant, start in others])
        if known_starts is not None:
            check_reachable(search, known_starts, findings)


def points_to_check(space: Space) -> Iterator[Mapping[str, Value]]:
    """The base point and each that differs from it in one choice; of a range both ends."""
    return (variant.values for variant in _distinct(space))


def _examined(tree: Tree, source: str, findings: Findings) -> tuple[StartNetwork | None, Sequence[Problem], int]:
    """The network that a spec begins with, as far as it is known, what is wrong with the spec, and nodes looked at."""
    spec, examined = examine(tree, source)
    findings.notes += examined.notes
    if spec is None:
        return None, examined.problems, 0
    try:
        start = StartNetwork.of(spec, tree, build(spec, findings.notes.append))
        return start, (), start.nodes
    except NotImported:
        return None, (), 0
    except SpecProblems as error:
        cause = error.__cause__
        unknown = spec.plugins and isinstance(cause, UnknownName)  # only a run imports plugins
        nodes = MOST_LOOKED_AT if isinstance(cause, TooManyNodes) else 0  # dear enough: none after it
        return None, () if unknown else error.problems, nodes


def _distinct(space: Space) -> Iterator[_Variant]:
    seen = set()
    for variant in _variants(space, space.nodes, {}, None):
        key = tuple((name, type(value), value) for name, value in variant.values.items())
        if key not in seen:
            seen.add(key)
            yield variant


def _variants(
    space: Space, nodes: Sequence[Node], outer: Mapping[str, Value], changed: Node | None
) -> Iterator[_Variant]:
    """The base point given the alternatives `outer`, the last of them `changed`; then each value of `nodes`."""
    yield _Variant(space.ask(lambda choice: outer.get(choice.name, choice.base)), changed)
    for node in nodes:
        domain, name = node.choice.domain, node.choice.name
        for value in domain.ids if isinstance(domain, Options) else (domain.low, domain.high):
            yield from _variants(space, node.inside.get(value, ()), {**outer, name: value}, node)


def _places(tree: Tree) -> Iterator[Place]:
    yield tree.place
    for key, below in children(tree):
        yield key_place(tree, (key,))
        yield from _places(below)
