"""Specs that a run or a study has kept: what they leave out means what it meant when they were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File

from nasir.spec.load import parse_mapping, read_text
from nasir.spec.model import UNSAID, Spec
from nasir.spec.problems import NOWHERE
from nasir.spec.read import checked
from nasir.spec.tree import Entry, Tree, as_tree, is_choice


def tree_as_stored(tree: Tree) -> Tree:
    """A plateau under `less_than` used to hold early on an accuracy, and one without `early` still does.

    A rule used to leave a site alone once it was declined, and one without `decline` still does. Averages of weights
    had a constant decay, and those without `warmup` still have. Resolved specs state all three since they can be
    chosen.
    """
    if isinstance(tree.value, tuple):
        return replace(tree, value=tuple(tree_as_stored(item) for item in tree.value))
    if not isinstance(tree.value, Mapping):
        return tree
    entries = {key: replace(entry, tree=tree_as_stored(entry.tree)) for key, entry in tree.value.items()}
    for key, name, beside in (("plateau", "early", "since"), ("ema", "warmup", "")):
        if key in entries:
            entries[key] = replace(entries[key], tree=_stated(entries[key].tree, key, name, beside))
    if "do" in entries and "decline" not in entries:  # a rule
        entries["decline"] = Entry(NOWHERE, as_tree(UNSAID["rules"]["decline"], NOWHERE))
    return replace(tree, value=entries)


def _stated(tree: Tree, key: str, name: str, beside: str) -> Tree:
    """A mapping below `key` with what it meant by not saying `name`, unless it says that, or what came `beside` it."""
    if not isinstance(tree.value, Mapping) or is_choice(tree) or {name, beside} & tree.value.keys():
        return tree
    return replace(tree, value={**tree.value, name: Entry(NOWHERE, as_tree(UNSAID[key][name], NOWHERE))})


def load_stored(path: File) -> Spec:
    """The resolved spec that a run keeps; raises SpecError as `load_spec` does."""
    return checked(tree_as_stored(parse_mapping(read_text(path), str(path))), str(path))
