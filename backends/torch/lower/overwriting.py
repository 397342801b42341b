"""Which results are computed over what they are made of, and when that would be over what others read, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks

from nasir.backends.torch.lower.ops import Lowered, may_overwrite
from nasir.ir import Graph, Port


def overwriting(graph: Graph, nodes: Iterable[int], over: frozenset[int]) -> set[int]:
    """ReLUs, and sums among `over`, that may overwrite their first input: nobody else reads it, its producer's backward
    does not need it, and what comes out has its shape."""
    outputs, types = {port.node for port in graph.outputs}, graph.infer.types
    inplace = set()
    for node_id in nodes:
        node = graph.nodes[node_id]
        if not node.inputs or not may_overwrite(node.op, graph.nodes[node.inputs[0].node].op):
            continue
        first, *others = node.inputs
        alone = first.node not in outputs and graph.users(first.node) == (node_id,) and first not in others
        given, made = types[first], types[Port(node_id)]
        fits = not others or (node_id in over and (given.shape, given.batch) == (made.shape, made.batch))
        if alone and fits:
            inplace.add(node_id)
    return inplace


def passed_on(graph: Graph, lowered: Mapping[int, Lowered], port: Port) -> tuple[Port, ...]:
    """What the module that makes a value reads: one that was put there by hand may give back just that."""
    return graph.nodes[port.node].inputs if isinstance(lowered.get(port.node), nn.Module) else ()


class _Listened:
    """How many networks run at this moment with hooks that may keep what layers give them."""

    runs = 0
    lock = Lock()


def heard(modules: Iterable[nn.Module]) -> bool:
    """Whether a hook is given the results of some modules, or of all there are."""
    for module in modules:
        if module._forward_hooks:
            return True
    return bool(_global_forward_hooks)


@contextmanager
def keeping() -> Iterator[None]:
    """What modules give is not written over, for the length of a `with`."""
    with _Listened.lock:
        _Listened.runs += 1
    try:
        yield
    finally:
        with _Listened.lock:
            _Listened.runs -= 1


def apart(value: Tensor, *sources: Tensor) -> Tensor:
    """A value that may be written over: a copy where a hook may have kept it, or where it may be one of `sources`, as
    nn.Identity gives what it reads."""
    if _Listened.runs:
        return value.clone()
    for source in sources:
        if value is source:
            return value.clone()
    if value._base is not None or (not torch.compiler.is_compiling() and _shared(value, sources)):
        return value.clone()
    return value


def _shared(value: Tensor, sources: tuple[Tensor, ...]) -> bool:
    """Whether a value lies in the memory of one of `sources`; views made in inference mode do not say so."""
    return torch.is_inference_mode_enabled() and any(value.data_ptr() == source.data_ptr() for source in sources)
