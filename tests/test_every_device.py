"""What a session keeps on every device: exact claims, and training on after growing, unfreezing and resuming."""

from __future__ import annotations

import os

# read by cuBLAS when the first handle is made: without it matrix products are not reproducible
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device_sessions import DEVICES, OPTIMIZERS, apply, grow, moments, opened, setup, train
from grown import same_tensors

from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.session import TorchSession
from nasir.ir import Graph
from nasir.passes.freeze import Freeze, Unfreeze
from nasir.passes.insert_block import InsertBlock
from nasir.passes.widen import Widen
from nasir.rewriting.rewrite import WHOLE
from nasir.running.decisions import EXACT
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.training.plans import TrainPlan

MOMENTUM = {kind: plan for kind, plan in OPTIMIZERS.items() if plan.kind == "sgd"}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def tf32() -> Iterator[None]:
    """Products of float32 numbers rounded to TF32, by the switches that scripts set, for the length of a test."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


CLAIMS = {
    "copies by 2": (Widen(factor=2.0, symmetry="none"), WHOLE),
    "copies by 3": (Widen(factor=3.0, symmetry="none"), WHOLE),
    "opposite pairs": (Widen(factor=2.0, how="paired"), WHOLE),
    "fresh units": (Widen(factor=1.5, how="fresh"), WHOLE),
    "a silent block": (InsertBlock(init="zero"), "s2"),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_exact_claims_hold_though_the_process_allows_tf32(
    claim: str, precision: Any, device: str, tf32: None, tmp_path: Path
) -> None:
    session = opened(tmp_path, TrainPlan(OPTIMIZERS["sgd"], precision=precision), device=device, precision=precision)
    train(session, 0)
    rule, site = CLAIMS[claim]
    assert rule.attempt(session.model.graph, site).preserves == "exact"
    effect = apply(session, rule, site)
    assert 0 < effect.largest_logit and effect.delta_logits <= EXACT * max(1.0, effect.largest_logit)
    session.close()


def trains_on(session: TorchSession, epoch: int) -> None:
    """An epoch after which everything that may learn has moved and has momentum."""
    before = {name: parameter.detach().clone() for name, parameter in session.model.named_parameters()}
    assert math.isfinite(train(session, epoch)["train.loss"])
    for name, parameter in session.model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    learning = {name for name, parameter in session.model.named_parameters() if parameter.requires_grad}
    buffers = {name for name, state in moments(session).items() if state.get("momentum_buffer") is not None}
    assert learning <= buffers


@pytest.mark.parametrize("kind", MOMENTUM)
def test_a_network_that_grew_trains_on_with_momentum(kind: str, device: str, tmp_path: Path) -> None:
    session = opened(tmp_path, TrainPlan(MOMENTUM[kind], precision="fp32"), device=device)
    train(session, 0)
    grow(session, "s2", init="gaussian")
    new = {name for name, _ in session.model.named_parameters() if name.startswith("s2.1.")}
    assert new and new.isdisjoint(moments(session))
    trains_on(session, 1)
    apply(session, Widen(factor=2.0, noise=0.01), "s3")
    trains_on(session, 2)
    session.close()


@pytest.mark.parametrize("kind", MOMENTUM)
def test_what_was_frozen_learns_again_with_momentum(kind: str, device: str, tmp_path: Path) -> None:
    frozen = TrainPlan(MOMENTUM[kind], precision="fp32", freeze=("s1",))
    session = opened(tmp_path, frozen, device=device)
    trains_on(session, 0)
    session.begin_phase(replace(frozen, freeze=()), 8, resumed=False)
    trains_on(session, 1)
    session.close()


@pytest.mark.parametrize("kind", MOMENTUM)
def test_what_a_pass_froze_learns_again_with_momentum(kind: str, device: str, tmp_path: Path) -> None:
    session = opened(tmp_path, TrainPlan(MOMENTUM[kind], precision="fp32"), device=device)
    apply(session, Freeze(), "s1")
    trains_on(session, 0)
    apply(session, Unfreeze(), "s1")
    trains_on(session, 1)
    session.close()


@pytest.mark.parametrize("kind", MOMENTUM)
def test_a_run_resumed_right_after_growing_goes_on_bit_for_bit(kind: str, device: str, tmp_path: Path) -> None:
    """What is stored then has momentum for some parameters and for others not."""
    plan = TrainPlan(MOMENTUM[kind], precision="fp32")
    first = opened(tmp_path, plan, device=device, deterministic=True)
    train(first, 0)
    grow(first, "s1", init="gaussian")
    first.save(tmp_path / "c", 1, {"ordinal": 1, "graph": first.model.graph.to_json()}, 2)
    wanted = [train(first, 1), train(first, 2)]
    first.close()
    second = TorchBackend().open(setup(tmp_path, device=device, deterministic=True))
    saved = second.newest(tmp_path / "c")
    assert saved is not None
    second.load(saved, Graph.from_json(saved.meta["graph"]))
    second.begin_phase(plan, 8, resumed=True)
    assert 0 < len(moments(second)) < len(list(second.model.parameters()))
    assert [train(second, 1), train(second, 2)] == wanted
    assert same_tensors(dict(second.model.state_dict()), dict(first.model.state_dict()))
    second.close()


def test_pooling_to_fixed_windows_trains_deterministically(device: str, tmp_path: Path) -> None:
    """8x8 to 2x2: the adaptive kernel of CUDA has no deterministic backward pass, fixed windows have."""
    graph = build(
        loads_spec(
            "nasir: 1\nname: pooled\ninput: {image: [3, 8, 8]}\nnetwork:\n  - conv_bn_relu: {out: 8, kernel: 3}\n"
            "  - adaptive_avg_pool: {size: 2}\n  - flatten\n  - linear: {out: 10}\ndata: {dataset: synthetic}\n"
            "phases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
        )
    )
    runs = []
    for _ in range(2):
        session = opened(tmp_path, graph=graph, device=device, size=8, deterministic=True)
        losses = [train(session, epoch)["train.loss"] for epoch in range(3)]
        runs.append((losses, {name: tensor.cpu() for name, tensor in session.model.state_dict().items()}))
        session.close()
    (losses, state), (again, same) = runs
    assert losses == again and same_tensors(state, same)
    assert losses[-1] < losses[0]
