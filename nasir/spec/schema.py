"""JSON Schema of a spec for editors, with the options of every pass that is installed."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from nasir.errors import NasirError
from nasir.registry import Registry, datasets, passes, policies
from nasir.spec.choice_syntax import FIXED
from nasir.spec.model import Spec
from nasir.spec.passes import alternatives, options_of, policy_options, required
from nasir.spec.schema_choice import with_choices

DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that the YAML language server supports
_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema; passes are those registered or installed now, one that cannot be imported takes any options."""
    schema = Spec.model_json_schema(mode="validation")
    properties = {"extends": {"type": "string", "description": "a spec this one changes, relative to this file"}}
    schema["properties"] = {**properties, **schema["properties"]}
    schema["$defs"]["Data"]["properties"]["dataset"]["examples"] = list(datasets.names())
    schema["$defs"]["Rule"]["properties"]["do"] = _one_of(passes)
    schema["$defs"]["Phase"]["properties"]["policy"] = _one_of(policies)
    phases: Schema = schema["properties"]["phases"]
    group = {"$ref": "#/$defs/PhaseGroup"}
    phases["items"] = {"anyOf": [phases["items"], group]}
    schema["$defs"]["PhaseGroup"] = {
        "type": "object",
        "description": "phases that are repeated; their names get the suffix .1, .2, ...",
        "properties": {
            "repeat": {"type": "integer", "minimum": 1},
            "phases": {"type": "array", "minItems": 1, "items": phases["items"]},
        },
        "required": ["repeat", "phases"],
        "additionalProperties": False,
    }
    schema = with_choices(schema, FIXED)
    # a spec that extends another may leave out what the other says
    needed = schema.pop("required")
    rule = {"if": {"not": {"required": ["extends"]}}, "then": {"required": needed}}
    made: Schema = _without_null_defaults({"$schema": DRAFT, **schema, "title": "nasir spec", **rule})
    return made


def _without_null_defaults(node: Any) -> Any:
    """Absent keys of a default are written as nulls by pydantic, which no user would do."""
    if isinstance(node, list):
        return [_without_null_defaults(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _without_null_defaults(item) for key, item in node.items()}
    if isinstance(made.get("default"), dict | list):
        made["default"] = _without_nulls(made["default"])
    return made


def _without_nulls(data: Any) -> Any:
    if isinstance(data, list):
        return [_without_nulls(item) for item in data]
    return (
        {key: _without_nulls(item) for key, item in data.items() if item is not None}
        if isinstance(data, dict)
        else data
    )


def _one_of(registry: Registry) -> Schema:
    names = list(registry.names())
    return {
        "description": f"a {registry.kind} and its options",
        "anyOf": [
            {"enum": names} if names else {"type": "string"},
            {
                "type": "object",
                "properties": {name: options_schema(registry, name) for name in names},
                "minProperties": 1,
                "maxProperties": 1,
            },
        ],
    }


def options_schema(registry: Registry, name: str) -> Schema:
    """The options of one pass or policy, from the fields of its dataclass."""
    try:
        made = registry.get(name)
        options = options_of(policy_options(made) if registry is policies else made)
    except (NasirError, TypeError) as error:
        return {"type": ["object", "null"], "description": str(error)}
    properties = {key: _option(annotation, item) for key, (annotation, item) in options.items()}
    schema: Schema = {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
    if made.__doc__:
        schema["description"] = made.__doc__.strip().splitlines()[0]
    needed = [key for key, (_, item) in options.items() if required(item)]
    return {**schema, "required": needed} if needed else schema


def _option(annotation: Any, item: dataclasses.Field[Any]) -> Schema:
    schema = annotation_schema(annotation)
    value = item.default
    if isinstance(value, str | int | float | tuple) or value is None:
        schema = {**schema, "default": list(value) if isinstance(value, tuple) else value}
    return schema


def annotation_schema(annotation: Any) -> Schema:
    """The JSON Schema of a JSON-like annotation; an empty one, which allows anything, for others."""
    members = alternatives(annotation)
    if len(members) > 1:
        return {"anyOf": [annotation_schema(member) for member in members]}
    plain = members[0]
    if plain in _SCALARS:
        return {"type": _SCALARS[plain]}
    origin = get_origin(plain) or plain
    if origin is Literal:
        return {"enum": list(get_args(plain))}
    if origin in (Union, types.UnionType) or not isinstance(origin, type):
        return {}
    if issubclass(origin, Mapping):
        return {"type": "object"}
    if issubclass(origin, list | tuple | set | frozenset):
        items = get_args(plain)
        return {"type": "array", **({"items": annotation_schema(items[0])} if items else {})}
    return {}
