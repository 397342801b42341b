"""Laws of the facts that an op states (`OpDef`): they hold for the op's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from nasir.branching.merging import joint, joint_attrs
from nasir.ir import JSON, Graph, op_named
from nasir.ir.types import bias_of
from nasir.ops.constants import Known, NodeView
from nasir.pruning.constants import by_role, is_even, propagated
from nasir.testing.interpreter import Array, evaluate_op
from nasir.testing.op_case import OpCase
from nasir.testing.unit_oracles import largest_difference
from nasir.testing.weights import random_batch, random_weights
from nasir.transfer import Key

BOUND = 1e-12
BRANCHES = 3


def apart_by(given: Array, wanted: Array) -> float:
    """The largest difference, as a part of the largest finite number where that is above 1; NaN is like NaN."""
    largest = float(abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
    return largest_difference([given], [wanted]) / max(1.0, largest)


class OpFactLaws:
    """The laws that each of `cases` keeps; see `nasir.testing.OpContract`."""

    cases: ClassVar[Sequence[OpCase]] = ()

    def test_it_states_its_family(self) -> None:
        for case in self.cases:
            assert op_named(case.op).family is not None, f"{case.op}: say what it is: @op({case.op!r}, family=...)"

    def test_the_pointwise_function_agrees_with_the_reference(self) -> None:
        for case in self.cases:
            function = op_named(case.op).pointwise
            if function is None:
                continue
            node = _Node(case)
            x = 4.0 * node.batch(0)[0]
            x.reshape(-1)[:3] = (0.0, 1e-3, -1e-3)
            others = [4.0 * other for other in node.batch(0)[1:]]
            wanted, actual = node.run([x, *others]), function(x, *others, **node.attrs)
            alike = (actual == wanted) | (
                np.isnan(actual) & np.isnan(wanted)
            )  # of infinite ones there is no difference
            apart = abs(np.subtract(actual, wanted, out=np.zeros_like(wanted), where=~alike))
            largest = abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
            assert apart.max() <= BOUND * (1 + largest), f"{case}: differs from its reference"

    def test_what_is_said_to_be_unchanged_is(self) -> None:
        for case in self.cases:
            kept = op_named(case.op).unchanged
            if kept is None:
                continue
            node = _Node(case)
            x = node.batch(1)[0]
            given = {"zero": 0.0 * x, "nonnegative": abs(x), "all": x}[kept]
            out = node.run([given])
            if out.shape == given.shape:
                assert np.array_equal(out, given), f"{case}: unchanged={kept!r}, yet it changes them"
            else:  # it puts zeros beside them
                assert np.array_equal(out[out != 0.0], given[given != 0.0]), f"{case}: unchanged={kept!r}"

    def test_what_is_said_to_average_does(self) -> None:
        """Linear, and of several places no mean is as large as the largest of their values."""
        for case in self.cases:
            averages = op_named(case.op).averages
            if averages is None or not averages(_Node(case).attrs):
                continue
            node = _Node(case)
            x, y = node.batch(0)[0], node.batch(1)[0]
            both = node.run([2.0 * x - y])
            assert apart_by(both, 2.0 * node.run([x]) - node.run([y])) <= BOUND, f"{case}: averages, yet is not linear"
            assert abs(node.run([x])).max() < abs(x).max(), f"{case}: averages, yet puts out the largest value"

    def test_channels_are_kept_apart_as_stated(self) -> None:
        """One node on the channels of several branches does what a node of each branch does."""
        for case in self.cases:
            node = _Node(case)
            if not case.shapes or any(value.channel_axis != 0 for value in node.view.inputs):
                continue
            if joint(node.graph, node.id):
                together, apart = _side_by_side(case)
                assert together.shape == apart.shape, f"{case}: {together.shape} against {apart.shape}"
                assert apart_by(together, apart) < BOUND, f"{case}: channels meet"

    def test_weights_that_are_zero_silence_it(self) -> None:
        for case in self.cases:
            node = _Node(case)
            params = [name for name, slot in node.slots.items() if slot.kind == "param"]
            if op_named(case.op).family not in ("weighted", "norm", "scale") or not params:
                continue
            silent = {name: 0.0 * array if name in params else array for name, array in node.weights.items()}
            assert not node.run(node.batch(2), silent).any(), f"{case}: weights of zero, yet it puts something out"

    def test_a_weighted_op_is_linear_in_what_its_one_kernel_reads(self) -> None:
        for case in self.cases:
            if op_named(case.op).family != "weighted":
                continue
            node = _Node(case)
            kernels = [name for name, slot in node.slots.items() if slot.is_kernel]
            assert len(kernels) == 1, f"{case}: {len(kernels)} kernels; a weighted op has one"
            (a,), (b,) = node.batch(3), node.batch(4)
            nothing = node.run([0.0 * a])
            whole = node.run([a]) + node.run([b]) - nothing
            assert abs(node.run([a + b]) - whole).max() < BOUND * (1 + abs(whole).max()), f"{case}: not linear"
            weights = {name: np.array(array) for name, array in node.weights.items()}
            by_role(weights[kernels[0]], node.slots[kernels[0]])[0] = 0.0
            unit = np.take(node.run([a], weights), 0, axis=node.view.out.channel_dim)
            bias = bias_of(node.slots)
            alone = 0.0 if bias is None else weights[bias][0]
            assert abs(unit - alone).max() < BOUND, f"{case}: a unit without weights puts out more than its bias"

    def test_a_weighted_op_that_is_even_carries_constants_on(self) -> None:
        for case in self.cases:
            node = _Node(case)
            for slot in node.slots.values():
                if not slot.is_kernel or not is_even(op_named(case.op), node.attrs, slot):
                    continue
                (x,) = node.batch(6)
                channels = node.view.inputs[0].channel_dim
                places = tuple([n for n in range(1, x.ndim) if n != channels])
                out = node.run([np.broadcast_to(x.mean(axis=places, keepdims=True), x.shape)])
                spread = np.ptp(out, axis=places).max() if places else 0.0
                assert spread < BOUND * (1 + abs(out).max()), f"{case}: even, yet places differ by {spread}"

    def test_what_is_said_to_be_constant_is(self) -> None:
        """Channel 0 of the input holds zero, channel 1 another number, the others vary from sample to sample."""
        for case in self.cases:
            if not case.shapes:
                continue
            node = _Node(case)
            for values in ((0.0, 0.7), (0.0, 0.0), (-1.3, 0.7)):
                batch, known = node.batch(5), list[Known]()
                for x, kind in zip(batch, node.view.inputs, strict=True):
                    channels = kind.channel_dim
                    lying = np.moveaxis(x, channels, 0)
                    lying[0], lying[1:2] = values
                    number = np.full(x.shape[channels], np.nan)
                    number[0], number[1:2] = values
                    known.append(np.expand_dims(number, [n - 1 for n in range(1, x.ndim) if n != channels]))
                result = node.run(batch)
                parts = propagated(op_named(case.op), node.view, known)
                given = parts if isinstance(parts, tuple) else (parts,)
                wanted = result if isinstance(result, tuple) else (result,)
                for part, value in zip(given, wanted, strict=False):
                    if part is not None:
                        said = np.broadcast_to(part, value.shape)
                        where = ~np.isnan(said)
                        assert np.allclose(said[where], value[where], rtol=0, atol=1e-9), f"{case}: not constant"


class _Node:
    """The node of a case, with random weights."""

    def __init__(self, case: OpCase) -> None:
        self.case, self.graph = case, case.graph()
        self.id = self.graph.find("op")
        self.attrs = self.graph.nodes[self.id].attrs
        self.slots = self.graph.infer.slots[self.id]
        self.weights = _own(self.graph, self.id, 0)

    @property
    def view(self) -> NodeView:
        return NodeView(self.graph, self.id, lambda label, name: self.weights[name])

    def batch(self, seed: int) -> list[Array]:
        return random_batch(self.graph, seed)

    def run(self, inputs: Sequence[Array], weights: Mapping[str, Array] | None = None) -> Array:
        own = self.weights if weights is None else weights
        channel = self.view.inputs[0].channel_dim if inputs else None
        out: Array = evaluate_op(self.case.op, self.attrs, own, inputs, False, channel)
        return out


def _own(graph: Graph, node_id: int, seed: int) -> dict[str, Array]:
    weights = random_weights(graph, seed)
    return {name: weights[Key(node_id, name)] for name in graph.infer.slots[node_id]}


def _side_by_side(case: OpCase) -> tuple[Array, Array]:
    """(the output of one node for several branches, the outputs of their own nodes one after another)."""
    node = _Node(case)
    weights = [_own(node.graph, node.id, seed) for seed in range(BRANCHES)]
    batches = [random_batch(node.graph, seed) for seed in range(BRANCHES)]
    run = partial(evaluate_op, case.op, train=False, channel=1)
    apart = [run(node.attrs, w, x) for w, x in zip(weights, batches, strict=True)]
    attrs: Mapping[str, JSON] = joint_attrs(node.graph.nodes[node.id], BRANCHES, shared=False)
    merged = {
        name: np.concatenate([w[name] for w in weights]) if slot.axes else weights[0][name]
        for name, slot in node.slots.items()
    }
    inputs = [np.concatenate([x[number] for x in batches], axis=1) for number in range(len(case.shapes))]
    return run(attrs, merged, inputs), np.concatenate(apart, axis=1)
