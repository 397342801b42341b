"""The generated forward: a schedule of steps as the source of one Python function, blocks as calls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from keyword import iskeyword
from typing import Any, NamedTuple, get_args

from nasir.analysis.routing import Home, Way, homes
from nasir.backends.torch.lower.modes import assign
from nasir.backends.torch.lower.network import Step, Unit
from nasir.backends.torch.lower.ops import Call, Lowered
from nasir.backends.torch.lower.overwriting import apart
from nasir.ir import Graph, Port, op_named
from nasir.ir.modes import reads_of
from nasir.ir.types import Mode


class Row(NamedTuple):
    """One call of the generated forward: its text before and after the inputs; `several`: it gives a tuple; `mode`: it
    runs in this one alone. With `reads`, the mode in which each input is read, it is no call but a choice of them.
    `home`: the ways that it lies in; `route`: the node, of a call that chooses among ways."""

    head: str
    tail: str
    inputs: tuple[Port, ...]
    results: tuple[Port, ...]
    several: bool
    mode: Mode | None = None
    reads: tuple[Mode | None, ...] = ()
    home: Home = ()
    route: int | None = None

    def text(self, given: Sequence[str]) -> str:
        """Its expression, given those of the inputs."""
        if self.reads:
            chosen = {
                mode: next((name for name, read in zip(given, self.reads, strict=True) if read in (None, mode)), "None")
                for mode in get_args(Mode)
            }
            return f"{chosen['train']} if self.training else {chosen['eval']}"
        made = f"{self.head}{', '.join(given)}{self.tail}"
        if self.mode is None:
            return made
        nothing = f"({'None, ' * len(self.results)})" if self.several else "None"
        first, second = (made, nothing) if self.mode == "train" else (nothing, made)
        return f"{first} if self.training else {second}"


def write_top(
    graph: Graph, steps: Iterable[Step], lowered: Mapping[int, Lowered], inplace: set[int]
) -> tuple[str, dict[str, Any]]:
    """(source of the whole network's forward, the functions it calls by name), blocks as calls.

    Written directly: tracing it through fx again at every rewrite took most of the time of inserting a block.
    """
    scope: dict[str, Any] = {"apart": apart}
    names = {Port(node_id): f"x{index or ''}" for index, node_id in enumerate(graph.inputs)}
    rows: list[Row] = []
    home = homes(graph)
    made_of: dict[Port, tuple[Port, ...]] = {}  # what modules and blocks read that a value is made by
    assigned = {node.inputs[0].node: n for n, node in graph.nodes.items() if node.facts.family == "assign"}
    for step in steps:
        if isinstance(step, Unit):
            mode, several = _mode(graph, step.nodes[-1]), len(step.outputs) > 1
            at = home.get(step.nodes[-1], ())
            rows += _kept_apart(graph, step.nodes, inplace, made_of, mode, at)
            made_of |= dict.fromkeys(step.outputs, step.inputs)
            rows.append(Row(f"{_attribute(step.path)}(", ")", step.inputs, step.outputs, several, mode, home=at))
        elif step not in graph.inputs:
            node, call, mode = graph.nodes[step], lowered.get(step), _mode(graph, step)
            several = op_named(node.op).several
            results, at = tuple(_outputs(graph, step)) if several else (Port(step),), home.get(step, ())
            rows += _kept_apart(graph, (step,), inplace, made_of, mode, at)
            if not isinstance(call, Call):
                made_of |= dict.fromkeys(results, node.inputs)
            if node.facts.family == "mode":
                rows.append(Row("", "", node.inputs, results, several, mode, reads_of(node), home=at))
            elif isinstance(call, Call):
                text = _call_text(call.overwriting if step in inplace else call, scope)
                rows.append(Row(*text, node.inputs, results, several, mode, home=at))
            else:
                # what is assigned at the end is written in place, and backward passes need what was read
                tail = ").clone()" if step in assigned else ")"
                route = step if node.facts.family == "route" else None
                head = f"{_attribute(node.label)}("
                rows.append(Row(head, tail, node.inputs, results, several, mode, home=at, route=route))
    if assigned:
        scope["assign"] = assign
    ends = [
        (f'assign(self, {_attribute(graph.nodes[held].label)}, "{slot}", ', Port(value))
        for held, value in assigned.items()
        for slot in graph.weights(held)
    ]
    return _source(graph, rows, names, ends), scope


def _kept_apart(
    graph: Graph,
    nodes: Iterable[int],
    inplace: Collection[int],
    made_of: Mapping[Port, tuple[Port, ...]],
    mode: Mode | None,
    home: Home,
) -> Iterator[Row]:
    """What `nodes` are about to write over, apart from what it was made of."""
    for port in [graph.nodes[node_id].inputs[0] for node_id in nodes if node_id in inplace]:
        if made_of.get(port) and graph.infer.types[port].batch:
            yield Row("apart(", ")", (port, *made_of[port]), (port,), False, mode, home=home)


def _outputs(graph: Graph, node_id: int) -> Iterator[Port]:
    output = 0
    while Port(node_id, output) in graph.infer.types:
        yield Port(node_id, output)
        output += 1


def _attribute(label: str) -> str:
    """The expression for the module at a dotted path."""
    text = "self"
    for part in label.split("."):
        plain = part.isidentifier() and not iskeyword(part)
        text = f"{text}.{part}" if plain else f'getattr({text}, "{part}")'
    return text


def _call_text(call: Call, scope: dict[str, Any]) -> tuple[str, str]:
    """Text before and after the inputs of a call; the function and its constants go into `scope`."""
    name = f"f{len(scope)}"
    scope[name] = call.target
    constants = []
    for key, value in (*((None, v) for v in call.args), *call.kwargs.items()):
        constant = f"c{len(scope)}"
        scope[constant] = value
        constants.append(constant if key is None else f"{key}={constant}")
    head, tail = (f"{name}([", "]") if call.listed else (f"{name}(", "")
    return head, f"{tail}{''.join(f', {text}' for text in constants)})"


def _source(graph: Graph, rows: list[Row], names: dict[Port, str], ends: list[tuple[str, Port]]) -> str:
    """The rows as Python; `ends`: calls after all of them, each with a value as its last operand."""
    names.update(
        {port: f"v{port.node}" + (f"_{port.output}" if port.output else "") for r in rows for port in r.results}
    )
    kept = {*graph.outputs, *[port for _, port in ends]}
    lines = [f"def forward(self, {', '.join(names[Port(node_id)] for node_id in graph.inputs)}):"]
    lines += _body(graph, rows, names, kept)
    lines += [f"    {head}{names[port]})" for head, port in ends]
    values = [names[port] for port in graph.answers]
    lines.append(f"    return {values[0] if len(values) == 1 else '(' + ', '.join(values) + ')'}")
    return "\n".join(lines) + "\n"


def _body(
    graph: Graph, rows: Sequence[Row], names: Mapping[Port, str], kept: Collection[Port], home: Home = ()
) -> list[str]:
    """The lines of the rows at `home`, each value dropped after its last use so that its memory is free again.

    Rows that lie deeper are the bodies of functions, which a route calls, or does not.
    """
    depth = len(home)
    here = [row for row in rows if len(row.home) == depth]
    inside: dict[Way, list[Row]] = {}
    for row in rows:
        if len(row.home) > depth:
            inside.setdefault(row.home[depth], []).append(row)
    entries = {way: _entries(deeper) for way, deeper in inside.items()}
    reads = [_reads(row, entries) for row in here]
    last = {port: index for index, ports in enumerate(reads) for port in ports}
    margin = "    " * (depth + 1)
    lines: list[str] = []
    for index, row in enumerate(here):
        given = [names[port] for port in row.inputs]
        if row.route is not None:
            for number, port in enumerate(row.inputs[1:], start=1):
                way = Way(row.route, number)
                if way not in inside:
                    given[number] = f"(None, ({names[port]},))"
                    continue
                # what has no batch axis is the same for all samples, and is read where it is
                arguments = [names[p] for p in entries[way] if graph.infer.types[p].batch]
                lines.append(f"{margin}def w{row.route}_{number}({', '.join(arguments)}):")
                lines += _body(graph, inside[way], names, {port}, (*home, way))
                lines.append(f"{margin}    return {names[port]}")
                given[number] = f"(w{row.route}_{number}, ({''.join(f'{name}, ' for name in arguments)}))"
        done = [
            names[port]
            for port in dict.fromkeys((*reads[index], *row.results))
            if last.get(port, -1) <= index and port not in kept
        ]
        drop = f";  {' = '.join(done)} = None" if done else ""
        comma = "," if row.several and len(row.results) == 1 else ""
        targets = ", ".join([names[port] for port in row.results]) + comma
        lines.append(f"{margin}{targets} = {row.text(given)}{drop}")
    return lines


def _entries(rows: Sequence[Row]) -> dict[Port, None]:
    """The values that rows read and do not make."""
    made = {port for row in rows for port in row.results}
    return {port: None for row in rows for port in row.inputs if port not in made}


def _reads(row: Row, entries: Mapping[Way, Mapping[Port, None]]) -> dict[Port, None]:
    """The values that a row needs where it stands: of a way that is a function what that function needs."""
    if row.route is None:
        return dict.fromkeys(row.inputs)
    needed = dict.fromkeys(row.inputs[:1])
    for number, port in enumerate(row.inputs[1:], start=1):
        needed |= entries.get(Way(row.route, number), {port: None})
    return needed


def _mode(graph: Graph, node_id: int) -> Mode | None:
    """The one mode in which a node runs; None where it runs in both."""
    return next(iter(graph.modes.get(node_id, ())), None)
