"""Trees and calls of recordings as JSON data, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nasir.errors import TextFormatError
from nasir.importing.recording import Batch, Call, Device, Ref, Structure, Switch, Symbol, Tree

KIND = "is"  # the key that tells what an object stands for


def tree_to_data(tree: Tree) -> Any:
    """The tree as JSON data; TypeError for arrays, which belong into nodes of their own."""
    match tree:
        case None | bool() | int() | float() | str():
            return tree
        case complex():
            return {KIND: "complex", "parts": [tree.real, tree.imag]}
        case Ref():
            return {KIND: "value", "number": tree.number}
        case Batch():
            return {KIND: "batch", "factor": tree.factor, "offset": tree.offset}
        case Switch():
            return {KIND: "switch", "eval": tree_to_data(tree.eval), "train": tree_to_data(tree.train)}
        case Symbol():
            return {KIND: "symbol", "name": tree.name}
        case Device():
            return {KIND: "device", "name": tree.name}
        case Structure():
            parts = [[name, tree_to_data(part)] for name, part in tree.parts]
            return {KIND: "structure", "kind": tree.kind, "parts": parts}
        case tuple():
            return {KIND: "tuple", "parts": [tree_to_data(part) for part in tree]}
        case list():
            return [tree_to_data(part) for part in tree]
        case dict():
            return {KIND: "dict", "parts": [[key, tree_to_data(part)] for key, part in tree.items()]}
    if tree is Ellipsis:
        return {KIND: "ellipsis"}
    raise TypeError(f"a {type(tree).__name__} is no JSON data")


def tree_from_data(data: Any) -> Tree:
    """Inverse of `tree_to_data`; raises TextFormatError."""
    if isinstance(data, list):
        return [tree_from_data(part) for part in data]
    if not isinstance(data, Mapping):
        return data
    try:
        match data[KIND]:
            case "complex":
                return complex(*data["parts"])
            case "value":
                return Ref(data["number"])
            case "batch":
                return Batch(data["factor"], data["offset"])
            case "switch":
                return Switch(tree_from_data(data["eval"]), tree_from_data(data["train"]))
            case "symbol":
                return Symbol(data["name"])
            case "device":
                return Device(data["name"])
            case "structure":
                return Structure(data["kind"], tuple([(name, tree_from_data(part)) for name, part in data["parts"]]))
            case "tuple":
                return tuple([tree_from_data(part) for part in data["parts"]])
            case "dict":
                return {key: tree_from_data(part) for key, part in data["parts"]}
            case "ellipsis":
                return ...
    except (KeyError, TypeError, ValueError) as error:
        raise TextFormatError(f"malformed operand of a call: {type(error).__name__}: {error}") from None
    raise TextFormatError(f"malformed operand of a call: {data.get(KIND)!r} stands for nothing")


def call_to_json(call: Call) -> str:
    """What a call does, as text: not where it was made, but for the path of the module that it calls."""
    data = {
        "operation": call.operation,
        "module": call.module,
        "args": tree_to_data(call.args),
        "kwargs": tree_to_data(dict(call.kwargs)),
        "result": tree_to_data(call.result),
        "in_place": call.in_place,
        "gradient": call.gradient,
        "autocast": call.autocast,
    }
    return json.dumps(data, separators=(",", ":"))


def call_from_json(text: str) -> Call:
    """A call that does the same. Raises TextFormatError."""
    try:
        data = json.loads(text)
        return Call(
            operation=data["operation"],
            module=data["module"],
            args=tree_from_data(data["args"]),
            kwargs=tree_from_data(data["kwargs"]),
            result=tree_from_data(data["result"]),
            scope=(),
            source="an imported network",
            attributes={},
            in_place=data["in_place"],
            gradient=data["gradient"],
            autocast=data["autocast"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TextFormatError(f"malformed call: {type(error).__name__}: {error}") from None
