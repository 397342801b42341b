"""Which models torchvision and timm have, from their source: nothing of them is imported."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path as File

_REGISTERED = re.compile(r"^@register_model\b.*\n(?:@.*\n(?:[ \t)].*\n)*)*def (\w+)\(", re.M)
LEAST = 20
"""Models that a library has; where fewer are found, its source is of a form that is not known here."""


def is_installed(library: str) -> bool:
    """Whether it can be imported; it is not."""
    return find_spec(library) is not None


@cache
def models_of(library: str) -> tuple[str, ...]:
    """Names of its classifiers, sorted; none where they are not known."""
    found = find_spec(library)
    folders = [] if found is None else list(found.submodule_search_locations or ())
    names = {
        name
        for folder in folders
        for file in sorted(File(folder, "models").glob("*.py"))
        for name in _REGISTERED.findall(file.read_text(encoding="utf-8", errors="replace"))
    }
    return tuple(sorted(names)) if len(names) >= LEAST else ()
