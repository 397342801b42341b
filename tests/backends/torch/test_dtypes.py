"""Models of every float dtype are measured and rewritten alike, in float32 where numpy has no such dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, pyramid
from torch.nn import functional

from nasir import get_pass
from nasir.analysis.residuals import residual_sums
from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.rewriting.evidence import KINDS, PER_UNIT, Evidence, Need
from nasir.rewriting.rewrite import Rewrite

FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
RUN = [torch.bfloat16, torch.float64]  # dtypes that every CPU computes networks in
OF_WEIGHTS = ["weight_norm", "weight_l1", "weight_l2", "norm_scale", "group_lasso", "weight_mean"]
SUMMED = 1e-5  # relative: float32 sums of a few hundred numbers of one sign; bf16 ones are off by up to 4e-3

REWRITES: list[tuple[str, dict[str, Any], str]] = [
    *[("insert-block", {"init": init}, "s1") for init in ("zero", "near_zero", "gaussian", "copy", "default")],
    *[
        ("prune-channels", {"fraction": 0.5, "score": score}, "network")
        for score in ("l1", "l2", "norm_scale", "taylor", "activation_mean", "group_lasso")
    ],
    ("widen", {"factor": 1.5, "noise": 0.01}, "network"),
    ("widen", {"factor": 1.5, "how": "fresh"}, "network"),
    ("widen", {"factor": 1.5, "how": "paired"}, "network"),
    *[("split-branches", {"branches": 2, "how": how}, "s2") for how in ("rrr", "aligned", "random")],
]


def network(dtype: torch.dtype) -> Model:
    return lived(pyramid((1, 2), 8, size=8), dtype=dtype)


def exact_copy(model: Model) -> Model:
    """The same numbers in float64."""
    copy = Model.from_graph(model.graph, dtype=torch.float64)
    copy.load_state_dict(model.state_dict())
    return copy


def seen(model: Model, kind: str) -> Evidence:
    return observe(model, [Need(kind)], images(6, 8), torch.arange(6))


@pytest.mark.parametrize("dtype", RUN, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_evidence_is_measured(kind: str, dtype: torch.dtype) -> None:
    model = network(dtype)
    graph, evidence = model.graph, seen(model, kind)
    if kind in PER_UNIT:
        for space in graph.infer.spaces:
            rows = evidence.members(kind, space) if space.name in evidence.measured[kind] else np.empty((0, space.size))
            assert rows.dtype == np.float64 and np.isfinite(rows).all() and (rows >= 0).all()
        inner = next(space for space in graph.infer.spaces if space.name == "s1.0.conv1")
        assert evidence.per_index(kind, inner).any()
    elif kind == "weight_abs":
        assert evidence.per_weight(kind, "s1.0.conv1")[1] == 8 * 8 * 9
    elif kind == "residual_ratio":
        assert [*evidence.measured[kind]] == [graph.nodes[item.node].label for item in residual_sums(graph)]
        assert all(0 < evidence.residual_ratio(label) < 100 for label in evidence.measured[kind])
    elif kind == "route_shares":
        assert evidence.measured[kind] == {}, "of a network without routes"
    elif kind == "weights":
        assert set(evidence.measured[kind]) == set(model.state_dict())
        for name in evidence.measured[kind]:
            label, _, slot = name.rpartition(".")
            array = evidence.weight(label, slot)
            assert torch.equal(
                torch.from_numpy(array.copy()).to(model.state_dict()[name].dtype), model.state_dict()[name]
            )
            assert not array.flags.writeable
    else:
        assert kind == "latency" and evidence.latency is not None and evidence.latency(graph) > 0


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", OF_WEIGHTS)
def test_evidence_from_weights_is_that_of_the_same_numbers_in_float64(kind: str, dtype: torch.dtype) -> None:
    model = network(dtype)
    actual, wanted = seen(model, kind).measured[kind], seen(exact_copy(model), kind).measured[kind]
    assert actual.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.allclose(actual[name], values, rtol=SUMMED, atol=0.0), name


def test_the_taylor_score_of_a_bf16_model_is_summed_exactly_from_its_own_gradients() -> None:
    model = network(torch.bfloat16)
    evidence = seen(model, "taylor")
    weight = model.state_dict(keep_vars=True)["s1.0.conv1.weight"]
    functional.cross_entropy(model.eval()(images(6, 8).bfloat16()).float(), torch.arange(6)).backward()
    assert weight.grad is not None
    terms = weight.detach().double() * weight.grad.double()
    space = next(s for s in model.graph.infer.spaces if s.name == "s1.0.conv1")
    bound = SUMMED * terms.abs().sum((1, 2, 3)).numpy()  # terms of both signs: relative to what is summed
    rows = evidence.members("taylor", space)
    assert any((np.abs(row - terms.sum((1, 2, 3)).abs().numpy()) <= bound).all() for row in rows)


@pytest.mark.parametrize("dtype", RUN, ids=str)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(("name", "options", "site"), REWRITES)
def test_a_model_is_rewritten_in_its_dtype_and_trains_on(
    name: str, options: dict[str, Any], site: str, kind: str, dtype: torch.dtype
) -> None:
    model = network(dtype)
    x, y = images(6, 8, dtype=dtype), torch.arange(6)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if kind == "sgd"
        else torch.optim.AdamW(model.parameters(), lr=1e-3)
    )

    def step() -> None:
        optimizer.zero_grad()
        out = model(x)
        each = out.flatten(0, 1).float()  # branches that train separately give [N, branches, C]
        functional.cross_entropy(each.view(-1, out.shape[-1]), y.repeat_interleave(out[..., 0].numel() // 6)).backward()
        optimizer.step()

    step()
    rewrite = model.apply(get_pass(name)(**options), site, optimizers=[optimizer], images=x, labels=y)
    assert isinstance(rewrite, Rewrite)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype, torch.int64}
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    step()
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(model.parameters())
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert all(v.dtype == dtype for v in optimizer.state[parameter].values() if torch.is_tensor(v) and v.dim()), (
            name
        )
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
