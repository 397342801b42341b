"""What `nasir list` shows: every registered thing with the first line of its documentation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from nasir import registry
from nasir.errors import NasirError
from nasir.ir.op import OpDef, op_named
from nasir.options import Option, described, options_of, parameters_of
from nasir.spec.passes import policy_options
from nasir.training.exporter import exporter_named
from nasir.training.optimizers import optimizer_named
from nasir.training.penalties import penalty_named

REGISTRIES = {
    "passes": registry.passes,
    "ops": registry.ops,
    "blocks": registry.blocks,
    "backends": registry.backends,
    "policies": registry.policies,
    "datasets": registry.datasets,
    "optimizers": registry.optimizers,
    "penalties": registry.penalties,
    "exporters": registry.exporters,
}


def entries(kind: str) -> list[dict[str, Any]]:
    """Name and one line about everything of a kind; a plugin that fails to import says so.

    All but data sets, backends and specs have `options` too, by name and in order: what each may be as JSON Schema
    (type, words to choose from, ranges) and its default, or that it is required.
    """
    if kind == "specs":
        return [{"name": name, "about": about} for name, about in sorted(_specs(files("nasir.specs"), ""))]
    return [_entry(kind, name) for name in REGISTRIES[kind].names()]


def _entry(kind: str, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "about": _about(kind, name)}
    if kind in DECLARED:
        try:
            options = DECLARED[kind](name)
        except (NasirError, TypeError) as error:
            return {**entry, "broken": str(error)}
        entry["options"] = {key: described(option) for key, option in options.items()}
    return entry


DECLARED: Mapping[str, Callable[[str], Mapping[str, Option]]] = {
    "passes": lambda name: options_of(registry.passes.get(name)),
    "policies": lambda name: options_of(policy_options(registry.policies.get(name))),
    "blocks": lambda name: parameters_of(registry.blocks.get(name), 3)[0],
    "ops": lambda name: op_named(name).attrs,
    "optimizers": lambda name: options_of(optimizer_named(name)),
    "penalties": lambda name: options_of(penalty_named(name)),
    "exporters": lambda name: options_of(exporter_named(name)),
}
"""What has options, and where they are declared."""


def _about(kind: str, name: str) -> str:
    try:
        thing = REGISTRIES[kind].get(name)
    except NasirError as error:
        return f"broken: {error}"
    text = thing.doc if isinstance(thing, OpDef) else inspect.getdoc(thing) or ""
    return text.partition("\n")[0]


def _specs(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    rows = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("_"):
            rows += _specs(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            comments = [line[1:].strip() for line in entry.read_text().splitlines()[:6] if line.startswith("#")]
            about = [text for text in comments if text and "$schema" not in text]
            rows.append((f"{prefix}{entry.name}", about[0] if about else ""))
    return rows
