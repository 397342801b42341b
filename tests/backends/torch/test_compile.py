"""Compiled blocks: one compilation for each shape of block, the same losses, the same names."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, pyramid
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.backends.torch.lower.compile import BlockCompiler, step_seconds
from nasir.backends.torch.session import TorchSession
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan
from nasir.transfer import Key, TransferPlan

# the compiler of the CPU writes C++ and needs a compiler for it
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile"),
    pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only"),
    pytest.mark.filterwarnings("default"),  # warnings of torch's own compiler are not ours
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss(model: Model, seed: int) -> torch.Tensor:
    x = images(6, 8, seed).contiguous(memory_format=torch.channels_last)
    return functional.cross_entropy(model.train()(x), torch.arange(6) % 3)


def step(model: Model, optimizer: torch.optim.Optimizer, seed: int) -> float:
    optimizer.zero_grad()
    value = loss(model, seed)
    value.backward()
    optimizer.step()
    return value.item()


def test_growing_a_known_shape_compiles_nothing_and_losses_equal_eager() -> None:
    graph = pyramid((2, 1), 4, size=8, classes=3)
    eager, compiled = Model.from_graph(graph, 1), Model.from_graph(graph, 1)
    names = list(compiled.state_dict())
    compiler = BlockCompiler()
    compiler.compile(compiled)
    assert list(compiled.state_dict()) == names
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in (eager, compiled)]

    def both(seeds: range) -> None:
        for seed in seeds:
            values = [step(m, o, seed) for m, o in zip((eager, compiled), optimizers, strict=True)]
            assert values[0] == pytest.approx(values[1], abs=1e-4), seed

    both(range(2))
    known = compiler.graphs
    assert known > 0
    for site in ("s1.1", "s1"):
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            model.apply(InsertBlock(init="gaussian"), site, optimizers=[optimizer])
        compiler.compile(compiled)
        both(range(2, 4))
    assert compiler.graphs == known, "a block of a known shape was compiled again"
    assert list(compiled.state_dict()) == list(eager.state_dict())
    grown = [p for name, p in compiled.named_parameters() if name.startswith(("s1.2.", "s1.3."))]
    assert grown and all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in grown)


class Recorded(TorchSession):
    """A session that keeps the losses."""

    def losses(self) -> list[float]:
        return [self.train(epoch, epoch, None, lambda: False).metrics["train.loss"] for epoch in range(2)]


def opened(compile: Any, tmp_path: Path) -> Recorded:
    options = {"classes": 3, "size": 8, "channels": 3, "train": 48, "test": 12}
    data = DataPlan("synthetic", options, batch_size=16, validation=12, drop_last=True)
    session = Recorded(Setup(data, tmp_path, seed=1, device="cpu", precision="fp32", compile=compile))
    graph = pyramid((2, 1), 4, size=8, classes=3)
    slots = graph.infer.slots
    session.build(graph, TransferPlan({Key(n, name): s.init for n, own in slots.items() for name, s in own.items()}))
    session.begin_phase(TrainPlan(OptimizerPlan("sgd", lr=0.05), batch_size=16, precision="fp32"), 9, resumed=False)
    return session


def test_a_compiled_session_trains_grows_and_counts_its_graphs(tmp_path: Path) -> None:
    eager, compiled = opened(False, tmp_path), opened("blocks", tmp_path)
    assert eager.notes() == {"samples": 36}
    assert compiled.losses() == pytest.approx(eager.losses(), abs=1e-4)
    assert compiled.evaluate("val") == pytest.approx(eager.evaluate("val"), abs=1e-4)
    known = compiled.notes()["compiled_graphs"]
    assert known > 0
    for session in (eager, compiled):
        session.propose(InsertBlock(init="gaussian").attempt(session.model.graph, "s1"))
        session.accept()
    assert compiled.losses() == pytest.approx(eager.losses(), abs=1e-4)
    assert compiled.notes()["compiled_graphs"] == known
    assert compiled.evaluate("val") == pytest.approx(eager.evaluate("val"), abs=1e-4)


def test_a_choice_is_made_by_time_kept_over_a_restart_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = opened(False, tmp_path)
    wanted = plain.losses()
    for faster, compiled in (({False: 1.0, True: 2.0}, False), ({False: 2.0, True: 1.0}, True)):
        laps: list[bool] = []

        def timed(train: Any, wait: Any, faster: dict[bool, float] = faster, laps: list[bool] = laps) -> float:
            step_seconds(train, wait)  # trains for real
            laps.append(len(laps) == 1)
            return faster[laps[-1]]

        monkeypatch.setattr("nasir.backends.torch.session.step_seconds", timed)
        session = opened("auto", tmp_path)
        assert laps == [False, True] and session.compilation.on is compiled
        assert all(("forward" in block.__dict__) is compiled for block in session.model.units.values())
        losses = session.losses()
        assert losses == wanted if not compiled else losses == pytest.approx(wanted, abs=1e-4)
        session.save(tmp_path / f"c{compiled}", 1, {"ordinal": 0, "graph": session.model.graph.to_json()}, 2)
        session.flush()
        again = TorchSession(session.setup)
        saved = again.newest(tmp_path / f"c{compiled}")
        assert saved is not None
        again.load(saved, Graph.from_json(saved.meta["graph"]))
        assert again.begin_phase(session.plan, 9, resumed=True) == {} and again.compilation.on is compiled
        assert len(laps) == 2, "a resumed phase keeps the choice of its checkpoint"
        assert "compilation" in again.begin_phase(session.plan, 9, resumed=False)
        assert len(laps) == 4
