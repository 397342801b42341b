"""Specs that a run or a study has kept: what they leave out means what it meant when they were stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File

from nasir.spec.load import parse_mapping, read_text
from nasir.spec.model import Spec
from nasir.spec.read import checked
from nasir.spec.tree import Entry, Tree, as_tree, is_choice


def tree_as_stored(tree: Tree) -> Tree:
    """A plateau under `less_than` used to hold early on an accuracy, and one without `early` still does.

    Resolved specs state it since it can be chosen.
    """
    if isinstance(tree.value, tuple):
        return replace(tree, value=tuple(tree_as_stored(item) for item in tree.value))
    if not isinstance(tree.value, Mapping):
        return tree
    entries = {key: replace(entry, tree=tree_as_stored(entry.tree)) for key, entry in tree.value.items()}
    plateau = entries.get("plateau")
    if plateau is not None and isinstance(plateau.tree.value, Mapping) and not is_choice(plateau.tree):
        given = plateau.tree.value
        if not {"early", "since"} & given.keys():
            place = plateau.tree.place
            full = replace(plateau.tree, value={**given, "early": Entry(place, as_tree("code", place))})
            entries["plateau"] = replace(plateau, tree=full)
    return replace(tree, value=entries)


def as_stored(spec: Spec) -> Spec:
    """Averages of weights once had a constant decay, so those of a spec that says nothing of a warm-up have one still.

    Resolved specs say it since there is a choice.
    """
    phases = []
    for phase in spec.phases:
        silent = phase.ema is not None and "warmup" not in phase.ema.model_fields_set
        if phase.ema is not None and silent:
            phase = phase.model_copy(update={"ema": phase.ema.model_copy(update={"warmup": False})})
        phases.append(phase)
    return spec.model_copy(update={"phases": tuple(phases)})


def load_stored(path: File) -> Spec:
    """The resolved spec that a run keeps; raises SpecError as `load_spec` does."""
    return as_stored(checked(tree_as_stored(parse_mapping(read_text(path), str(path))), str(path)))
