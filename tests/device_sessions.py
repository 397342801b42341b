"""Sessions on a small network and small images, on any device: for tests of what must hold on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grown import pyramid

from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.session import TorchSession
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.rewriting.rewrite import Pass, Site
from nasir.testing.backend_contract import initial
from nasir.training.backend import Effect, Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan

NO_CUDA = "torch.cuda.is_available() is false: no CUDA device"
ON_CUDA = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA))
DEVICES = ("cpu", pytest.param("cuda", marks=ON_CUDA))

OPTIMIZERS = {
    "sgd": OptimizerPlan("sgd", lr=0.05, weight_decay=1e-3, decay_norms=False),
    "nesterov": OptimizerPlan("sgd", lr=0.05, nesterov=True),
    "adamw": OptimizerPlan("adamw", lr=1e-3, weight_decay=0.05),
}


def setup(folder: Path, *, size: int = 16, batch: int = 32, **more: Any) -> Setup:
    """192 images [3, size, size] of 10 classes, 32 of them held out, in batches that are cropped and mirrored."""
    options = {"classes": 10, "size": size, "channels": 3, "train": 192, "test": 32}
    augment = ({"pad_crop": {"pad": 2}}, "hflip")
    data = DataPlan("synthetic", options, batch_size=batch, augment=augment, validation=32)
    return Setup(data, folder, **{"seed": 3, "device": "cuda", "precision": "fp32", "probe": 32, **more})


def opened(folder: Path, plan: TrainPlan | None = None, graph: Graph | None = None, **more: Any) -> TorchSession:
    """A session in its first phase, with a freshly initialized network."""
    session = TorchBackend().open(setup(folder, **more))
    graph = graph if graph is not None else pyramid((1, 1, 1), 8, size=more.get("size", 16))
    session.build(graph, initial(graph))
    session.begin_phase(plan or TrainPlan(OPTIMIZERS["sgd"], precision="fp32"), 8, resumed=False)
    return session


def train(session: TorchSession, epoch: int) -> dict[str, float]:
    """Train an epoch; its metrics."""
    return dict(session.train(epoch, epoch, None, lambda: False).metrics)


def apply(session: TorchSession, rule: Pass, site: Site) -> Effect:
    """Propose and accept a rewrite; its effect on the logits."""
    effect = session.propose(rule.attempt(session.model.graph, site))
    session.accept()
    return effect


def grow(session: TorchSession, site: str, **options: Any) -> None:
    """Append a block."""
    apply(session, InsertBlock(**options), site)


def moments(session: TorchSession) -> dict[str, dict[str, torch.Tensor]]:
    """The optimizer's state by name of the parameter."""
    assert session.optimizer is not None
    held = session.optimizer.state
    return {name: dict(held[p]) for name, p in session.model.named_parameters() if p in held}
