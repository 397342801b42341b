"""Memory that runs out, of a device or of the host, wherever a session computes: what did not fit and what to lower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import pyramid, same_tensors
from small_runs import SPEC, write_spec

import nasir.api
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.device.memory import memory_told, ran_out
from nasir.backends.torch.model import Model
from nasir.backends.torch.session import TorchSession
from nasir.backends.torch.weights import checkpoint
from nasir.cli.main import main
from nasir.errors import CheckpointError, OutOfMemory, RunError
from nasir.passes.insert_block import InsertBlock
from nasir.rewriting.evidence import Need
from nasir.testing.backend_contract import initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan

OF_A_DEVICE = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 77.98 GiB memory in use."
)
OF_THE_HOST = (
    "[enforce fail at alloc_cpu.cpp:122] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "16000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
FULL = (torch.OutOfMemoryError(OF_A_DEVICE), RuntimeError(OF_THE_HOST), MemoryError())
# what a device says for other reasons, with the word in it or without
OTHER = (
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: misaligned address",
    "Expected all tensors to be on the same device",
    "The size of tensor a (3) must match the size of tensor b (4)",
)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[TorchSession]:
    options = {"classes": 3, "size": 8, "channels": 3, "train": 64, "test": 24}
    data = DataPlan("synthetic", options, batch_size=16, eval_batch_size=12, validation=16)
    opened = TorchBackend().open(Setup(data, tmp_path, seed=3, device="cpu", precision="fp32", probe=8))
    graph = pyramid((1, 1), 4, size=8, classes=3)
    opened.build(graph, initial(graph))
    opened.begin_phase(TrainPlan(OptimizerPlan("sgd", lr=0.05), precision="fp32"), 8, resumed=False)
    yield opened
    opened.close()


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_it_is_told_from_every_other_failure(error: BaseException) -> None:
    assert ran_out(error)
    for text in OTHER:
        assert not ran_out(RuntimeError(text))
        with pytest.raises(RuntimeError, match=text.split("(")[0]), memory_told("a step", "lower it"):
            raise RuntimeError(text)


def test_a_real_refusal_of_the_host_is_recognized() -> None:
    with pytest.raises(OutOfMemory, match="the array: not enough memory"), memory_told("the array", "take less"):
        torch.empty(1 << 60)


def test_sizes_are_told() -> None:
    with pytest.raises(OutOfMemory) as caught, memory_told("a step", "lower it"):
        raise torch.OutOfMemoryError(OF_A_DEVICE)
    assert "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1.20 GiB" in str(caught.value)


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda s: s.train(0, 0, None, lambda: False), r"training step of 16 samples: .*lower `data.batch_size`"),
        (lambda s: s.evaluate("val"), r"batch of 12 samples in evaluation: .*lower `data.eval_batch_size`"),
        (lambda s: s.observe([Need("activation_mean")]), r"evidence from 8 samples: .*lower `probe`"),
        (lambda s: s.propose(InsertBlock(init="zero").attempt(s.model.graph, "s1")), r"new network beside the old"),
    ],
    ids=["train", "evaluate", "observe", "propose"],
)
def test_every_forward_pass_says_what_to_lower(
    call: Callable[[TorchSession], Any],
    told: str,
    error: BaseException,
    session: TorchSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", failing(error))
        with pytest.raises(OutOfMemory, match=told):
            call(session)
    assert same_tensors(dict(session.model.state_dict()), before)
    session.train(0, 0, None, lambda: False)  # and it goes on


def test_a_step_that_fails_leaves_no_gradients(session: TorchSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", failing(torch.OutOfMemoryError(OF_A_DEVICE)))
    with pytest.raises(OutOfMemory, match="training step"):
        session.train(0, 0, None, lambda: False)
    assert all(p.grad is None for p in session.model.parameters())


def test_the_test_part_that_does_not_fit_on_the_device_is_not_taken_for_a_batch(
    session: TorchSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(session.source), "test", failing(torch.OutOfMemoryError(OF_A_DEVICE)))
    with pytest.raises(OutOfMemory, match=r"test part of the data, on cpu: .*`stream: true`"):
        session.evaluate("test")


def test_a_batch_that_does_not_fit_while_steps_are_timed_is_told_as_one(
    session: TorchSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = TorchBackend().open(replace(session.setup, compile="auto"))
    opened.build(session.model.graph, initial(session.model.graph))
    monkeypatch.setattr(Model, "forward", failing(torch.OutOfMemoryError(OF_A_DEVICE)))
    assert session.plan is not None
    with pytest.raises(OutOfMemory, match=r"training step of 16 samples: .*lower `data.batch_size`"):
        opened.begin_phase(session.plan, 8, resumed=False)


def test_a_proposal_that_is_refused_is_not_kept(session: TorchSession, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = InsertBlock(init="zero").attempt(session.model.graph, "s1")
    session.propose(rewrite)
    with monkeypatch.context() as patch:
        patch.setattr("nasir.backends.torch.observe.logits.logits_of", lambda *given: torch.full((1, 3), torch.nan))
        with pytest.raises(RunError, match="not finite"):
            session.propose(rewrite)
    assert session._proposal is None


def test_memory_that_the_thread_of_checkpoints_lacks_is_told(
    session: TorchSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safetensors.torch.save_file", failing(MemoryError()))
    session.save(tmp_path / "c", 1, {}, 2)
    with pytest.raises(CheckpointError, match="not written"):
        session.flush()


def test_a_checkpoint_that_cannot_be_copied_says_so(
    session: TorchSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_snapshot", failing(MemoryError()))
    with pytest.raises(OutOfMemory, match="copy of the state for its checkpoint"):
        session.save(tmp_path / "c", 1, {}, 2)


def test_a_run_ends_with_a_message_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, calls = Model.forward, 0

    def third_epoch(model: Model, *inputs: torch.Tensor) -> Any:
        nonlocal calls
        calls += model.training
        if calls == 12 and model.training:
            raise torch.OutOfMemoryError(OF_A_DEVICE)
        return forward(model, *inputs)

    spec = write_spec(tmp_path, SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", third_epoch)
        assert main(["run", str(spec), "--out", str(tmp_path / "run"), "--json"]) == 1
    told = capsys.readouterr().err
    assert "not enough memory (Tried to allocate 2.00 GiB" in told and "Traceback" not in told
    whole = nasir.api.run(spec, tmp_path / "whole")
    assert nasir.api.resume(tmp_path / "run").metrics == whole.metrics
