"""pydantic's errors as problems: in the words of a spec, at the place where the value was written."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from nasir.options import Path, close_match, shown, suggestion
from nasir.options.words import EMPTY_TEXT, EXPECTED, out_of_bounds, unknown_word, wrong_form, wrong_length
from nasir.spec.fields import FORMS, Strict
from nasir.spec.problems import Place, Problem
from nasir.spec.tree import Tree, key_place, locate

_EXPECTED = {
    "int_type": EXPECTED[int],
    "int_from_float": EXPECTED[int],
    "float_type": EXPECTED[float],
    "string_type": EXPECTED[str],
    "bool_type": EXPECTED[bool],
    "tuple_type": EXPECTED[list],
    "list_type": EXPECTED[list],
    "dict_type": EXPECTED[dict],
    "model_type": EXPECTED[dict],
}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def translate(error: ValidationError, tree: Tree, model: type[BaseModel]) -> list[Problem]:
    """One problem for each error of validating `tree.plain()` as `model`."""
    errors = error.errors(include_url=False)
    # an item that is refused is also missing from the count of its list
    return [
        _problem(details, tree, model)
        for details in errors
        if details["type"] != "too_short" or not _has_below(details["loc"], errors)
    ]


def _has_below(location: tuple[int | str, ...], errors: list[ErrorDetails]) -> bool:
    size = len(location)
    return any(len(details["loc"]) > size and details["loc"][:size] == location for details in errors)


def _problem(details: ErrorDetails, tree: Tree, model: type[BaseModel]) -> Problem:
    location = tuple(step for step in details["loc"] if step != "[key]")
    path = _written(location, tree)
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        key = str(location[-1])
        return Problem(locate(tree, path), (*path, key), "is required", f"add `{key}: ...`")
    if kind == "extra_forbidden":
        return Problem(key_place(tree, path), path, "unknown key", _known_keys(model, location))
    if kind == "nasir" and context["keys"]:
        path = max(((*path, key) for key in context["keys"]), key=lambda candidate: _newest(candidate, tree))
        return Problem(key_place(tree, path), path, context["text"], context["remedy"])
    if kind == "nasir":
        return Problem(locate(tree, path), path, context["text"], context["remedy"])
    text, remedy = _words(kind, context, details)
    return Problem(locate(tree, path), path, text, remedy)


def _words(kind: str, context: Mapping[str, Any], details: ErrorDetails) -> tuple[str, str]:
    value = details["input"]
    if kind in _EXPECTED:
        expected, remedy = _EXPECTED[kind]
        return f"expected {expected}, found {shown(value)}", remedy
    if kind in _BOUNDS:
        return out_of_bounds(_BOUNDS[kind], context[_BOUNDS[kind]], value)
    if kind == "literal_error":
        names = [name.strip("'") for name in _listed(context["expected"])]
        return unknown_word(value, [name.lower() if name in ("True", "False") else name for name in names])
    if kind in ("too_short", "too_long"):
        bound = "min_length" if kind == "too_short" else "max_length"
        return wrong_length(bound, context[bound], context["actual_length"])
    if kind == "string_too_short":
        return EMPTY_TEXT
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return wrong_form(value, FORMS.get(pattern, f"text that matches {pattern}"))
    return details["msg"][:1].lower() + details["msg"][1:], f"found {shown(value)}"


def _newest(path: Path, tree: Tree) -> tuple[bool, bool, Place]:
    """Orders keys of one mapping: overrides over files, the extending file over its base, later over earlier."""
    place = key_place(tree, path)
    return not place.line, place.file == locate(tree, path[:-1]).file, place


def _listed(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _written(location: tuple[Any, ...], tree: Tree) -> Path:
    """The part of pydantic's location that is in the tree, without tags of unions and normalised keys."""
    path: list[str | int] = []
    for step in location:
        below = tree.child(step)
        if below is None:
            continue
        path.append(step)
        tree = below
    return tuple(path)


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    """The remedy for an unknown key at one of pydantic's locations: the keys known there, by the annotations."""
    here: list[Any] = [model]
    for step in location[:-1]:
        here = [below for annotation in here for below in _below(annotation, step)] or here
    models = list(_models(here))
    keys = [info.alias or name for candidate in models for name, info in candidate.model_fields.items()]
    strict = [candidate for candidate in models if issubclass(candidate, Strict)]
    elsewhere = " ".join(candidate.elsewhere for candidate in strict if candidate.elsewhere)
    if elsewhere and close_match(str(location[-1]), keys) is None:
        return elsewhere
    return suggestion(str(location[-1]), keys)


def _models(annotations: list[Any]) -> Iterator[type[BaseModel]]:
    for annotation in annotations:
        for plain in _plain_types(annotation):
            if isinstance(plain, type) and issubclass(plain, BaseModel):
                yield plain


def _below(annotation: Any, step: Any) -> Iterator[Any]:
    yield from (member for member in get_args(annotation) if Tag(step) in get_args(member)[1:])
    for plain in _plain_types(annotation):
        if isinstance(plain, type) and issubclass(plain, BaseModel):
            for name, info in plain.model_fields.items():
                if step in (name, info.alias):
                    yield info.annotation
        elif get_origin(plain) in (tuple, list) and isinstance(step, int):
            yield get_args(plain)[0]
        elif get_origin(plain) is dict:
            yield get_args(plain)[1]


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The members of a union, without `Annotated`."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _plain_types(member)
    else:
        yield annotation
