"""The torch backend on a CUDA device: what the CPU computes, nothing waiting for the host, bit-exact resuming.

Single training steps are compared with float64 in test_training_steps.py; what holds on each device is tried on both
in test_every_device.py.
"""

from __future__ import annotations

import os

# read by cuBLAS when the first handle is made: without it matrix products are not reproducible
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device_sessions import ON_CUDA, OPTIMIZERS, grow, moments, opened, setup, train
from grown import pyramid, same_tensors

from nasir import get_pass
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.model import Model
from nasir.backends.torch.penalties.regularize import Penalties
from nasir.errors import RunError
from nasir.ir import Graph, op_named
from nasir.rewriting.rewrite import Rewrite
from nasir.testing import BackendContract, OpCase, random_batch, shipped_cases
from nasir.testing.backend_contract import Resize
from nasir.training.backend import Setup
from nasir.training.plans import PenaltyPlan, TrainPlan

pytestmark = [
    *ON_CUDA,
    pytest.mark.filterwarnings("default"),  # warnings of drivers and of torch's compiler are not ours
]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """torch's switches of the whole process as they were, afterwards. How float32 is multiplied stays torch's default:
    sessions see to that themselves."""
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic)


def test_pruning_on_the_device_is_pruning_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # a model outside a session is measured as the process multiplies, and TF32 could turn round two close scores
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    graph = pyramid((1, 1), 8, size=16)
    x, y = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 10
    for score in ("l1", "l2", "taylor", "group_lasso", "activation_mean"):
        rule = get_pass("prune-channels")(fraction=0.5, score=score)
        there, here = Model.from_graph(graph, device="cuda"), Model.from_graph(graph)
        first = there.apply(rule, "network", images=x.cuda(), labels=y.cuda())
        second = here.apply(rule, "network", images=x, labels=y)
        assert isinstance(first, Rewrite) and isinstance(second, Rewrite) and first.graph == second.graph
        assert same_tensors({n: t.cpu() for n, t in there.state_dict().items()}, here.state_dict()), score


@pytest.mark.parametrize(
    "case", [case for cases in shipped_cases().values() for case in cases if case.shapes], ids=lambda case: case.op
)
def test_every_op_has_a_deterministic_gradient_or_says_that_it_has_none(case: OpCase) -> None:
    graph = case.graph()
    types, node = graph.infer.types, graph.nodes[graph.outputs[0].node]
    model = Model.from_graph(graph, device="cuda")
    given = [torch.from_numpy(x).cuda() for x in random_batch(graph, 0, 2)]
    inputs = [x.float().requires_grad_() if x.is_floating_point() else x for x in given]
    torch.use_deterministic_algorithms(True)
    outputs = model(*inputs)
    loss = sum(out.square().sum() for out in (outputs if isinstance(outputs, tuple) else (outputs,)))
    says = op_named(case.op).unordered
    if says is not None and says(node.attrs, tuple([types[port] for port in node.inputs]), types[graph.outputs[0]]):
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            loss.backward()
    else:
        loss.backward()
        assert all(x.grad is not None for x in inputs if x.requires_grad)


class TestTorchBackendOnCuda(BackendContract):
    """The contract of every backend, on the device: with deterministic kernels equal sessions agree bit for bit."""

    make = staticmethod(TorchBackend)

    def setup(self, folder: Path) -> Setup:
        return replace(super().setup(folder), device="cuda", deterministic=True)


def test_initial_weights_and_augmented_batches_are_bit_equal_to_the_cpus(tmp_path: Path) -> None:
    host, device = (opened(tmp_path, device=name) for name in ("cpu", "cuda"))
    state = {name: tensor.cpu() for name, tensor in device.model.state_dict().items()}
    assert same_tensors(state, dict(host.model.state_dict()))
    for (x, y), (x_device, y_device) in zip(host.source.batches(1), device.source.batches(1), strict=True):
        assert torch.equal(y, y_device.cpu())
        assert torch.equal(x, x_device.cpu())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_rewrite_keeps_everything_on_the_device_and_needs_no_host(kind: str, tmp_path: Path) -> None:
    session = opened(tmp_path, TrainPlan(OPTIMIZERS[kind], precision="fp32", ema_decay=0.9))
    train(session, 0)
    kept = {
        name: (p, {k: v.clone() for k, v in moments(session)[name].items()})
        for name, p in session.model.named_parameters()
    }
    grow(session, "s2", init="gaussian")
    space = next(s for s in session.model.graph.infer.spaces if s.name == "s3.0.conv1")
    session.propose(Resize((*range(space.size - 4), 0, 1, -1)).attempt(session.model.graph, space))
    session.accept()
    assert all(tensor.is_cuda for tensor in session.model.state_dict().values())
    assert all(tensor.is_cuda for tensor in session.ema.tensors.values())
    carried = moments(session)
    for name, values in carried.items():
        # fused kernels read Adam's step counter on the device
        assert all(value.is_cuda for value in values.values()), name
        if not name.startswith("s3.0."):
            assert session.model.get_parameter(name) is kept[name][0]
            assert same_tensors(values, kept[name][1]), name
    assert not [name for name in carried if name.startswith("s2.1.")]
    train(session, 1)
    assert moments(session).keys() == dict(session.model.named_parameters()).keys()


def test_the_weights_of_a_rewrite_are_those_the_cpu_makes(tmp_path: Path) -> None:
    sessions = [opened(tmp_path, device=name) for name in ("cpu", "cuda")]
    for session in sessions:
        grow(session, "s1", init="gaussian")
        space = next(s for s in session.model.graph.infer.spaces if s.name == "s2.0.conv1")
        session.propose(Resize((*range(space.size), 0, -1)).attempt(session.model.graph, space))
        session.accept()
    host, device = (dict(session.model.state_dict()) for session in sessions)
    assert same_tensors({name: tensor.cpu() for name, tensor in device.items()}, host)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_is_bit_exact_with_deterministic_kernels(precision: Any, tmp_path: Path) -> None:
    plan = TrainPlan(OPTIMIZERS["adamw"], precision=precision, ema_decay=0.9)
    first = opened(tmp_path, plan, deterministic=True, precision=precision)
    train(first, 0)
    grow(first, "s1", init="gaussian")
    stretch = first.train(1, 1, None, iter([False, False, True]).__next__)
    assert not stretch.finished
    first.save(tmp_path / "c", 1, {"ordinal": 1, "graph": first.model.graph.to_json()}, 2)
    wanted = first.train(1, 1, stretch, lambda: False).metrics
    grow(first, "s2", init="gaussian")
    wanted = [wanted, train(first, 2), first.evaluate("val")]
    first.close()

    torch.manual_seed(99)
    second = TorchBackend().open(setup(tmp_path, deterministic=True, precision=precision))
    saved = second.newest(tmp_path / "c")
    assert saved is not None
    second.load(saved, Graph.from_json(saved.meta["graph"]))
    second.begin_phase(plan, 8, resumed=True)
    rest = second.train(1, 1, stretch, lambda: False).metrics
    grow(second, "s2", init="gaussian")
    assert [rest, train(second, 2), second.evaluate("val")] == wanted
    assert same_tensors(dict(second.model.state_dict()), dict(first.model.state_dict()))
    second.close()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_no_step_of_an_epoch_waits_for_the_device(kind: str, precision: Any, tmp_path: Path) -> None:
    plan = TrainPlan(OPTIMIZERS[kind], precision=precision, gradient_clip=1.0, ema_decay=0.99, label_smoothing=0.1)
    session = opened(tmp_path, plan, precision=precision)
    train(session, 0)  # first steps may choose kernels and allocate
    steps = session.source.steps_per_epoch

    def watch(armed: list[int]) -> bool:
        """Asked after every step; the last one reads the metrics, which is where an epoch may wait."""
        armed[0] += 1
        torch.cuda.set_sync_debug_mode("error" if armed[0] < steps else "default")
        return False

    counter = [0]
    try:
        session.train(1, 1, None, lambda: watch(counter))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert counter[0] == steps


@pytest.mark.slow
def test_compiled_blocks_train_like_eager_ones_and_a_known_shape_costs_no_compilation(tmp_path: Path) -> None:
    torch._dynamo.reset()
    eager, compiled = opened(tmp_path), opened(tmp_path, compile="blocks")
    for session in (eager, compiled):
        grow(session, "s1", init="zero")
    for epoch in range(2):
        assert train(compiled, epoch)["train.loss"] == pytest.approx(train(eager, epoch)["train.loss"], rel=1e-3)
    compiled.evaluate("val")
    known = compiled.notes()["compiled_graphs"]
    assert known > 0
    for session in (eager, compiled):
        grow(session, "s1", init="zero")
    assert train(compiled, 2)["train.loss"] == pytest.approx(train(eager, 2)["train.loss"], rel=5e-3)
    compiled.evaluate("val")
    assert compiled.notes()["compiled_graphs"] == known
    assert list(compiled.model.state_dict()) == list(eager.model.state_dict())


def test_penalties_are_those_of_the_cpu_and_the_same_every_time() -> None:
    graph = pyramid()
    plans = (
        PenaltyPlan("group-lasso", 1e-3, l1=0.3),
        PenaltyPlan("gamma", 1e-3, grouping="l2"),
        PenaltyPlan("l1", 1e-3, on="all"),
    )
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for device in ("cpu", "cuda", "cuda"):
            model = Model.from_graph(graph, 5, dtype=torch.float64).to(device)
            value = Penalties(graph, plans, torch.device(device)).add_gradients(model)
            results.append([value.cpu(), *[p.grad.cpu() for p in model.parameters() if p.grad is not None]])
    finally:
        torch.use_deterministic_algorithms(False)
    for host, first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert torch.allclose(host, first, rtol=1e-12, atol=1e-15)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    for name in (missing, "cuda:97"):
        with pytest.raises(RunError, match=name):
            TorchBackend().open(setup(tmp_path, device=name))
