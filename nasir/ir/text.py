"""Text and JSON forms of a graph; both round-trip to an equal graph."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from nasir.errors import GraphError, TextFormatError, UnknownName
from nasir.files import json_value
from nasir.ir.infer import collector_paused
from nasir.ir.names import Names
from nasir.ir.node import Node, Region, RegionKind
from nasir.ir.op import op_named
from nasir.ir.regions import covers
from nasir.ir.source import Key
from nasir.ir.structure import Structure
from nasir.ir.ties import Ties
from nasir.ir.types import JSON, Port
from nasir.options import shown

FORMAT = 1
MAX_DEPTH = 48
"""Levels of a template."""
MAX_DIGITS = 18
"""Digits of an id."""
KINDS = get_args(RegionKind)
S = TypeVar("S", bound=Structure)
_new = tuple.__new__  # what a NamedTuple's constructor calls; called directly because thousands are made


def to_json(graph: Structure) -> dict[str, Any]:
    """Plain data: {"format", "nodes": [[id, op, [[node, output], ...], attrs, label], ...], ...}."""
    stated: dict[tuple[str, int], Mapping[str, JSON]] = {}  # by op and id of the attributes: many nodes share them
    nodes: list[list[Any]] = []
    for node_id, node in graph.nodes.items():
        alike = (node.op, id(node.attrs))
        attrs = stated.get(alike)
        if attrs is None:
            attrs = stated[alike] = node.facts.stated(node.attrs)
        nodes.append([node_id, node.op, [list(port) for port in node.inputs], dict(attrs), node.label])
    return {
        "format": FORMAT,
        "nodes": nodes,
        "outputs": [list(port) for port in graph.outputs],
        "regions": [
            [region.path, region.kind, region.template, *([list(region.parts)] if region.parts else ())]
            for region in graph.regions.values()
        ],
        "minted": graph.minted,
        **({"frozen": list(graph.frozen)} if graph.frozen else {}),
        **({"ties": [[*key, *owner] for key, owner in graph.ties.items()]} if graph.ties else {}),
        **({"names": [[*key, *given] for key, given in graph.names.items()]} if graph.names else {}),
    }


def from_json(data: Mapping[str, Any], graph_type: type[S]) -> S:
    """Inverse of `to_json`, as a structure of that type.

    Raises TextFormatError for malformed data, and GraphError, TypeRuleError or UnknownName for a graph that is none.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise TextFormatError(f"not a nasir graph of format {FORMAT}: no such 'format' field")
    with collector_paused():
        return _from_json(data, graph_type)


def _from_json(data: Mapping[str, Any], graph_type: type[S]) -> S:
    try:
        nodes = [
            (node_id, op, tuple([_port(port) for port in inputs]), attrs, label)
            for node_id, op, inputs, attrs, label in data["nodes"]
        ]
        outputs = tuple([_port(port) for port in data["outputs"]])
        regions = [Region(path, kind, template, *map(tuple, parts)) for path, kind, template, *parts in data["regions"]]
        minted = data["minted"]
        frozen = tuple(data.get("frozen", ()))
        ties = {Key(node, slot): Key(*owner) for node, slot, *owner in data.get("ties", ())}
        names = {Key(node, slot): tuple(given) for node, slot, *given in data.get("names", ())}
    except (KeyError, TypeError, ValueError) as error:
        raise TextFormatError(f"malformed graph data: {type(error).__name__}: {error}") from None
    return _assemble(graph_type, nodes, outputs, regions, minted, frozen, ties, names)


def _port(pair: Any) -> Port:
    node, output = pair
    if node.__class__ is not int or output.__class__ is not int:
        raise TypeError(f"expected [node, output], two whole numbers, found {shown(pair)}")
    return _new(Port, (node, output))


def _assemble(
    graph_type: type[S],
    nodes: Iterable[tuple[int, str, tuple[Port, ...], Mapping[str, JSON], str]],
    outputs: tuple[Port, ...],
    regions: Iterable[Region],
    minted: int,
    frozen: tuple[str, ...],
    ties: Ties,
    names: Names,
) -> S:
    if type(minted) is not int:
        raise TextFormatError(f"minted: expected a whole number, the next free node id, found {shown(minted)}")
    made: dict[int, Node] = {}
    for node_id, op, inputs, attrs, label in nodes:
        if type(node_id) is not int or type(op) is not str or type(label) is not str or not isinstance(attrs, Mapping):
            raise TextFormatError(
                f"node {shown(node_id)} ({shown(label)}): expected a whole number as id, the name of an op, a text as "
                "label, a mapping of attributes"
            )
        if node_id in made or not 0 <= node_id < minted:
            raise TextFormatError(f"node id {node_id} ('{label}') is used twice or not below minted = {minted}")
        try:
            made[node_id] = Node(op, inputs, op_named(op).normalize(attrs, label), label)
        except RecursionError:
            raise TextFormatError(f"node {node_id} ('{label}'): its attributes are nested too deep") from None
    table: dict[str, Region] = {}
    for region in regions:
        if type(region.path) is not str or region.path in table:
            raise TextFormatError(f"region {shown(region.path)}: expected a path that no other region has")
        if region.kind not in KINDS or not _is_template(region.template):
            raise TextFormatError(
                f"region '{region.path}': expected one of {', '.join(KINDS)}, and a template, a mapping or nothing, "
                f"found {shown(region.kind)} and {shown(region.template)}"
            )
        if not all(type(part) is str for part in region.parts):
            raise TextFormatError(f"region '{region.path}': expected texts as parts, found {shown(region.parts)}")
        table[region.path] = region
    for prefix in frozen:
        if type(prefix) is not str or not any(covers(prefix, node.label) for node in made.values()):
            raise TextFormatError(f"frozen {prefix!r}: no node is labelled so, or below it")
    for key in (key for tie in ties.items() for key in tie):
        if type(key.node) is not int or type(key.slot) is not str or key.node not in made:
            raise TextFormatError(f"tie of {tuple(key)}: expected the id of a node and the name of a weight")
    for key, given in names.items():
        if type(key.node) is not int or not all(type(text) is str and text for text in (key.slot, *given)):
            raise TextFormatError(f"names of {tuple(key)}: expected the id of a node, the name of a weight, and texts")
    graph = graph_type(made, outputs, table, minted, tuple(sorted(frozen)), ties, names)
    graph.verify()
    return graph


def _is_template(value: Any) -> bool:
    """Whether it is None or a mapping of JSON values that are not nested too deep to be written again."""
    if not isinstance(value, Mapping):
        return value is None
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(item, Mapping | list | tuple)
        ]
        if not level:
            return True
    return False


def to_text(graph: Structure) -> str:
    """One line a node with the attributes that differ from their defaults, then regions and outputs."""
    lines = [f"nasir graph {FORMAT} minted {graph.minted}"]
    for node_id, node in graph.nodes.items():
        inputs = ", ".join(_port_text(port) for port in node.inputs)
        lines.append(f"%{node_id} {json.dumps(node.label)} = {node.op}({inputs}){_attrs_text(node)}")
    for region in graph.regions.values():
        template = "" if region.template is None else " " + json.dumps(region.template)
        parts = f" of {json.dumps(region.parts)}" if region.parts else ""
        lines.append(f"{region.kind} {json.dumps(region.path)}{template}{parts}")
    lines += [f"frozen {json.dumps(prefix)}" for prefix in graph.frozen]
    lines += [f"tie %{key.node}.{key.slot} %{owner.node}.{owner.slot}" for key, owner in graph.ties.items()]
    lines += [f"name %{key.node}.{key.slot} {json.dumps(list(given))}" for key, given in graph.names.items()]
    lines.append("output " + ", ".join(_port_text(port) for port in graph.outputs))
    return "\n".join(lines) + "\n"


def _port_text(port: Port) -> str:
    return f"%{port.node}" + (f":{port.output}" if port.output else "")


def _attrs_text(node: Node) -> str:
    defaults = op_named(node.op).attrs
    shown = [
        # a space within a text would end the attribute
        f" {name}={json.dumps(value, separators=(',', ':')).replace(' ', SPACE)}"
        for name, value in node.attrs.items()
        if value != defaults[name].default
    ]
    return "".join(shown)


SPACE = "\\u0020"
_HEAD = re.compile(r"nasir graph (\d+) minted (\d+)")
_NODE = re.compile(r'%(\d+) ("(?:[^"\\]|\\.)*") = (\w+)\(([^)]*)\)((?: \w+=\S+)*)')
_TIE = re.compile(r"tie %(\d+)\.(\S+) %(\d+)\.(\S+)")
_NAME = re.compile(r"name %(\d+)\.(\S+) (\[.*\])")
_REGION = re.compile(r'(stage|block|branch) ("(?:[^"\\]|\\.)*")(?: (\{.*\}))?(?: of (\[.*\]))?')


def from_text(text: str, graph_type: type[S]) -> S:
    """Inverse of `to_text`, as a structure of that type; TextFormatError names the line."""
    lines = text.splitlines()
    head = _HEAD.fullmatch(lines[0]) if lines else None
    if head is None or head[1] != str(FORMAT) or len(head[2]) > MAX_DIGITS:
        raise TextFormatError(f"line 1: expected 'nasir graph {FORMAT} minted N'")
    nodes, regions, frozen = [], [], []
    ties: dict[Key, Key] = {}
    names: dict[Key, tuple[str, ...]] = {}
    outputs: tuple[Port, ...] = ()
    for number, line in enumerate(lines[1:], start=2):
        try:
            if match := _NODE.fullmatch(line):
                parts = [part.partition("=") for part in match[5].split()]
                attrs = {key: json_value(value) for key, _, value in parts}
                if len(attrs) < len(parts):
                    raise TextFormatError(f"line {number}: an attribute is given twice")
                nodes.append((_number(match[1]), match[3], _ports(match[4]), attrs, json_value(match[2])))
            elif match := _REGION.fullmatch(line):
                template = json_value(match[3]) if match[3] else None
                held = tuple(json_value(match[4])) if match[4] else ()
                regions.append(Region(json_value(match[2]), match[1], template, held))  # type: ignore[arg-type]
            elif match := _TIE.fullmatch(line):
                ties[Key(_number(match[1]), match[2])] = Key(_number(match[3]), match[4])
            elif match := _NAME.fullmatch(line):
                names[Key(_number(match[1]), match[2])] = tuple(json_value(match[3]))
            elif line.startswith("frozen "):
                frozen.append(json_value(line.removeprefix("frozen ")))
            elif line.startswith("output "):
                outputs = _ports(line.removeprefix("output "))
            elif line.strip():
                raise TextFormatError(f"line {number}: cannot read {line!r:.200}")
        except ValueError as error:
            raise TextFormatError(f"line {number}: {error}") from None
    try:
        return _assemble(graph_type, nodes, outputs, regions, int(head[2]), tuple(frozen), ties, names)
    except (GraphError, UnknownName) as error:
        error.add_note("while reading a graph from text")
        raise


def _ports(text: str) -> tuple[Port, ...]:
    ports = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        node, _, output = part.removeprefix("%").partition(":")
        ports.append(Port(_number(node), _number(output or "0")))
    return tuple(ports)


def _number(text: str) -> int:
    """An id, or the number of an output."""
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise ValueError(f"expected a whole number of at most {MAX_DIGITS} digits, found {text!r:.40}")
    return int(text)
