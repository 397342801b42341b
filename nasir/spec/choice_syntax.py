"""`{choose: ...}` in the tree of a spec, read into a space; everything malformed becomes a problem."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nasir.counted import counted
from nasir.options import Path, dotted, suggestion
from nasir.options import shown as described
from nasir.spec.choices import NO_DEFAULT, Choice, Node, NoDefault, Space
from nasir.spec.domains import Domain, FloatRange, IntRange, Options, Value, divides, last_step, shown
from nasir.spec.load import CHOICE_KEYS
from nasir.spec.problems import Problem
from nasir.spec.tree import Tree, children, is_choice, key_place, locate

KINDS = ("float", "int", "cases")
RANGE = ("step", "log")
MOST_ALTERNATIVES = 2_000
"""Alternatives of all choices of a spec together."""
MOST_USES = 1_000
"""Choices of a spec, wherever they stand."""
MOST_CROSSED = 10_000
"""Combinations of shared choices that further choices depend on: the points are counted for each."""
LONGEST_NAME = 512
"""Characters of a name that the database of a study can hold."""
FIXED = {
    "nasir": "it is the version of the language",
    "name": "it names the study",
    "extends": "files are read before anything is chosen",
    "plugins": "plugins are imported before anything is chosen",
    "search": "it says how to choose",
    "backend": "the devices of the workers are counted by it",
}
"""Keys of a spec whose values cannot be chosen, and why."""
EXAMPLE = "write `choose: [a, b]`, `choose: {int: [1, 9]}`, `choose: {float: [0.001, 1.0], log: true}` or `cases`"


def choice_paths(tree: Tree, path: Path = ()) -> Iterator[Path]:
    """The paths of the outermost choices of a tree."""
    if is_choice(tree):
        yield path
        return
    for step, below in children(tree):
        yield from choice_paths(below, (*path, step))


def refused_choices(tree: Tree) -> list[Problem]:
    """A problem for each choice of a spec that is to be run as it is."""
    text, remedy = (
        "`choose` gives several values, and only `nasir search` can choose",
        "search the spec, or give one value",
    )
    return [Problem(locate(tree, path), path, text, remedy) for path in choice_paths(tree)]


def read_choices(tree: Tree) -> tuple[Space, list[Problem]]:
    """The space of a spec, and its problems; the space is of no use if there are any."""
    reader = _Reader(tree)
    nodes = reader.read()
    return Space(nodes), reader.problems


@dataclass(slots=True)
class _Reader:
    """`at` is a path as written, with the keys of the choices; `path` the one that choices are named by."""

    tree: Tree
    problems: list[Problem] = field(default_factory=list)
    known: dict[str, tuple[Choice, bool]] = field(default_factory=dict)  # and whether its name was written
    uses: dict[str, list[Node]] = field(default_factory=dict)
    alternatives: int = 0

    def read(self) -> list[Node]:
        if is_choice(self.tree):
            place = key_place(self.tree, ("choose",))
            text = "a whole spec cannot be chosen"
            self.problems.append(Problem(place, ("choose",), text, "write `choose` in place of a value"))
            return []
        nodes = []
        for key, below in children(self.tree):
            reason = FIXED.get(str(key))
            if reason is None:
                nodes += self.walk(below, (key,), (key,))
                continue
            for path in choice_paths(below, (key,)):
                self.add(path, f"`{key}` cannot be chosen: {reason}", "give one value")
        self.check_crossed()
        return [self.settled(node) for node in nodes]

    def check_crossed(self) -> None:
        """Refuse shared choices whose combinations are too many to count the points of each."""
        crossed = 1
        for uses in self.uses.values():
            if len(uses) > 1 and any(inner for node in uses for inner in node.inside.values()):
                crossed *= len(uses[0].inside)
            if crossed > MOST_CROSSED:
                text = f"shared choices that others lie in have more than {MOST_CROSSED} combinations"
                self.add(uses[0].path, text, "let fewer choices of one name have choices inside")
                return

    def settled(self, node: Node) -> Node:
        """The choice with the default that another place gives it."""
        inside = {value: tuple(map(self.settled, inner)) for value, inner in node.inside.items()}
        return replace(node, choice=self.known[node.choice.name][0], inside=inside)

    def add(self, at: Path, text: str, remedy: str) -> None:
        self.problems.append(Problem(locate(self.tree, at), at, text, remedy))

    def walk(self, tree: Tree, path: Path, at: Path) -> list[Node]:
        """The choices at and below a value."""
        if is_choice(tree):
            node = self.node(tree, path, at)
            return [] if node is None else [node]
        return [node for step, below in children(tree) for node in self.walk(below, (*path, step), (*at, step))]

    def node(self, tree: Tree, path: Path, at: Path) -> Node | None:
        assert isinstance(tree.value, Mapping)
        before = len(self.problems)
        for key in tree.value:
            if key not in CHOICE_KEYS:
                where = (*at, key)
                remedy = "put it inside `choose`" if key in (*KINDS, *RANGE) else suggestion(key, CHOICE_KEYS)
                self.problems.append(Problem(key_place(self.tree, where), where, "unknown key of a choice", remedy))
        name = self.name(tree, path, at)
        given = tree.child("choose")
        assert given is not None
        if isinstance(given.value, tuple):
            made = self.listed(tree, given, path, at)
        elif isinstance(given.value, Mapping):
            made = self.kind(tree, given, path, at)
        else:
            self.add((*at, "choose"), f"expected values to choose from, found {described(given.value)}", EXAMPLE)
            return None
        if made is None or len(self.problems) > before:
            return None
        choice = Choice(name, path, tree.place, made.choice.domain, self.default(tree, made, at))
        shared = self.shared(choice, "name" in tree.value, at)
        if len(self.problems) > before:
            return None
        made = replace(made, choice=shared)
        self.uses.setdefault(name, []).append(made)
        if sum(map(len, self.uses.values())) == MOST_USES + 1:
            self.add(at, f"more than {MOST_USES} choices", "choose fewer values, or give one `name` to a whole part")
        return made

    def name(self, tree: Tree, path: Path, at: Path) -> str:
        name = tree.child("name")
        if name is None:
            return dotted(path)
        if not isinstance(name.value, str) or not name.value.strip():
            self.add(
                (*at, "name"),
                f"expected the name of the choice, found {described(name.plain())}",
                "write `name: depth`",
            )
            return dotted(path)
        if len(name.value) > LONGEST_NAME:
            self.add((*at, "name"), f"a name of {len(name.value)} characters", f"write {LONGEST_NAME} or fewer")
        return name.value

    def shared(self, choice: Choice, named: bool, at: Path) -> Choice:
        """The choice of that name so far; one that is used again has to be the same."""
        if choice.name not in self.known:
            self.known[choice.name] = (choice, named)
            return choice
        first, first_named = self.known[choice.name]
        line = f"line {first.place.line} of {first.place.file}" if first.place.line else first.place.file
        where = (*at, "name") if named else at
        if first.domain != choice.domain:
            text = f"the choice {choice.name!r} is {first.domain} at {line}, and {choice.domain} here"
            self.add(where, text, "give both the same values, or another name")
        elif not (named or first_named):
            self.add(where, f"two choices are called {choice.name!r}, the other at {line}", "give one of them a `name`")
        elif isinstance(choice.default, NoDefault) or choice.default == first.default:
            return first
        elif isinstance(first.default, NoDefault):
            self.known[choice.name] = (replace(first, default=choice.default), True)
        else:
            text = f"the choice {choice.name!r} begins with {shown(first.default)} at {line}"
            self.add((*at, "default"), text, "give one default")
        return self.known[choice.name][0]

    # -- alternatives

    def listed(self, tree: Tree, given: Tree, path: Path, at: Path) -> Node | None:
        assert isinstance(given.value, tuple)
        inside = (*at, "choose")
        if self.too_many(given.value, inside):
            return None
        items = dict(zip(_ids(given.value), given.value, strict=True))
        if len(items) < len(given.value):
            self.same(given.value, inside)
            return None
        steps: dict[Value, str | int] = dict(zip(items, range(len(items)), strict=True))
        return self.options(tree, items, steps, path, inside)

    def too_many(self, items: Collection[Any], at: Path) -> bool:
        """Whether there are more alternatives than the choices of a spec may have, which is then a problem."""
        before, self.alternatives = self.alternatives, self.alternatives + len(items)
        if before <= MOST_ALTERNATIVES < self.alternatives:
            text = f"{self.alternatives} alternatives up to here, and {MOST_ALTERNATIVES} are the most"
            self.add(at, text, "write a range such as `{int: [1, 9999]}`, or fewer")
        return self.alternatives > MOST_ALTERNATIVES

    def same(self, items: Sequence[Tree], at: Path) -> None:
        for index, item in enumerate(items):
            earlier = [other for other in items[:index] if other.plain() == item.plain()]
            if earlier:
                text = f"the alternative {described(item.plain())} is given already"
                remedy = "keep one of the two" if _said(earlier[0]) == _said(item) else "name both under `cases`"
                self.add((*at, index), text, remedy)

    def cases(self, tree: Tree, given: Tree, path: Path, at: Path) -> Node | None:
        inside = (*at, "choose", "cases")
        if not isinstance(given.value, Mapping):
            self.add(
                inside,
                f"expected alternatives by name, found {described(given.plain())}",
                "write `cases: {a: ..., b: ...}`",
            )
            return None
        if self.too_many(given.value, inside):
            return None
        items: dict[Value, Tree] = {key: entry.tree for key, entry in given.value.items()}
        return self.options(tree, items, {key: str(key) for key in items}, path, inside)

    def options(
        self, tree: Tree, items: Mapping[Value, Tree], steps: Mapping[Value, str | int], path: Path, at: Path
    ) -> Node | None:
        if len(items) < 2:
            self.add(
                at,
                f"{counted(len(items), 'alternative') if items else 'no alternatives'} to choose from",
                "give two or more, or one plain value",
            )
            return None
        said: set[str] = set()
        for step, item in zip(steps.values(), items.values(), strict=True):
            text = _said(item)
            if text in said:
                self.add((*at, step), "this alternative is the same as one before it", "keep one of the two")
            said.add(text)
        inside = {key: tuple(self.walk(item, (*path, steps[key]), (*at, steps[key]))) for key, item in items.items()}
        choice = Choice("", path, tree.place, Options(tuple(items)))
        return Node(choice, path, tree, dict(items), dict(steps), inside)

    # -- ranges

    def kind(self, tree: Tree, given: Tree, path: Path, at: Path) -> Node | None:
        assert isinstance(given.value, Mapping)
        inside = (*at, "choose")
        kinds = [key for key in given.value if key in KINDS]
        allowed = (*KINDS, *RANGE) if not kinds else (kinds[0], *(() if kinds[0] == "cases" else RANGE))
        before = len(self.problems)
        for key in given.value:
            if key not in allowed:
                where = (*inside, key)
                remedy = "keep one kind" if key in KINDS else suggestion(key, allowed)
                remedy = "write it beside `choose`, not inside" if key in CHOICE_KEYS else remedy
                text = f"unknown key of `choose`{f' with {kinds[0]}' if kinds else ''}"
                self.problems.append(Problem(key_place(self.tree, where), where, text, remedy))
        if not kinds:
            if len(self.problems) == before:
                self.add(inside, "nothing to choose from", EXAMPLE)
            return None
        kind = kinds[0]
        below = given.child(kind)
        assert below is not None
        if kind == "cases":
            return self.cases(tree, below, path, at)
        domain = self.range(given, below, kind, inside)
        if domain is None:
            return None
        assert isinstance(below.value, tuple)
        ends = tuple(end.place for end in below.value)
        return Node(Choice("", path, tree.place, domain), path, tree, ends=ends)

    def range(self, given: Tree, bounds: Tree, kind: str, at: Path) -> Domain | None:
        """The numbers that are meant; None after a problem."""
        before = len(self.problems)
        wanted = "two whole numbers" if kind == "int" else "two numbers"
        ends = [item.value for item in bounds.value] if isinstance(bounds.value, tuple) else []
        if len(ends) != 2 or not all(_number(end, kind) for end in ends):
            example = "[1, 9]" if kind == "int" else "[0.001, 1.0]"
            text = f"expected {wanted}, the lowest and the highest, found {_flow(bounds)}"
            self.add((*at, kind), text, f"write `{kind}: {example}`")
        log = self.flag(given, at)
        step = self.step(given, kind, at)
        if len(self.problems) > before:
            return None
        low, high = ends
        assert isinstance(low, int | float) and isinstance(high, int | float)
        if low >= high:
            if low == high:
                self.add((*at, kind), f"there is only {shown(low)} to choose from", "write it as a plain value")
            else:
                self.add(
                    (*at, kind), f"goes from {shown(low)} down to {shown(high)}", f"write [{shown(high)}, {shown(low)}]"
                )
        elif log and low <= 0:
            remedy = "begin at 1 or above" if kind == "int" else "begin above 0, such as 0.0001"
            self.add((*at, kind, 0), f"{shown(low)} has no logarithm", f"{remedy}, or remove `log`")
        elif log and step is not None:
            self.add((*at, "step"), "`step` and `log` exclude each other", "remove one of the two")
        elif step is not None and step > high - low:
            self.add((*at, "step"), f"a step of {shown(step)} leads beyond {shown(high)}", "make it smaller")
        elif step is not None and not divides(low, high, step):
            last = last_step(low, high, step)
            nearest = int(last) if kind == "int" else last
            text = f"steps of {shown(step)} from {shown(low)} do not reach {shown(high)}, the last is {shown(nearest)}"
            self.add((*at, "step"), text, f"write `{kind}: [{shown(low)}, {shown(nearest)}]`, or another step")
        if len(self.problems) > before:
            return None
        if kind == "int":
            return IntRange(int(low), int(high), int(step or 1), log)
        return FloatRange(float(low), float(high), None if step is None else float(step), log)

    def flag(self, given: Tree, at: Path) -> bool:
        log = given.child("log")
        if log is not None and not isinstance(log.value, bool):
            self.add((*at, "log"), f"expected true or false, found {described(log.plain())}", "write true or false")
        return log is not None and log.value is True

    def step(self, given: Tree, kind: str, at: Path) -> float | None:
        step = given.child("step")
        if step is None:
            return None
        value: Any = step.value
        if not _number(value, kind) or value <= 0:
            wanted = "a whole number" if kind == "int" else "a number"
            self.add(
                (*at, "step"),
                f"expected {wanted} above 0, found {described(step.plain())}",
                "write how far apart values are",
            )
            return None
        number: float = value
        return number

    def default(self, tree: Tree, made: Node, at: Path) -> Value | NoDefault:
        given = tree.child("default")
        if given is None:
            return NO_DEFAULT
        said = _said(given)
        for value, alternative in made.alternatives.items():
            if _said(alternative) == said:
                return value
        try:
            return made.choice.domain.accept(given.plain())
        except ValueError as error:
            text = f"{described(given.plain())} is not among what can be chosen"
            self.add((*at, "default"), text, f"give {error}")
            return NO_DEFAULT


def _ids(items: Sequence[Tree]) -> list[Value]:
    """An id for each alternative: a scalar itself, the only key of a mapping, else its place in the list."""
    used: list[Value] = [item.value for item in items if not isinstance(item.value, tuple | Mapping)]
    made: list[Value] = []
    for index, item in enumerate(items):
        if not isinstance(item.value, tuple | Mapping):
            made.append(item.value)
            continue
        single = isinstance(item.value, Mapping) and len(item.value) == 1 and not is_choice(item)
        stem = next(iter(item.value)) if single and isinstance(item.value, Mapping) else str(index)
        name, number = stem, 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        used.append(name)
        made.append(name)
    return made


def _said(tree: Tree) -> str:
    """Equal for trees that say the same; 1 and true do not, though they are equal in Python."""
    return json.dumps(tree.plain(), sort_keys=True)


def _number(value: Any, kind: str) -> bool:
    return isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)


def _flow(tree: Tree) -> str:
    return str(tree.plain()) if isinstance(tree.value, tuple) else described(tree.plain())
