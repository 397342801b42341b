"""JSON Schema of a spec for editors, with the options of every pass that is installed."""

from __future__ import annotations

from typing import Any

from nasir.errors import NasirError
from nasir.options import record_schema
from nasir.registry import Registry, backends, datasets, optimizers, passes, penalties, policies
from nasir.spec.choice_syntax import FIXED
from nasir.spec.model import Spec
from nasir.spec.passes import policy_options
from nasir.spec.schema_choice import with_choices

DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that the YAML language server supports

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema; passes are those registered or installed now, one that cannot be imported takes any options."""
    schema = Spec.model_json_schema(mode="validation")
    properties = {"extends": {"type": "string", "description": "a spec this one changes, relative to this file"}}
    schema["properties"] = {**properties, **schema["properties"]}
    schema["$defs"]["Data"]["properties"]["dataset"]["examples"] = list(datasets.names())
    schema["properties"]["backend"]["examples"] = list(backends.names())
    schema["$defs"]["Rule"]["properties"]["do"] = _one_of(passes)
    schema["$defs"]["Phase"]["properties"]["policy"] = _one_of(policies)
    schema["$defs"]["Optimizer"] = _mapping_of(optimizers)
    schema["$defs"]["Penalty"] = _mapping_of(penalties)
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
            _mapping_of(registry),
        ],
    }


def _mapping_of(registry: Registry) -> Schema:
    """One name, and its options."""
    return {
        "type": "object",
        "properties": {name: options_schema(registry, name) for name in registry.names()},
        "minProperties": 1,
        "maxProperties": 1,
    }


def options_schema(registry: Registry, name: str) -> Schema:
    """The options of one pass, policy, optimizer or penalty, from the fields of its dataclass."""
    try:
        made = registry.get(name)
        schema = record_schema(policy_options(made) if registry is policies else made)
    except (NasirError, TypeError) as error:
        return {"type": ["object", "null"], "description": str(error)}
    about = {"description": made.__doc__.strip().splitlines()[0]} if made.__doc__ else {}
    kind = "object" if "required" in schema else ["object", "null"]
    return {**schema, "type": kind, **about}
