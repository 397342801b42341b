"""JSON Schema of `{choose: ...}`, and its place in that of a spec: beside whatever else a value can be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Schema = dict[str, Any]

REFERENCE = {"$ref": "#/$defs/Choice"}


def choice_schema() -> Schema:
    """The schema of a choice; its alternatives may be anything: `nasir check` tests each in its place."""
    low_high = {"type": "array", "minItems": 2, "maxItems": 2}
    float_range = {
        "properties": {
            "float": {**low_high, "items": {"type": "number"}, "description": "lowest and highest number"},
            "step": {"type": "number", "exclusiveMinimum": 0, "description": "distance of the values"},
            "log": {"type": "boolean", "description": "sampled evenly by the logarithm"},
        },
        "required": ["float"],
    }
    int_range = {
        "properties": {
            "int": {**low_high, "items": {"type": "integer"}, "description": "lowest and highest whole number"},
            "step": {"type": "integer", "minimum": 1, "description": "distance of the values"},
            "log": {"type": "boolean", "description": "sampled evenly by the logarithm"},
        },
        "required": ["int"],
    }
    cases = {
        "properties": {"cases": {"type": "object", "minProperties": 2, "description": "alternatives by name"}},
        "required": ["cases"],
    }
    kinds = [{"type": "object", **kind, "additionalProperties": False} for kind in (float_range, int_range, cases)]
    return {
        "type": "object",
        "description": "one of several values, for `nasir search`",
        "properties": {
            "choose": {"anyOf": [{"type": "array", "minItems": 2}, *kinds]},
            "default": {"description": "the value, or the name of the alternative, to begin with"},
            "name": {"type": "string", "minLength": 1, "description": "default: the path of the value"},
        },
        "required": ["choose"],
        "additionalProperties": False,
    }


def with_choices(schema: Schema, fixed: Collection[str]) -> Schema:
    """The schema of a spec where every value can be chosen, but not those of the `fixed` keys at the top."""
    definitions: dict[str, Schema] = schema["$defs"]
    free = {key: item for key, item in schema["properties"].items() if key not in fixed}
    reached: set[str] = set()
    _reach(free, definitions, reached)
    changed = {name: _inside(definition) if name in reached else definition for name, definition in definitions.items()}
    properties = {key: _or_choice(item) if key in free else item for key, item in schema["properties"].items()}
    return {**schema, "properties": properties, "$defs": {**changed, "Choice": choice_schema()}}


def _reach(node: Any, definitions: Mapping[str, Schema], reached: set[str]) -> None:
    if isinstance(node, list):
        for item in node:
            _reach(item, definitions, reached)
    elif isinstance(node, dict):
        name = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions and name not in reached:
            reached.add(name)
            _reach(definitions[name], definitions, reached)
        for item in node.values():
            _reach(item, definitions, reached)


def _inside(node: Schema) -> Schema:
    """A schema whose parts can be chosen, but not the whole."""
    made = dict(node)
    if isinstance(node.get("properties"), dict):
        made["properties"] = {key: _or_choice(item) for key, item in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            made[key] = _or_choice(node[key])
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(node.get(key), list):
            made[key] = [_inside(item) for item in node[key]]
    return made


def _or_choice(node: Schema) -> Schema:
    """A schema, or a choice; what an editor shows of it stays outside."""
    outside = {"title", "description", "default"}
    if not node.keys() - outside:
        return node  # takes anything
    shown = {key: item for key, item in node.items() if key in outside}
    rest = {key: item for key, item in _inside(node).items() if key not in outside}
    members = rest["anyOf"] if rest.keys() == {"anyOf"} else [rest]
    return {**shown, "anyOf": [*members, REFERENCE]}
