"""Lowering: a graph as a schedule of steps, block regions as `fx.GraphModule`s that share code.

Every block region becomes one unit. A unit starts with the ReLU of the block before it and ends before its own: a
compiled region that ends in a ReLU saves a boolean mask for its backward and ran 1.8 times slower than one cut
before it. Blocks of one shape then have one signature, hence one class and one code object, so that compiling
the next block of a known shape is a cache hit.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import wraps
from heapq import heapify, heappop, heappush
from keyword import iskeyword
from typing import Any

from torch import fx, nn

from nasir.backends.torch.lower.ops import Call, Lowered
from nasir.backends.torch.lower.overwriting import apart, passed_on
from nasir.errors import NasirWarning, UsageError
from nasir.ir import Graph, Port, op_named


@dataclass(frozen=True, slots=True)
class Unit:
    """A block to run as one module: `nodes` in order, the ports it reads and the ports others read of it."""

    path: str
    nodes: tuple[int, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


Step = int | Unit
CHOOSING = frozenset({"mode", "assign", "route"})
"""Families of ops that the generated forward itself carries out, in part."""


def schedule(graph: Graph, as_made: bool = False) -> tuple[Step, ...]:
    """Nodes and units in an order in which every value is ready when it is read: the canonical one, or (`as_made`) that
    in which the nodes were made, so that an imported network draws numbers and sums up gradients as the module does."""
    owner, order = _owners(graph), _in_turn(graph) if as_made else graph.order
    steps: list[Step] = []
    members: dict[str, list[int]] = {}
    last: dict[str, int] = {}
    for node_id in order:
        path = owner.get(node_id)
        if path is not None:
            members.setdefault(path, []).append(node_id)
            last[path] = node_id
    for node_id in order:
        path = owner.get(node_id)
        if path is None:
            steps.append(node_id)
        elif last[path] == node_id:
            steps.append(_unit(graph, path, tuple(members[path])))
    return tuple(steps)


def _in_turn(graph: Graph) -> tuple[int, ...]:
    """Each node as soon as all that it reads is there, the lowest id first."""
    waits = {node_id: len({port.node for port in graph.nodes[node_id].inputs}) for node_id in graph.order}
    ready = [node_id for node_id, count in waits.items() if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        node_id = heappop(ready)
        order.append(node_id)
        for user in graph.users(node_id):
            waits[user] -= 1
            if not waits[user]:
                heappush(ready, user)
    return tuple(order)


def _owners(graph: Graph) -> dict[int, str]:
    """The block path each node runs in; absent for nodes that run at the top."""
    blocks = {region.path for region in graph.blocks if not region.parts}  # those have modules of their own
    if any(node.facts.family in CHOOSING for node in graph.nodes.values()):
        blocks = {path for path in blocks if _is_one_call(graph, path)}
    outer = [path for path in blocks if not _inside(path, blocks)]
    owner = {node_id: path for path in outer for node_id in graph.members(path)}
    outputs = {port.node for port in graph.outputs}
    home = dict(owner)
    for node_id, node in graph.nodes.items():
        if not node.facts.rectifies:
            continue
        path = home.get(node_id)
        is_exit = path is not None and graph.boundary(path)[1] == node_id and len(graph.members(path)) > 1
        if path is not None and not is_exit:
            continue
        readers = {home.get(user) for user in graph.users(node_id)}
        (reader,) = readers if len(readers) == 1 else (None,)
        if reader is not None and reader != path and node_id not in outputs:
            owner[node_id] = reader
        else:
            owner.pop(node_id, None)
    return owner


def _is_one_call(graph: Graph, path: str) -> bool:
    """Whether a block can run as one module: all of it in the same modes and for the same samples, without a buffer
    that is assigned to."""
    nodes = graph.members(path)
    modes = {graph.modes.get(node_id) for node_id in nodes}
    families = {graph.nodes[n].facts.family for n in nodes}
    families |= {"assign" for n in nodes for user in graph.users(n) if _assigns_to(graph, user, n)}
    return len(modes) == 1 and not families & CHOOSING


def _assigns_to(graph: Graph, node_id: int, held: int) -> bool:
    node = graph.nodes[node_id]
    return node.facts.family == "assign" and node.inputs[0].node == held


def _inside(path: str, others: set[str]) -> bool:
    """Whether a path lies below one of `others`."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in others:
            return True
    return False


def _unit(graph: Graph, path: str, nodes: tuple[int, ...]) -> Unit:
    inside = set(nodes)
    inputs: dict[Port, None] = {}
    outputs: dict[Port, None] = {}
    for node_id in nodes:
        for port in graph.nodes[node_id].inputs:
            if port.node not in inside:
                inputs.setdefault(port)
        for user in graph.users(node_id):
            if user not in inside:
                outputs.update({port: None for port in graph.nodes[user].inputs if port.node == node_id})
    for port in graph.outputs:
        if port.node in inside:
            outputs.setdefault(port)
    return Unit(path, nodes, tuple(inputs), tuple(outputs))


def relative(label: str, path: str) -> str:
    """A label below `path`, or the whole label with its dots replaced where it lies elsewhere."""
    return label[len(path) + 1 :] if label.startswith(path + ".") else label.replace(".", "_")


class Tracer:
    """Builds an fx.Graph from nodes."""

    def __init__(self, graph: Graph, lowered: Mapping[int, Lowered], path: str) -> None:
        self.graph = graph
        self.lowered = lowered
        self.path = path
        self.fx = fx.Graph()
        self.values: dict[Port, fx.Node] = {}

    def placeholder(self, port: Port, name: str) -> None:
        self.values[port] = self.fx.placeholder(name)

    def node(self, node_id: int, inplace: bool) -> None:
        node = self.graph.nodes[node_id]
        inputs = tuple([self.values[port] for port in node.inputs])
        lowered = self.lowered[node_id]
        if isinstance(lowered, Call):
            call = lowered
            if inplace:
                call, sources = lowered.overwriting, passed_on(self.graph, self.lowered, node.inputs[0])
                if sources and all(port in self.values for port in sources):
                    value = self.fx.call_function(apart, (inputs[0], *[self.values[port] for port in sources]))
                    inputs = (value, *inputs[1:])
            first: tuple[Any, ...] = (list(inputs),) if call.listed else inputs
            value = self.fx.call_function(call.target, (*first, *call.args), dict(call.kwargs))
        else:
            target = relative(node.label, self.path)
            if any(map(iskeyword, target.split("."))):
                raise UsageError(
                    f"label '{node.label}': a Python keyword cannot name a part of a block; choose another label"
                )
            value = self.fx.call_module(target, inputs)
        if not op_named(node.op).several:
            self.values[Port(node_id)] = value
            return
        output = 0
        while Port(node_id, output) in self.graph.infer.types:
            self.values[Port(node_id, output)] = self.fx.call_function(operator.getitem, (value, output))
            output += 1

    def finish(self, ports: Iterable[Port]) -> fx.Graph:
        values = tuple([self.values[port] for port in ports])
        self.fx.output(values[0] if len(values) == 1 else values)
        return self.fx


def signature(graph: Graph, unit: Unit, lowered: Mapping[int, Lowered], inplace: set[int]) -> tuple[Any, ...]:
    """Equal for units that run the same code: calls, targets, constants and wiring; not weights or widths."""
    outside = {port: index for index, port in enumerate(unit.inputs)}
    position = {node_id: index for index, node_id in enumerate(unit.nodes)}
    rows: list[Any] = []
    for node_id in unit.nodes:
        node = graph.nodes[node_id]
        wires = tuple([outside[p] if p in outside else (position[p.node], p.output) for p in node.inputs])
        lower = lowered[node_id]
        what: Any = (relative(node.label, unit.path), node.facts.several)  # of several outputs one is picked
        if isinstance(lower, Call):
            what = (lower.target, lower.listed, repr(lower.args), repr(dict(lower.kwargs)), node_id in inplace)
        rows.append((what, wires))
    return (len(unit.inputs), tuple(rows), tuple([(position[p.node], p.output) for p in unit.outputs]))


def trace_unit(graph: Graph, unit: Unit, lowered: Mapping[int, Lowered], inplace: set[int]) -> fx.Graph:
    """The fx graph of one unit."""
    tracer = Tracer(graph, lowered, unit.path)
    for index, port in enumerate(unit.inputs):
        tracer.placeholder(port, f"x{index or ''}")
    for node_id in unit.nodes:
        tracer.node(node_id, node_id in inplace)
    return tracer.finish(unit.outputs)


class BlockCode:
    """The class generated for one signature; `instantiate` makes blocks that share its code object."""

    def __init__(self, graph: fx.Graph) -> None:
        targets = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        holders: dict[str, Any] = {target: nn.Identity() for target in targets}
        proto = fx.GraphModule(holders, graph, class_name="Block")
        self.kind = type(proto)
        # fx's own __call__ only adds context to errors, at a cost that shows at batch size 1
        self.kind.__call__ = nn.Module.__call__  # type: ignore[method-assign]
        copied: Any = lambda block, memo: self._copied(block, memo)  # noqa: E731
        self.kind.__deepcopy__ = copied  # type: ignore[method-assign]
        state = nn.Module().__dict__.keys()
        self._fields = {key: value for key, value in proto.__dict__.items() if key not in state}

    def instantiate(self, children: Mapping[str, nn.Module], training: bool = True) -> nn.Module:
        """A block with its own modules, in training mode or not; its forward is the shared one."""
        block: nn.Module = object.__new__(self.kind)
        nn.Module.__init__(block)
        block.training = training
        block.__dict__.update(self._fields)
        for target, module in children.items():
            attach(block, target, module)
        return block

    def _copied(self, block: nn.Module, memo: dict[int, Any]) -> nn.Module:
        """A deep copy of the same class, which fx would not make; it is not compiled, as that runs the original."""
        copy: nn.Module = object.__new__(self.kind)
        memo[id(block)] = copy
        for name, value in block.__dict__.items():
            if name in self._fields:
                copy.__dict__[name] = value
            elif name != "_compiled_call_impl" and not is_compiled(value):
                copy.__dict__[name] = deepcopy(value, memo)
        return copy


def is_compiled(value: object) -> bool:
    """Whether a block's forward is one that torch.compile made of its own."""
    return hasattr(value, "_torchdynamo_orig_callable")


def _never_called(name: str) -> Any:
    """The method `name` of nn.Module, with a warning first."""
    register = getattr(nn.Module, name)

    @wraps(register)
    def warned(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        warnings.warn(
            f"{name}: a stage only holds its blocks, and is never called; the hook will not run: register it on the "
            "blocks (model.units), or on layers",
            NasirWarning,
            stacklevel=2,
        )
        return register(self, *args, **kwargs)

    return warned


class Container(nn.Module):
    """Holds what lies below a label. Nothing calls it, so that hooks on its calls would not run: they are warned of."""

    register_forward_hook = _never_called("register_forward_hook")
    register_forward_pre_hook = _never_called("register_forward_pre_hook")
    register_full_backward_hook = _never_called("register_full_backward_hook")
    register_full_backward_pre_hook = _never_called("register_full_backward_pre_hook")


def attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, making plain containers on the way; UsageError where the place is taken."""
    *parents, name = path.split(".")
    place = root
    for parent in parents:
        if parent not in place._modules:
            _check_free(place, parent, path)
            container = Container()
            container.training = root.training
            place.add_module(parent, container)
        inner = place._modules[parent]
        assert inner is not None
        place = inner
    _check_free(place, name, path)
    place.add_module(name, module)


def _check_free(place: nn.Module, name: str, path: str) -> None:
    if hasattr(place, name):
        raise UsageError(f"label '{path}': {name!r} is taken there, by another label or by torch; choose another one")


def children_of(graph: Graph, unit: Unit, lowered: Mapping[int, Lowered]) -> Iterator[tuple[str, int]]:
    """(target, node id) of the modules a unit calls."""
    for node_id in unit.nodes:
        if not isinstance(lowered[node_id], Call):
            yield relative(graph.nodes[node_id].label, unit.path), node_id
