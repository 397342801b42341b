"""`phases: [{repeat: 7, phases: [...]}]` written out: groups become plain phases before anything is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasir.options import Path, suggestion
from nasir.spec.problems import Problem, SpecProblems
from nasir.spec.tree import Entry, Tree, key_place, locate

KEYS = ("repeat", "phases")
MOST = 2000  # phases of a spec


def expand_phases(tree: Tree) -> Tree:
    """The spec with every group of phases repeated; the names of its phases get the suffix .1, .2, ...

    Every phase keeps the place it was written at. What is no list of phases is left for the checks to find.
    Raises SpecError for a malformed group.
    """
    phases = tree.child("phases")
    if phases is None or not isinstance(phases.value, tuple) or not isinstance(tree.value, Mapping):
        return tree
    if not any(_is_group(item) for item in phases.value):
        return tree
    expanded: list[Tree] = []
    for item in _written_out(phases, ("phases",), ()):
        expanded.append(item)
        if len(expanded) > MOST:
            raise SpecProblems([Problem(phases.place, ("phases",), f"more than {MOST} phases", "repeat fewer times")])
    entry = Entry(tree.value["phases"].key, Tree(tuple(expanded), phases.place))
    return Tree({**tree.value, "phases": entry}, tree.place)


def _is_group(item: Tree) -> bool:
    return isinstance(item.value, Mapping) and "repeat" in item.value


def _written_out(phases: Tree, path: Path, rounds: tuple[int, ...]) -> Iterator[Tree]:
    assert isinstance(phases.value, tuple)
    for index, item in enumerate(phases.value):
        if not _is_group(item):
            yield _renamed(item, rounds)
            continue
        times, inner = _checked(item, (*path, index))
        for number in range(1, times + 1):
            yield from _written_out(inner, (*path, index, "phases"), (*rounds, number))


def _checked(group: Tree, path: Path) -> tuple[int, Tree]:
    assert isinstance(group.value, Mapping)
    for key in group.value:
        if key not in KEYS:
            remedy = suggestion(key, KEYS)
            raise SpecProblems([Problem(key_place(group, (key,)), (*path, key), "unknown key of a group", remedy)])
    times, inner = group.child("repeat"), group.child("phases")
    assert times is not None
    number = times.value
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST:
        text = f"{number!r} is not a number of times"
        remedy = f"write a whole number, 1 to {MOST}"
        raise SpecProblems([Problem(locate(group, ("repeat",)), (*path, "repeat"), text, remedy)])
    if inner is None or not isinstance(inner.value, tuple) or not inner.value:
        place = group.place if inner is None else locate(group, ("phases",))
        text = "a group repeats a list of phases"
        remedy = "write `phases: [{name: ...}]` beside `repeat`"
        raise SpecProblems([Problem(place, (*path, "phases"), text, remedy)])
    return number, inner


def _renamed(phase: Tree, rounds: tuple[int, ...]) -> Tree:
    name = phase.child("name")
    if not rounds or name is None or not isinstance(name.value, str) or not isinstance(phase.value, Mapping):
        return phase
    suffix = "".join(f".{number}" for number in rounds)
    entry = Entry(phase.value["name"].key, Tree(name.value + suffix, name.place))
    return Tree({**phase.value, "name": entry}, phase.place)
