"""Optimizer moments of resized weights are the moments the resized network would have had."""

from __future__ import annotations

import numpy as np
import pytest

from nasir.ir import Draft, Fill, Graph
from nasir.testing import evaluate, random_batch, random_weights, transferred
from nasir.testing.interpreter import Array
from nasir.transfer import AxisTake, Key, NumpyArrays, Stack, Take, TransferPlan, derive, execute_moment, moment_source
from nasir.transfer.moments import FIRST, SECOND, Moment


def network() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[2, 4, 4])
    x = draft.add("conv2d", x, "conv", out=3, kernel=3, padding=1, bias=True)
    x = draft.add("gelu", draft.add("batch_norm", x, "bn"), "act")
    x = draft.add("gelu", draft.add("linear", draft.add("flatten", x, "flat"), "hidden", out=4), "act2")
    draft.output(draft.add("linear", x, "out", out=2))
    return draft.commit()


def gradients(graph: Graph, weights: dict[Key, Array], batch: list[Array], target: Array) -> dict[Key, Array]:
    """Of the squared error, by central differences, in train mode; buffers have none."""
    gradient_of = {}
    step = 1e-5
    for key, array in weights.items():
        if graph.infer.slots[key.node][key.slot].kind == "buffer":
            continue
        slope = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            loss = []
            for sign in (1.0, -1.0):
                moved = array.copy()
                moved[place] += sign * step
                out = evaluate(graph, {**weights, key: moved}, batch, train=True)
                loss.append(float(((out - target) ** 2).sum()))
            slope[place] = (loss[0] - loss[1]) / (2 * step)
        gradient_of[key] = slope
    return gradient_of


def replicated(graph: Graph) -> tuple[Graph, TransferPlan]:
    draft = graph.draft()
    for space in graph.infer.spaces:
        if space.resizable:
            draft.select(space, np.append(np.arange(space.size), [0, 0, 1]))
    new = draft.commit()
    return new, derive(draft, new)


def test_momentum_of_replicas_is_that_of_training_the_wide_network() -> None:
    """SGD's buffer is a sum of gradients, so it is enough that each gradient maps; so it does, through two steps."""
    graph = network()
    new, plan = replicated(graph)
    weights, batch = random_weights(graph, 0), random_batch(graph, 1, n=4)
    target = np.random.default_rng(2).normal(size=(4, 2))
    narrow = gradients(graph, weights, batch, target)
    wide = gradients(new, transferred(plan, new, weights), batch, target)
    assert any(source for source in plan.sources)
    for key, expected in wide.items():
        mapped = narrow[key]
        if key in plan.sources:
            source = moment_source(plan.sources[key], FIRST)
            assert source is not None
            mapped = execute_moment(source, lambda k: narrow[k], NumpyArrays(), expected.shape)
        error = abs(mapped - expected).max() / max(1.0, abs(expected).max())
        assert error < 1e-6, f"{new.nodes[key.node].label}.{key.slot}: {error}"


def test_second_moments_take_the_square() -> None:
    graph = network()
    new, plan = replicated(graph)
    rng = np.random.default_rng(0)
    gradient = {key: rng.normal(size=a.shape) for key, a in random_weights(graph, 0).items()}
    for key, source in plan.sources.items():
        shape = new.infer.slots[key.node][key.slot].shape
        if len(shape) == 0 or new.infer.slots[key.node][key.slot].kind == "buffer":
            continue
        first, second = moment_source(source, FIRST), moment_source(source, SECOND)
        assert first is not None and second is not None
        m = execute_moment(first, lambda k: gradient[k], NumpyArrays(), shape)
        v = execute_moment(second, lambda k: gradient[k] ** 2, NumpyArrays(), shape)
        assert np.allclose(m**2, v, rtol=1e-12, atol=0)


def test_fresh_rows_start_at_zero_and_at_the_mean() -> None:
    old = np.array([1.0, 2.0, 6.0])
    take = Take(Key(0, "weight"), (AxisTake(np.array([2, -1, 0]), None, Fill("ones")),))
    first, second = moment_source(take, FIRST), moment_source(take, SECOND)
    assert first is not None and second is not None
    assert execute_moment(first, lambda key: old, NumpyArrays(), (3,)).tolist() == [6.0, 0.0, 1.0]
    assert execute_moment(second, lambda key: old, NumpyArrays(), (3,)).tolist() == [6.0, 3.0, 1.0]


@pytest.mark.parametrize("order", [FIRST, SECOND])
def test_new_arrays_start_without_moments(order: Moment) -> None:
    assert moment_source(Fill("zeros"), order) is None
    kept = Take(Key(0, "weight"), (None,))
    assert moment_source(Stack(0, (kept, Fill("zeros"))), order) is None
    joined = moment_source(Stack(0, (kept, kept)), order)
    assert isinstance(joined, Stack) and joined.parts == (kept, kept)
