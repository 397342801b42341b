"""Options of a pass by the annotations of its dataclass, and the schema made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from spec_examples import Trial

from nasir.errors import OptionError, UnknownName
from nasir.options import kind_of
from nasir.registry import passes
from nasir.rewriting.propose import make_pass
from nasir.spec import json_schema
from nasir.spec.passes import option_faults
from nasir.spec.schema import options_schema

GOOD: list[dict[str, Any]] = [
    {},
    {"init": "zero", "count": 3, "std": 2, "exact": True},
    {"std": 0.5},
    {"widths": [1, 2, 3]},
    {"widths": []},
    {"pair": [3, 1]},
    {"limit": None},
    {"limit": 4},
    {"start": "mean"},
    {"start": 0.5},
    {"template": {"a": {"b": [1]}}},
    {"template": None},
    {"note": "text"},
]


@pytest.mark.parametrize("options", GOOD)
def test_options_of_the_annotated_types_are_accepted(options: dict[str, Any]) -> None:
    assert option_faults(Trial, options) == []
    made = make_pass("try-this", options)
    for name, value in options.items():
        assert getattr(made, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"init": "one"}, ("init",)),
        ({"init": None}, ("init",)),
        ({"count": True}, ("count",)),
        ({"count": 1.0}, ("count",)),
        ({"std": "1"}, ("std",)),
        ({"std": float("nan")}, ("std",)),
        ({"exact": 1}, ("exact",)),
        ({"widths": 3}, ("widths",)),
        ({"widths": [1, 2.5]}, ("widths", 1)),
        ({"pair": [1, 2, 3]}, ("pair",)),
        ({"pair": [1.5, 2]}, ("pair", 0)),
        ({"limit": "none"}, ("limit",)),
        ({"start": "median"}, ("start",)),
        ({"template": "basic"}, ("template",)),
        ({"note": 3}, ("note",)),
        ({"needs": []}, ("needs",)),
        ({"count": 0}, ("count",)),
    ],
)
def test_each_wrong_option_is_found_at_its_path(options: dict[str, Any], path: tuple[str | int, ...]) -> None:
    [(place, text, remedy)] = option_faults(Trial, options)
    assert place == path
    assert text
    assert remedy or "must" in text


def test_all_wrong_options_are_found_at_once() -> None:
    assert [fault[0] for fault in option_faults(Trial, {"count": "a", "int": 1, "note": 2})] == [
        ("count",),
        ("int",),
        ("note",),
    ]


def test_making_a_pass_names_it_and_each_wrong_option() -> None:
    with pytest.raises(OptionError, match="pass try-this: count: expected a whole number, found the text 'a'"):
        make_pass("try-this", {"count": "a"})
    with pytest.raises(UnknownName, match="did you mean 'try-this'"):
        make_pass("try-thi", {})


def test_a_pass_without_options_says_so() -> None:
    @dataclass(frozen=True)
    class Bare:
        pass

    assert option_faults(Bare, {"a": 1}) == [(("a",), "unknown option", "this pass takes none")]


NEEDED: dict[str, dict[str, Any]] = {  # options without which a pass does not know what to do
    "prune-channels": {"fraction": 0.5},
    "widen": {"factor": 1.5, "noise": 0.01},
    "expand-to-budget": {"budget": 1e6},
    "scale-branches": {"to": "1/n"},
}


def test_shipped_passes_accept_their_defaults_and_have_a_schema() -> None:
    for name in passes.names():
        if name.startswith("try-"):
            continue
        assert option_faults(passes.get(name), NEEDED.get(name, {})) == []
        assert options_schema(passes, name)["additionalProperties"] is False


def test_the_schema_holds_the_options_of_a_pass() -> None:
    schema = options_schema(passes, "try-this")
    assert schema["description"] == "Change something, for the tests."
    assert schema["properties"]["init"] == {"enum": ["zero", "gaussian"], "default": "zero"}
    assert schema["properties"]["widths"] == {"type": "array", "items": {"type": "integer"}, "default": []}
    assert schema["properties"]["limit"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    assert "seen" not in schema["properties"]
    assert options_schema(passes, "try-needy")["required"] == ["fraction"]
    assert kind_of(object).schema() == {}


def test_the_schema_holds_words_and_ranges_of_shipped_options() -> None:
    actions = json_schema()["$defs"]["Rule"]["properties"]["do"]["anyOf"][1]["properties"]
    insert = actions["insert-block"]["anyOf"][0]["properties"]
    assert {"type": "number", "minimum": 0, "exclusiveMaximum": 1} in insert["tolerance"]["anyOf"]
    assert {"type": "number", "exclusiveMinimum": 0} in insert["sigma"]["anyOf"]
    [words] = [member["enum"] for member in insert["init"]["anyOf"] if "enum" in member]
    assert "zero" in words and "adam" in words


def test_the_schema_is_json_whose_references_resolve() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    names = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert names <= set(schema["$defs"])
    assert schema["$schema"].startswith("http://json-schema.org/draft-07")
    assert set(schema["then"]["required"]) == {"nasir", "input", "network", "data", "phases"}
    actions = schema["$defs"]["Rule"]["properties"]["do"]["anyOf"][1]["properties"]
    assert set(actions) == set(passes.names())


def test_the_schema_offers_short_forms() -> None:
    schema = json_schema()
    assert {"enum": ["hflip", "pad_crop", "random_resized_crop"]} in schema["$defs"]["Augmentation"]["anyOf"]
    assert schema["$defs"]["Phase"]["properties"]["schedule"]["default"] == {"constant": {}}
    assert schema["properties"]["nasir"]["const"] == 1
    assert "extends" in schema["properties"]
