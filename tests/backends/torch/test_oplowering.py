"""Every lowering against the numpy reference interpreter, which shares no code with it; float64, bound 1e-10."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from nasir.backends.torch import Call, Model, lowering
from nasir.backends.torch.lower import ops as oplowering
from nasir.backends.torch.lower.dropping import StochasticDepth
from nasir.backends.torch.lower.ops import LOWERINGS
from nasir.backends.torch.lower.routing import Gate
from nasir.errors import RunError
from nasir.ir import Draft, Graph
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.registry import ops
from nasir.testing import OpCase, random_batch, random_graph, random_weights, shipped_cases, trace
from nasir.testing.interpreter import Array
from nasir.testing.op_facts import apart_by
from nasir.transfer import Key

BOUND = 1e-10
CASES = [case for cases in shipped_cases().values() for case in cases]


def loaded(graph: Graph, weights: Mapping[Key, Array]) -> Model:
    """The lowered network in float64 with given weights, without the randomness of dropout and gates."""
    model = Model.from_graph(graph, dtype=torch.float64)
    with torch.no_grad():
        for name, key in model.keys().items():
            model.state_dict()[name].copy_(torch.from_numpy(np.asarray(weights[key])))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd | StochasticDepth):
            module.p = 0.0
        if isinstance(module, Gate):
            module.gumbel = False
    return model


def difference(graph: Graph, seed: int, training: bool, channels_last: bool = False) -> float:
    """Largest absolute difference over all outputs, relative to the largest value where that is above one."""
    weights, batch = random_weights(graph, seed), random_batch(graph, seed + 1)
    model = loaded(graph, weights).train(training)
    if channels_last:
        model.use_channels_last()
    with torch.no_grad():
        outputs = model(*[torch.from_numpy(x) for x in batch])
    values = trace(graph, weights, batch, training)
    worst = 0.0
    for port, tensor in zip(graph.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
        wanted = values[port]
        assert tuple(tensor.shape) == wanted.shape, f"{tuple(tensor.shape)} instead of {wanted.shape}"
        worst = max(worst, apart_by(tensor.numpy(), wanted))
    return worst


def test_every_shipped_op_has_a_lowering_and_a_case() -> None:
    shipped = {name for name in ops.names() if ops.get(name).rule.__module__.startswith("nasir.ops.")}
    assert len(shipped) > 25
    chosen = {name for name in shipped if ops.get(name).family == "mode"}  # the generated forward does it by itself
    elsewhere = {name for name in shipped if ops.get(name).foreign or ops.get(name).family == "assign"} | chosen
    assert shipped - elsewhere == set(shipped_cases())  # those are of tests/importing
    assert shipped - {"input"} - chosen <= set(LOWERINGS)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{len(case.shapes[0]) if case.shapes else 0}d")
def test_an_op_computes_what_its_definition_says(case: OpCase, training: bool) -> None:
    graph = case.graph()
    for seed in (0, 10):
        assert difference(graph, seed, training) < BOUND


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("seed", range(16))
def test_random_networks_compute_what_the_interpreter_computes(seed: int, training: bool) -> None:
    graph = random_graph(seed, steps=8)
    assert difference(graph, seed, training, channels_last=seed % 2 == 0) < BOUND


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_random_networks_match_differences(seed: int) -> None:
    """A wrong in-place ReLU would leave the output right and the gradient wrong."""
    graph = random_graph(seed + 50, steps=6)
    weights, batch = random_weights(graph, seed), [torch.from_numpy(x) for x in random_batch(graph, seed)]
    model = loaded(graph, weights).train()
    random = torch.Generator().manual_seed(seed)
    probe = torch.randn(model(*batch).shape, generator=random, dtype=torch.float64)
    model.zero_grad()
    (model(*batch) * probe).sum().backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                kept = parameter.clone()
                parameter.add_(direction, alpha=step)
                values.append(float((model(*batch) * probe).sum()))
                parameter.copy_(kept)
        slope = (values[0] - values[1]) / 2e-6
        expected = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
        assert abs(slope - expected) <= 1e-4 * max(1.0, abs(slope)), name


def test_dropout_drops_and_rescales_in_training_and_is_the_identity_otherwise() -> None:
    model = Model.from_graph(OpCase("dropout", ((1000,),), {"p": 0.25}).graph())
    ones = torch.ones(8, 1000)
    torch.manual_seed(0)
    dropped = model.train()(ones)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.03
    assert torch.equal(model.eval()(ones), ones)


def test_batch_norm_statistics_move_as_its_momentum_says() -> None:
    graph = OpCase("batch_norm", ((4, 5, 6),), {"momentum": 0.3}).graph()
    model = Model.from_graph(graph, dtype=torch.float64).train()
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    model(x)
    state = model.state_dict()
    assert torch.allclose(state["op.running_mean"], 0.3 * x.mean((0, 2, 3)), atol=1e-12)
    assert torch.allclose(state["op.running_var"], 0.7 + 0.3 * x.var((0, 2, 3), correction=1), atol=1e-12)
    assert int(state["op.num_batches_tracked"]) == 1


def test_an_op_without_a_lowering_says_what_to_write_and_works_once_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_objects", dict(ops._objects))
    monkeypatch.setattr(oplowering, "LOWERINGS", dict(LOWERINGS))

    @op("elu_for_a_test")
    def elu(at: object, x: ValueType, alpha: float = 1.0) -> ValueType:
        return x

    draft = Draft()
    port = draft.add("elu_for_a_test", draft.add("input", (), "x", shape=[3]), "y", alpha=2.0)
    draft.output(port)
    graph = draft.commit()
    with pytest.raises(RunError, match=r"'elu_for_a_test' has no torch lowering; register one with @"):
        Model.from_graph(graph)
    lowering("elu_for_a_test")(lambda attrs, inputs, out: Call(torch.nn.functional.elu, (attrs["alpha"],)))
    x = torch.linspace(-2, 2, 6).reshape(2, 3)
    assert torch.equal(Model.from_graph(graph)(x), torch.nn.functional.elu(x, 2.0))
