"""What `nasir list` shows: every registered thing with the first line of its documentation."""

from __future__ import annotations

import inspect
from importlib.resources import files
from importlib.resources.abc import Traversable

from nasir import registry
from nasir.errors import NasirError
from nasir.ir.op import OpDef

REGISTRIES = {
    "passes": registry.passes,
    "ops": registry.ops,
    "blocks": registry.blocks,
    "backends": registry.backends,
    "policies": registry.policies,
    "datasets": registry.datasets,
}


def entries(kind: str) -> list[tuple[str, str]]:
    """(name, one line about it) of everything of a kind; a plugin that fails to import says so."""
    if kind == "specs":
        return sorted(_specs(files("nasir.specs"), ""))
    return [(name, _about(kind, name)) for name in REGISTRIES[kind].names()]


def _about(kind: str, name: str) -> str:
    try:
        thing = REGISTRIES[kind].get(name)
    except NasirError as error:
        return f"broken: {error}"
    text = thing.doc if isinstance(thing, OpDef) else inspect.getdoc(thing) or ""
    return text.partition("\n")[0]


def _specs(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("_"):
            found += _specs(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            comments = [line[1:].strip() for line in entry.read_text().splitlines()[:6] if line.startswith("#")]
            about = [text for text in comments if text and "$schema" not in text]
            found.append((f"{prefix}{entry.name}", about[0] if about else ""))
    return found
