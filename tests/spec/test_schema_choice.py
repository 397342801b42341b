"""The JSON Schema of specs takes a choice wherever a value can be chosen, and nowhere else."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import yaml
from spec_examples import VALID

from nasir.spec import json_schema, load_search, loads_spec
from nasir.spec.choice_syntax import choice_paths
from nasir.spec.load import load_raw
from nasir.spec.tree import parse

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def of_type(kind: str, data: Any) -> bool:
    if kind in ("integer", "number"):
        return isinstance(data, int if kind == "integer" else int | float) and not isinstance(data, bool)
    return isinstance(data, TYPES[kind])


def fits(data: Any, schema: Any, root: dict[str, Any]) -> bool:
    """The part of JSON Schema that `nasir schema` uses, but for if and then, and no more."""
    unknown = schema.keys() - {
        "$schema", "$defs", "$ref", "title", "description", "default", "examples", "type", "anyOf", "enum", "const",
        "properties", "required", "additionalProperties", "minProperties", "maxProperties", "items", "minItems",
        "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "minLength", "if", "then",
        "oneOf",
    }  # fmt: skip
    assert not unknown, unknown
    if "$ref" in schema and not fits(data, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root):
        return False
    kinds = schema.get("type", [])
    if kinds and not any(of_type(kind, data) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if any(key in schema and not any(fits(data, member, root) for member in schema[key]) for key in ("anyOf", "oneOf")):
        return False
    if data not in schema.get("enum", [data]) or data != schema.get("const", data):
        return False
    if isinstance(data, dict):
        properties, further = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not schema.get("minProperties", 0) <= len(data) <= schema.get("maxProperties", 10**6):
            return False
        if any(key not in data for key in schema.get("required", ())):
            return False
        return all(
            fits(item, properties[key], root)
            if key in properties
            else further is True or (isinstance(further, dict) and fits(item, further, root))
            for key, item in data.items()
        )
    if isinstance(data, list):
        short = schema.get("minItems", 0) <= len(data) <= schema.get("maxItems", 10**6)
        return short and all(fits(item, schema.get("items", {}), root) for item in data)
    if isinstance(data, str):
        return bool(re.search(schema.get("pattern", ""), data)) and len(data) >= schema.get("minLength", 0)
    if isinstance(data, int | float) and not isinstance(data, bool):
        above = data > schema.get("exclusiveMinimum", -float("inf")) and data >= schema.get("minimum", -float("inf"))
        return (
            above
            and data < schema.get("exclusiveMaximum", float("inf"))
            and data <= schema.get("maximum", float("inf"))
        )
    return True


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def shipped() -> list[str]:
    with as_file(files("nasir.specs")) as root:
        return sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_fit_the_schema(name: str, schema: dict[str, Any]) -> None:
    with as_file(files("nasir.specs")) as root:
        tree = load_raw(Path(root) / name).tree
        assert fits(tree.plain(), schema, schema)
        for path in choice_paths(tree):  # and so do the whole specs that the choices stand for
            assert fits(load_search(Path(root) / name).base.resolved(), schema, schema), path


def put(text: str, path: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text)
    owner: Any = data
    *steps, last = path.split(".")
    for step in steps:
        owner = owner[int(step) if isinstance(owner, list) else step]
    owner[int(last) if isinstance(owner, list) else last] = value
    return data


CHOICES = [
    {"choose": [1, {"a": [None]}], "default": 1, "name": "x"},
    {"choose": {"int": [1, 9], "step": 2}},
    {"choose": {"float": [0.1, 1], "log": True}, "default": 0.5},
    {"choose": {"cases": {"a": None, "b": {"choose": [1, 2]}}}},
]
PLACES = [
    "seed",
    "input",
    "input.image.0",
    "network",
    "network.1",
    "network.1.stage.depth",
    "data.augment",
    "data.batch_size",
    "phases.0",
    "phases.0.optimizer",
    "phases.0.optimizer.sgd.lr",
    "phases.0.rules.0",
    "phases.0.rules.0.do",
    "phases.0.rules.0.do.insert-block.init",
    "phases.0.rules.0.freeze.plateau.window",
    "phases.1.schedule.staircase.at",
    "phases.1.policy",
]
VALID_SHIPPED = VALID.replace("try-this", "insert-block")


@pytest.mark.parametrize("path", PLACES)
def test_every_value_can_be_chosen(path: str, schema: dict[str, Any]) -> None:
    assert fits(yaml.safe_load(VALID_SHIPPED), schema, schema)
    for choice in CHOICES:
        assert fits(put(VALID_SHIPPED, path, choice), schema, schema)


@pytest.mark.parametrize("path", ["nasir", "name", "extends", "plugins", "search"])
def test_what_cannot_be_chosen_is_no_choice_in_the_schema_either(path: str, schema: dict[str, Any]) -> None:
    assert not any(fits(put(VALID_SHIPPED, path, choice), schema, schema) for choice in CHOICES)


@pytest.mark.parametrize(
    "choice",
    [
        {"choose": 3},
        {"choose": [1]},
        {"choose": {"int": [1, 9], "stepp": 2}},
        {"choose": {"int": [1.5, 9]}},
        {"choose": {"int": [1, 9], "float": [1, 9]}},
        {"choose": [1, 2], "log": True},
        {"default": 1},
    ],
)
def test_malformed_choices_do_not_fit(choice: Any, schema: dict[str, Any]) -> None:
    assert not fits(put(VALID_SHIPPED, "phases.0.optimizer.sgd.lr", choice), schema, schema)


def test_a_search_section_fits_as_written_and_as_resolved(schema: dict[str, Any]) -> None:
    for text in (
        "search: {trials: 5, timeout: 2 hours, sampler: {tpe: {startup: 4}}, pruner: {wilcoxon: {p: 0.2}}}\n",
        "search: {objective: {minimize: macs}, constraints: [params <= 1.2M], axis: {macs: 1G}, sampler: grid}\n",
        "search: {pruner: {hyperband: {max_resource: auto}}, reuse: {disk: 4 GB, every: 3 epochs}}\n",
    ):
        tree = parse(VALID_SHIPPED + text, "s.yaml")
        assert tree is not None
        assert fits(tree.plain(), schema, schema)
        assert fits(loads_spec(VALID_SHIPPED + text).resolved(), schema, schema)
    tree = parse(VALID_SHIPPED + "search: {trails: 5}\n", "s.yaml")
    assert tree is not None and not fits(tree.plain(), schema, schema)
