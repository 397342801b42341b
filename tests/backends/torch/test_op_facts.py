"""Facts of ops and their torch lowerings agree, and what the backend does follows from them, not from names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nasir.backends.torch import Call, Model, lowering
from nasir.backends.torch.lower import ops as table
from nasir.backends.torch.lower.ops import lower_op
from nasir.backends.torch.observe.evidence import observe
from nasir.ir import Graph, Port, op_named
from nasir.registry import ops
from nasir.rewriting.evidence import Need
from nasir.testing import random_batch, random_graph, random_transformer, shipped_cases, twin_ops, with_twins
from nasir.testing.twins import TWIN
from nasir.training.plans import PenaltyPlan

CASES = shipped_cases()
POINTWISE = sorted(name for name in CASES if op_named(name).pointwise is not None)


@pytest.fixture
def twins() -> Iterator[None]:
    with twin_ops(sorted(CASES)):
        for name in [name for name in CASES if name in table.LOWERINGS]:
            flags = {"overwrites": name in table.OVERWRITES, "spares": name in table.SPARES}
            lowering(f"{name}{TWIN}", **flags)(table.LOWERINGS[name])
        yield
        for name in CASES:
            table.LOWERINGS.pop(f"{name}{TWIN}", None)
            table.OVERWRITES.discard(f"{name}{TWIN}")
            table.SPARES.discard(f"{name}{TWIN}")


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions_are_what_torch_computes(name: str) -> None:
    x = np.concatenate([np.linspace(-12.0, 12.0, 4801), [0.0, 1e-9, -1e-9, 300.0, -300.0]])
    for case in CASES[name]:
        graph = case.graph()
        node = graph.nodes[graph.find("op")]
        lowered = lower_op(name, node.attrs, (graph.infer.types[node.inputs[0]],), graph.infer.types[Port(1)])
        values = [x.reshape(*[1] * len(case.shapes[0]), -1) for x in (x, x[::-1].copy(), x)[: len(case.shapes)]]
        given = [torch.from_numpy(value) for value in values]
        result = (
            lowered.target(*given, *lowered.args, **lowered.kwargs)
            if isinstance(lowered, Call)
            else lowered.eval()(*given)
        )
        function = op_named(name).pointwise
        assert function is not None
        np.testing.assert_allclose(function(*values, **node.attrs), result.numpy(), rtol=1e-13, atol=1e-15)


def test_most_activations_are_pointwise() -> None:
    assert {"relu", "gelu", "silu", "sigmoid", "hardswish", "identity", "dropout"} <= set(POINTWISE)


def networks() -> list[Graph]:
    return [*[random_graph(seed, steps=5) for seed in range(4)], random_transformer(0)]


@pytest.mark.usefixtures("twins")
def test_twins_are_lowered_penalized_and_observed_as_the_ops_themselves() -> None:
    kinds = ("activation_mean", "weight_norm", "weight_l1", "norm_scale", "weight_abs", "group_lasso")
    plans = [PenaltyPlan("l2", 0.1, on=on) for on in ("all", "kernels", ("s1",))]
    plans += [PenaltyPlan("layer-lasso", 0.1, on=on) for on in ("convs", "blocks")]
    for graph in networks():
        twin = with_twins(graph, sorted(CASES))
        models = [Model.from_graph(g, seed=3) for g in (graph, twin)]
        first, second = models
        assert first.code == second.code and first._inplace == second._inplace
        assert [unit[0] for unit in first._units.values()] == [unit[0] for unit in second._units.values()]
        assert [plan.slots(graph) for plan in plans] == [plan.slots(twin) for plan in plans]
        shape = graph.infer.types[Port(graph.inputs[0])].shape
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        seen = [observe(model, [Need(kind) for kind in kinds], x).measured for model in models]
        for kind in kinds:
            assert seen[0][kind].keys() == seen[1][kind].keys()
            for name, value in seen[0][kind].items():
                assert np.array_equal(value, seen[1][kind][name]), (kind, name)


def test_the_registry_is_as_it_was() -> None:
    assert not [name for name in ops.names() if name.endswith(TWIN)]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"input"}))
def test_an_op_draws_random_numbers_in_training_if_it_says_so(name: str) -> None:
    drawn = False
    for case in CASES[name]:
        model = Model.from_graph(case.graph(), dtype=torch.float64).train()
        given = [torch.from_numpy(x) for x in random_batch(case.graph(), 0, 8)]
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs = model(*given)
            results.append(outputs if isinstance(outputs, tuple) else (outputs,))
        drawn = drawn or not all(map(_same, *results))
    assert drawn == op_named(name).random
