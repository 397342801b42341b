"""The choices of a spec, and the space they make: what is asked when, how many points there are, what changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nasir.counted import counted
from nasir.files import canonical_json
from nasir.options import Path, dotted
from nasir.spec.domains import Domain, FloatRange, IntRange, Options, Value, domain_of, shown, values_of
from nasir.spec.problems import Place
from nasir.spec.tree import Entry, Tree, is_choice

__all__ = ["NO_DEFAULT", "Choice", "FloatRange", "IntRange", "NoDefault", "Node", "Options", "Space", "Value"]


COUNTLESS = 10**18
"""So many points, or more, are not told apart in what is printed."""


class NoDefault:
    """The type of `NO_DEFAULT`: null can be a default too."""

    def __repr__(self) -> str:
        return "no default"


NO_DEFAULT: Final = NoDefault()


@dataclass(frozen=True, slots=True)
class Choice:
    """One value to choose, wherever it is used; `path` and `place` are of its first use."""

    name: str
    path: Path
    place: Place
    domain: Domain
    default: Value | NoDefault = NO_DEFAULT

    @property
    def base(self) -> Value:
        """The default, else the first alternative or the lowest number."""
        if not isinstance(self.default, NoDefault):
            return self.default
        return self.domain.ids[0] if isinstance(self.domain, Options) else self.domain.low


@dataclass(frozen=True, slots=True)
class Node:
    """One place of a spec where a choice is used.

    `alternatives` and the choices `inside` of each go by id; both are empty for a range, whose ends were written at
    `ends`. `steps` are the parts of a path that lead into the alternatives.
    """

    choice: Choice
    path: Path
    tree: Tree
    alternatives: Mapping[Value, Tree] = field(default_factory=dict)
    steps: Mapping[Value, str | int] = field(default_factory=dict)
    inside: Mapping[Value, tuple[Node, ...]] = field(default_factory=dict)
    ends: tuple[Place, ...] = ()

    def chosen(self, value: Value) -> Tree:
        """The content of this place for a value, with the place where it was written."""
        if isinstance(self.choice.domain, Options):
            return self.alternatives[value]
        place = self.tree.place
        for end, bound in zip(self.ends, (self.choice.domain.low, self.choice.domain.high), strict=True):
            place = end if value == bound else place
        return Tree(value, place)


Suggest = Callable[[Choice], Value]


class Space:
    """All choices of a spec. `nodes` are those that are always asked; further ones lie inside their alternatives."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._at: dict[Path, Node] = {}
        self._uses: dict[str, list[Node]] = {}
        chains: dict[str, list[_Chain]] = {}
        for node, outer in _all(self.nodes, ()):
            self._at[node.path] = node
            self._uses.setdefault(node.choice.name, []).append(node)
            chains.setdefault(node.choice.name, []).append(outer)
        self._when = {name: self._conditions(outer) for name, outer in chains.items()}
        self.choices = tuple(uses[0].choice for uses in self._uses.values())

    def _conditions(self, chains: Sequence[_Chain]) -> list[dict[str, Value]]:
        """The conditions among the outer choices of each use, without those that are implied: a choice that is
        asked at one place only implies its own conditions."""
        conditions: list[dict[str, Value]] = []
        for chain in chains:
            needed = {}
            for name, value in reversed(chain):
                needed[name] = value
                if len(self._uses[name]) == 1:
                    break
            if needed not in conditions:
                conditions.append(needed)
        return [] if {} in conditions else conditions

    def __len__(self) -> int:
        return len(self.choices)

    # -- points

    def ask(self, suggest: Suggest) -> dict[str, Value]:
        """One point: every choice that is active, in the order of the spec, each asked once.

        Raises ValueError where a suggestion is not in the domain of its choice.
        """
        values: dict[str, Value] = {}
        self._ask(self.nodes, suggest, values)
        return values

    def _ask(self, nodes: Sequence[Node], suggest: Suggest, values: dict[str, Value]) -> None:
        for node in nodes:
            choice = node.choice
            if choice.name not in values:
                values[choice.name] = choice.domain.accept(suggest(choice))
            self._ask(node.inside.get(values[choice.name], ()), suggest, values)

    def base(self) -> dict[str, Value]:
        """The point of all defaults; where there is none, the first alternative or the lowest number."""
        return self.ask(lambda choice: choice.base)

    def defaults(self) -> dict[str, Value]:
        """The defaults that the spec gives, of the choices that are active by them."""
        values: dict[str, Value] = {}
        self._defaults(self.nodes, values)
        return values

    def _defaults(self, nodes: Sequence[Node], values: dict[str, Value]) -> None:
        for node in nodes:
            default = node.choice.default
            if not isinstance(default, NoDefault):
                values[node.choice.name] = default
                self._defaults(node.inside.get(default, ()), values)

    def points(self) -> Iterator[dict[str, Value]]:
        """Every point of a finite space, once, the last choice varying fastest; raises ValueError for a continuum."""
        if any(choice.domain.size is None for choice in self.choices):
            raise ValueError("a space with a float without `step` has no end of points")
        turns: list[tuple[int, int]] = []  # of each choice asked: which of how many values
        while True:
            asked = 0

            def take(choice: Choice) -> Value:
                nonlocal asked
                assert choice.domain.size is not None
                if asked == len(turns):
                    turns.append((0, choice.domain.size))
                asked += 1
                return choice.domain.at(turns[asked - 1][0])

            yield self.ask(take)
            while turns and turns[-1][0] + 1 == turns[-1][1]:
                turns.pop()
            if not turns:
                return
            turns[-1] = (turns[-1][0] + 1, turns[-1][1])

    def size(self) -> int | None:
        """How many different points there are; None where a float without `step` makes a continuum."""
        if any(choice.domain.size is None for choice in self.choices):
            return None
        shared = {name: _matters(uses) for name, uses in self._uses.items() if len(uses) > 1}
        return sum(_count(self.nodes, {_Known(): 1}, shared).values())

    def resolve(self, tree: Tree, values: Mapping[str, Value]) -> Tree:
        """The spec's tree with each choice replaced; null takes out the key or the item that it is chosen for."""
        made = self._resolve(tree, (), values)
        assert made is not None  # the whole spec is never a choice
        return made

    def _resolve(self, tree: Tree, path: Path, values: Mapping[str, Value]) -> Tree | None:
        if is_choice(tree):
            node = self._at[path]
            value = values[node.choice.name]
            chosen = node.chosen(value)
            return None if chosen.value is None else self._resolve(chosen, (*path, node.steps.get(value, "")), values)
        if isinstance(tree.value, Mapping):
            entries = {}
            for key, entry in tree.value.items():
                below = self._resolve(entry.tree, (*path, key), values)
                if below is not None:
                    entries[key] = Entry(entry.key, below)
            return Tree(entries, tree.place)
        if isinstance(tree.value, tuple):
            items = (self._resolve(item, (*path, index), values) for index, item in enumerate(tree.value))
            return Tree(tuple(item for item in items if item is not None), tree.place)
        return tree

    # -- descriptions

    def describe(self) -> list[dict[str, Any]]:
        """JSON of every choice, in the order of the spec.

        `name`, `kind` (int, float, categorical), `low`, `high`, `step`, `log` or `ids`, `default` where there is one;
        `when`: what makes it active, any of these (always, if there is none): the outer `choice` that `is` of some
        value, `and` further ones that are; `at`: the paths where it is used, with the alternatives of a categorical
        one (`{choose: NAME}` stands for a choice inside).
        """
        descriptions = []
        for choice in self.choices:
            described: dict[str, Any] = {"name": choice.name, **choice.domain.data()}
            if not isinstance(choice.default, NoDefault):
                described["default"] = choice.default
            described["when"] = [_condition(needed) for needed in self._when[choice.name]]
            described["at"] = [_use(node) for node in self._uses[choice.name]]
            descriptions.append(described)
        return descriptions

    @property
    def digest(self) -> str:
        """SHA-256 of what can be chosen; layout, order of keys, comments and defaults do not count."""
        data = sorted(map(_essence, self.describe()), key=lambda described: str(described["name"]))
        return hashlib.sha256(canonical_json(data)).hexdigest()

    def difference(self, before: Sequence[Mapping[str, Any]]) -> list[str]:
        """How this space differs from one described `before`, a sentence each; empty where a study can go on."""
        old = {described["name"]: described for described in before}
        new = {described["name"]: described for described in self.describe()}
        differences = []
        for name, described in new.items():
            if name not in old:
                differences.append(f"new choice {name}: {domain_of(dict(described))}")
            else:
                differences += _changes(name, old[name], described)
        gone = [described for name, described in old.items() if name not in new]
        return differences + [f"gone: {described['name']} ({domain_of(dict(described))})" for described in gone]


def points_text(size: int) -> str:
    """A number of points in words."""
    return "10^18 points or more" if size >= COUNTLESS else counted(size, "point")


_Chain = tuple[tuple[str, Value], ...]
"""The choices around a place, and the value of each that leads there, outermost first."""


def _all(nodes: Sequence[Node], outer: _Chain) -> Iterator[tuple[Node, _Chain]]:
    for node in nodes:
        yield node, outer
        for value, inner in node.inside.items():
            yield from _all(inner, (*outer, (node.choice.name, value)))


_Known = frozenset[tuple[str, Value]]
"""Shared choices that are asked already, with their values where further choices depend on them."""


def _matters(uses: Sequence[Node]) -> bool:
    return any(inner for node in uses for inner in node.inside.values())


def _count(nodes: Sequence[Node], states: Mapping[_Known, int], shared: Mapping[str, bool]) -> dict[_Known, int]:
    """Numbers of points after asking `nodes`, by what is then known of shared choices (and whether values matter)."""
    for node in nodes:
        after: dict[_Known, int] = {}
        for known, times in states.items():
            for state, number in _count_one(node, known, shared).items():
                after[state] = after.get(state, 0) + times * number
        states = after
    return dict(states)


def _count_one(node: Node, known: _Known, shared: Mapping[str, bool]) -> dict[_Known, int]:
    choice = node.choice
    assert choice.domain.size is not None
    earlier = dict(known)
    if not shared.get(choice.name, _matters([node])):  # all values lead to the same further choices
        if choice.name in earlier:
            return {known: 1}
        return {known | {(choice.name, None)} if choice.name in shared else known: choice.domain.size}
    after: dict[_Known, int] = {}
    for value in [earlier[choice.name]] if choice.name in earlier else values_of(choice.domain):
        here = known | {(choice.name, value)} if choice.name in shared else known
        for state, number in _count(node.inside.get(value, ()), {here: 1}, shared).items():
            after[state] = after.get(state, 0) + number
    return after


def _use(node: Node) -> dict[str, Any]:
    use: dict[str, Any] = {"path": dotted(node.path)}
    if node.alternatives:
        names = {nested.path: nested.choice.name for inner in node.inside.values() for nested in inner}
        use["alternatives"] = [
            _written(tree, (*node.path, node.steps[value]), names) for value, tree in node.alternatives.items()
        ]
    return use


def _written(tree: Tree, path: Path, names: Mapping[Path, str]) -> Any:
    """Plain data, with the names of choices in their place."""
    if is_choice(tree):
        return {"choose": names[path]}
    if isinstance(tree.value, Mapping):
        return {key: _written(entry.tree, (*path, key), names) for key, entry in tree.value.items()}
    if isinstance(tree.value, tuple):
        return [_written(item, (*path, index), names) for index, item in enumerate(tree.value)]
    return tree.value


def _essence(described: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in described.items() if key != "default"}
    return {**kept, "at": sorted(described["at"], key=lambda use: str(use["path"]))}


def _changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = domain_of(dict(old)), domain_of(dict(new))
    if before != after:
        yield f"{name}: was {before}, is {after}"
    elif sorted(map(str, old["when"])) != sorted(map(str, new["when"])):
        yield f"{name}: was asked {when_text(old['when'])}, is {when_text(new['when'])}"
    else:
        uses = {use["path"]: use.get("alternatives") for use in old["at"]}
        for use in new["at"]:
            if use["path"] not in uses:
                yield f"{name}: new at {use['path']}"
            elif isinstance(after, Options) and uses[use["path"]] != use["alternatives"]:
                pairs = zip(after.ids, uses[use["path"]], use["alternatives"], strict=True)
                changed = ", ".join(shown(alternative) for alternative, was, now in pairs if was != now)
                yield f"{name}: other content in {changed}"
        for path in uses.keys() - {use["path"] for use in new["at"]}:
            yield f"{name}: gone from {path}"


def _condition(needed: Mapping[str, Value]) -> dict[str, Any]:
    """`needed` begins with the nearest of the outer choices."""
    (name, value), *further = needed.items()
    return {"choice": name, "is": value, **({"and": dict(further)} if further else {})}


def when_text(when: Sequence[Mapping[str, Any]]) -> str:
    """The conditions (`when`) of a described choice in words."""

    def words(condition: Mapping[str, Any]) -> str:
        needed = {condition["choice"]: condition["is"], **condition.get("and", {})}
        return " and ".join(f"{name} is {shown(value)}" for name, value in needed.items())

    return f"where {' or '.join(map(words, when))}" if when else "always"
