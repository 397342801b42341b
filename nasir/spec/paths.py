"""Paths of a spec made absolute, so that they survive a copy of it: of plugins and of what its network comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import exists
from pathlib import Path as File

from nasir.spec.model_source import is_file
from nasir.spec.tree import Entry, Tree, is_choice
from nasir.training.teachers import is_run


def absolute_paths(tree: Tree) -> Tree:
    """`plugins` are relative to the file that lists them, or, in an override, to the current folder.

    So are `network.module` and `network.weights` where they name files, also in the alternatives of a choice; and so
    are `network.run` and the `teacher` of a phase, or, if nothing is there, relative to the current folder.
    """
    tree = _with(tree, "plugins", lambda plugins: _each(plugins, _absolute))
    tree = _with(tree, "phases", lambda phases: _each(phases, _with_teachers))
    return _with(tree, "network", lambda network: _chosen(network, _with_files))


def _with_teachers(phase: Tree) -> Tree:
    """A phase, all of whose terms may name the run of a teacher."""

    def with_teacher(options: Tree) -> Tree:
        return _with(options, "teacher", lambda teacher: _chosen(_with_cases(teacher, is_run), _absolute_teacher))

    def term(named: Tree) -> Tree:
        return _each(named, with_teacher)

    return _with(phase, "regularize", lambda terms: _each(terms, lambda named: _chosen(named, term)))


def _absolute_teacher(teacher: Tree) -> Tree:
    return _absolute_run(teacher) if isinstance(teacher.value, str) and is_run(teacher.value) else teacher


def _with(tree: Tree, key: str, change: Callable[[Tree], Tree]) -> Tree:
    below = tree.child(key)
    if below is None or not isinstance(tree.value, Mapping):
        return tree
    return Tree({**tree.value, key: Entry(tree.value[key].key, change(below))}, tree.place)


def _each(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """Every item of a list, or every value of a mapping."""
    if isinstance(tree.value, tuple):
        return Tree(tuple(change(item) for item in tree.value), tree.place)
    if isinstance(tree.value, Mapping):
        return Tree({key: Entry(entry.key, change(entry.tree)) for key, entry in tree.value.items()}, tree.place)
    return tree


def _chosen(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """`tree` changed, or each of its alternatives if it is a choice."""
    if not is_choice(tree):
        return change(tree)

    def alternative(item: Tree) -> Tree:
        return _chosen(item, change)

    def alternatives(given: Tree) -> Tree:
        if isinstance(given.value, tuple):
            return _each(given, alternative)
        return _with(given, "cases", lambda cases: _each(cases, alternative))

    made = _with(tree, "choose", alternatives)
    return _with(made, "default", lambda default: default if isinstance(default.value, str) else alternative(default))


def _with_files(network: Tree) -> Tree:
    network = _with(network, "run", lambda run: _chosen(_with_cases(run), _absolute_run))
    network = _with(network, "module", lambda module: _chosen(_with_cases(module), _absolute_function))
    return _with(network, "weights", lambda weights: _chosen(_with_cases(weights, is_file), _absolute_weights))


def _with_cases(tree: Tree, is_path: Callable[[str], bool] = lambda text: True) -> Tree:
    """A choice of texts, some of them paths, keeps them as names of its alternatives, which are what a study stores."""
    given = tree.child("choose") if is_choice(tree) else None
    if given is None or not isinstance(given.value, tuple):
        return tree
    cases = {str(item.value): Entry(item.place, item) for item in given.value if isinstance(item.value, str)}
    if len(cases) < len(given.value) or not any(map(is_path, cases)):
        return tree
    named = Tree({"cases": Entry(given.place, Tree(cases, given.place))}, given.place)
    return _with(tree, "choose", lambda _: named)


def _absolute_run(run: Tree) -> Tree:
    near = _absolute(run)
    if isinstance(run.value, str) and not exists(str(near.value)) and exists(run.value):
        return Tree(str(File(run.value).resolve()), run.place)
    return near


def _absolute_function(module: Tree) -> Tree:
    home, colon, function = str(module.value).rpartition(":")
    if not home.endswith(".py"):
        return module
    return Tree(f"{_absolute(Tree(home, module.place)).value}{colon}{function}", module.place)


def _absolute_weights(weights: Tree) -> Tree:
    return _absolute(weights) if isinstance(weights.value, str) and is_file(weights.value) else weights


def _absolute(item: Tree) -> Tree:
    if not isinstance(item.value, str):
        return item
    folder = File(item.place.file).parent if item.place.line else File()
    return Tree(str((folder / item.value).resolve()), item.place)
