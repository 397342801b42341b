"""What a caller may give for a spec: the path of a file, or YAML text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from nasir.errors import SpecError
from nasir.spec.load import kind_of, load_raw, overridden
from nasir.spec.tree import Tree, parse

TEXT = "<spec>"  # what messages call a spec that is given as text

Given: TypeAlias = str | os.PathLike[str]
"""A str is YAML text if it has a line break or reads as a mapping, and else a path; a `Path` is always a path."""


def read_given(given: Given, overrides: Sequence[str] = ()) -> tuple[Tree, str]:
    """(merged tree, what messages call it); `overrides` are `a.b.0=value`.

    Raises SpecError, of what is neither a file nor a mapping of keys with both readings.
    """
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        raise SpecError(
            f"a spec is given by its path or as YAML text, not as {kind}; yaml.safe_dump makes text of data"
        )
    if not isinstance(given, str):
        path = os.fsdecode(given)
        return load_raw(path, overrides).tree, path
    broken = "\n" in given or "\r" in given
    try:
        tree = parse(given, TEXT)
        if tree is not None and isinstance(tree.value, Mapping):
            return overridden(tree, overrides), TEXT
        reading = f"as YAML text it is {kind_of(tree)}, not a mapping of keys"
    except SpecError as error:
        if broken:
            raise
        reading = f"as YAML text it cannot be read either ({error})"
    if not given or broken:
        why = "has a line break" if given else "is empty"
        raise SpecError(f"{TEXT}:1:1: {reading}, and a path it is not: it {why}; start a text with `nasir: 1`")
    try:
        return load_raw(given, overrides).tree, given
    except SpecError as error:
        if os.path.exists(given):
            raise
        raise SpecError(f"{error}; {reading}") from None
