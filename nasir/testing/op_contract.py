"""What every op owes: stable attributes, a shape rule and flags that agree with a reference implementation."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from nasir.blocks import STEPS
from nasir.ir import JSON, Atom, Graph, Port, ValueType, op_named, parse, positions
from nasir.ir.space import atoms_of, size_after
from nasir.registry import ops
from nasir.testing.axis_references import axis_cases
from nasir.testing.interpreter import REFERENCES, Array, evaluate_op, trace
from nasir.testing.norm_cases import norm_cases
from nasir.testing.normalizer_free import normalizer_free_cases
from nasir.testing.op_case import IMAGE, TOKENS, VECTOR, OpCase, anywhere
from nasir.testing.op_facts import OpFactLaws
from nasir.testing.option_laws import check_options, in_block
from nasir.testing.pointwise_cases import pointwise_cases
from nasir.testing.routing_references import routing_cases
from nasir.testing.unit_oracles import largest_difference
from nasir.testing.weights import random_batch, random_weights
from nasir.testing.window_cases import window_cases
from nasir.transfer import Key

BOUND = 1e-12


class OpContract(OpFactLaws):
    """Subclass with `cases`, one or more of every op; a reference must be registered for each (`reference`).

    The laws of the facts that an op states are those of `OpFactLaws`.
    """

    cases: ClassVar[Sequence[OpCase]] = ()

    def test_there_are_cases_of_ops_that_exist(self) -> None:
        assert self.cases, f"{type(self).__name__}: no `cases`: nothing is tested; give one OpCase or more for each op"
        for case in self.cases:
            assert case.op in ops.names(), f"{case}: no op is called {case.op!r}; import the module that registers it"
            known = case.op in REFERENCES or op_named(case.op).arity == (0, 0)  # an input has nothing to compute
            assert known, f"{case.op}: no reference; register one with @reference({case.op!r})"
            case.graph()

    def test_attributes_normalize_once_and_for_all(self) -> None:
        for case in self.cases:
            definition = op_named(case.op)
            once = definition.normalize(case.attrs, "op")
            again = definition.normalize(once, "op")
            from_json = definition.normalize(json.loads(json.dumps(once)), "op")
            assert repr(once) == repr(again) == repr(from_json), f"{case}: {once} {again} {from_json}"
            assert list(once) == list(definition.attrs), f"{case}: attributes are not in declaration order"

    def test_attributes_refuse_what_their_annotations_do_not_allow(self) -> None:
        """A foreign word, a wrong type, a number that is not finite or out of range: alike in Python and in a spec."""
        cases = {case.op: case for case in self.cases}
        for name, case in cases.items():
            definition = op_named(name)
            a_step = definition.arity == (1, 1) and not definition.several and name not in STEPS
            make = functools.partial(definition.normalize, label="law")
            check_options(definition.attrs, make, in_block(name) if a_step else None, case.attrs)

    def test_text_and_json_forms_read_back_equal(self) -> None:
        for case in self.cases:
            graph = case.graph()
            assert parse(graph.to_text()) == graph, f"{case}: {graph.to_text()}"
            assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph, f"{case}"

    def test_the_shape_rule_agrees_with_the_reference(self) -> None:
        for case in self.cases:
            graph = case.graph()
            values = trace(graph, random_weights(graph, 0), random_batch(graph, 1))
            assert values.keys() == graph.infer.types.keys(), f"{case}: another number of outputs"
            for port, value in graph.infer.types.items():
                assert values[port].shape[1:] == value.shape, f"{case}: {values[port].shape[1:]} against {value.shape}"

    def test_the_sign_flag_holds_on_random_values(self) -> None:
        for case in self.cases:
            sign = op_named(case.op).nonnegative
            graph = case.graph()
            for seed in range(3) if sign is not None else ():
                batch = [abs(x) if sign == "keeps" else 3.0 * x for x in random_batch(graph, seed)]
                values = trace(graph, random_weights(graph, seed), batch)
                for port in graph.outputs:
                    assert values[port].min() >= 0.0, f"{case}: {sign!r}, yet {values[port].min()}"

    def test_the_mixes_flag_is_honest(self) -> None:
        """Where output channels are the input's, dropping one leaves the others alone exactly if nothing mixes."""
        for case in self.cases:
            change = _change_of_others(case.graph())
            if change is not None and not _mixes(case):
                assert change < BOUND, f"{case}: not flagged as mixing, yet other channels change by {change}"
        changes = [_change_of_others(case.graph()) for case in self.cases if _mixes(case)]
        known = [change for change in changes if change is not None]
        assert not known or max(known) > BOUND, "flagged as mixing, yet no channel depends on another in any case"


def _mixes(case: OpCase) -> bool:
    """Whether the op says that it normalizes over the channels of its (first) input."""
    graph = case.graph()
    inputs = graph.nodes[graph.find("op")].inputs
    return bool(inputs) and any(atom.mixed for atom in atoms_of(graph.infer.types[inputs[0]].channels))


def _change_of_others(graph: Graph) -> float | None:
    """How far the other channels move when channel 0 is dropped everywhere; None where that is not defined."""
    node_id = graph.outputs[0].node
    node = graph.nodes[node_id]
    slots = graph.infer.slots[node_id]
    space = graph.infer.types[node.inputs[0]].channels if node.inputs else 0
    shared = isinstance(space, Atom) and space.link is None and space.size > 1
    if not shared or graph.infer.types[graph.outputs[0]].channels is not space or len(graph.outputs) > 1:
        return None
    if any(role in ("write", "read") for slot in slots.values() for _, role in slot.axes):
        return None
    assert isinstance(space, Atom)
    kept = {space: np.arange(1, space.size)}
    batch, weights = random_batch(graph, 2), random_weights(graph, 2)
    own: dict[str, Array] = {}
    for name, slot in slots.items():
        array = weights[Key(node_id, name)]
        for number, (axis, _) in enumerate(slot.axes):
            index = positions(axis, kept)
            array = array if index is None else np.take(array, index, axis=number)
        own[name] = array
    attrs = {name: value for name, value in node.attrs.items()}
    for (name, entry), axis in graph.infer.mirrors.get(node_id, {}).items():
        size = size_after(axis, kept)
        attrs[name] = size if entry is None else [*attrs[name][:entry], size, *attrs[name][entry + 1 :]]
    types = graph.infer.types
    others = _others(trace(graph, weights, batch)[Port(node_id)], types[Port(node_id)])
    values = [types[port] for port in node.inputs]
    inputs = [_others(x, value) for x, value in zip(batch, values, strict=True)]
    part = evaluate_op(node.op, attrs, own, inputs, False, values[0].channel_dim)
    return largest_difference([others], [part]) if part.shape == others.shape else None


def _others(x: Array, value: ValueType) -> Array:
    """All channels but the first."""
    return np.delete(x, 0, axis=value.channel_dim)


def shipped_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases of every op nasir ships, by op."""
    by_op = {"scale": anywhere("scale"), **pointwise_cases(), **norm_cases()}
    by_op["scale"] += (OpCase("scale", (IMAGE,), {"value": 2, "learnable": False}),)
    ways = [{}, {"average": "logits"}, {"train": "joint"}, {"average": "logits", "train": "joint"}]
    by_op["ensemble"] = tuple([OpCase("ensemble", (VECTOR,) * (n + 1), way) for n, way in enumerate(ways)])
    for op in ("add", "mul", "mean"):
        by_op[op] = (OpCase(op, (IMAGE,)), OpCase(op, (IMAGE, IMAGE)), OpCase(op, (VECTOR,) * 3))
        by_op[op] += (OpCase(op, (TOKENS, TOKENS)), OpCase(op, (IMAGE, IMAGE), channel_axis=2))
        by_op[op] += (OpCase(op, (IMAGE, (4, 1, 1))), OpCase(op, ((4, 1, 6), IMAGE)))
    attrs: dict[str, list[tuple[tuple[tuple[int, ...], ...], dict[str, JSON]]]] = {
        "input": [((), {"shape": [3, 4, 4]}), ((), {"shape": (7,)}), ((), {"shape": TOKENS})],
        "global_avg_pool": [((IMAGE,), {})],
        "subsample": [((IMAGE,), {}), ((IMAGE,), {"stride": [1, 3]})],
        "pad_channels": [((IMAGE,), {"before": 1, "after": 2}), ((VECTOR,), {}), ((TOKENS,), {"before": 2})],
        "linear": [((VECTOR,), {"out": 3}), ((VECTOR,), {"out": 1, "bias": False}), ((TOKENS,), {"out": 4})],
        "tokens": [((IMAGE,), {})],
        "class_token": [((TOKENS,), {})],
        "position_embedding": [((TOKENS,), {})],
        "self_attention": [
            ((TOKENS,), {"heads": 2, "head_dim": 1, "scale": 1.0}),
            (((4, 14),), {"heads": 2, "head_dim": 2, "scale": 0.5}),
        ],
        "select_token": [((TOKENS,), {}), ((TOKENS,), {"index": 4})],
        "mean_tokens": [((TOKENS,), {})],
    }
    for op, cases in attrs.items():
        by_op[op] = tuple([OpCase(op, shapes, given) for shapes, given in cases])
    laid_out: dict[str, dict[str, JSON]] = {
        "pad_channels": {"before": 1, "after": 2},
        "linear": {"out": 3},
    }
    for op, given in laid_out.items():
        by_op[op] += (OpCase(op, (IMAGE,), given, channel_axis=2),)
    by_op["input"] += (
        OpCase("input", (), {"shape": IMAGE, "channel_axis": 2}),
        OpCase("input", (), {"shape": [5], "dtype": "int64"}),
    )
    by_op["embedding"] = tuple(
        [
            OpCase("embedding", ((5,),), {"count": 3, "out": 4}, dtype="int64"),
            OpCase("embedding", ((2, 3),), {"count": 2, "out": 1, "padding": 0}, dtype="int64"),
        ]
    )
    return by_op | axis_cases() | window_cases() | normalizer_free_cases() | routing_cases()
