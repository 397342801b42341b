"""Deterministic kernels: pools of even windows have them, others are refused when a session on CUDA gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.session import TorchSession
from nasir.errors import RunError
from nasir.ir import Draft, Graph
from nasir.rewriting.rewrite import Pass
from nasir.testing import OpCase
from nasir.testing.backend_contract import initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan

BOUND = 1e-15  # relative: a sum of a few dozen numbers in another order


def setup(folder: Path, **more: Any) -> Setup:
    data = DataPlan("synthetic", {"classes": 3, "size": 8, "channels": 3, "train": 48, "test": 24}, batch_size=16)
    return Setup(data, folder, **{"seed": 3, "device": "cpu", "deterministic": True, "probe": 16, **more})


def pooled(size: int) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "conv", out=4, kernel=3, padding=1)
    x = draft.add("adaptive_avg_pool", x, "pool", size=size)
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=3))
    return draft.commit()


@dataclass(frozen=True)
class Repool(Pass):
    """Pool to 3x3: for the tests."""

    def sites(self, graph: Graph) -> list[str]:
        return ["network"]

    def rewrite(self, draft: Draft, site: Any, seen: Any) -> None:
        (node_id,) = [n for n, node in draft.nodes.items() if node.label == "pool"]
        (linear,) = [n for n, node in draft.nodes.items() if node.label == "fc"]
        draft.set_attrs(node_id, size=3)
        draft.fill(linear, "weight", "zeros")


def on_cuda(session: TorchSession) -> TorchSession:
    """The session as one on a CUDA device would be, up to its first touch of the device."""
    session.device = torch.device("cuda", 0)
    return session


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("side", "size"),
    [((8, 8), 4), ((8, 6), (4, 2)), ((9, 12), (3, 4)), ((7, 7), 7), ((12, 7), (2, 1)), ((7, 5), 1), ((8, 8), 3)],
)
def test_values_and_gradients_of_adaptive_pools_are_those_of_torch(
    side: tuple[int, int], size: Any, channels_last: bool
) -> None:
    model = Model.from_graph(OpCase("adaptive_avg_pool", ((3, *side),), {"size": size}).graph())
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *side, generator=random, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)

    def both(pool: Any) -> tuple[Tensor, Tensor]:
        here = x.clone().requires_grad_(True)
        out = pool(here)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return out.detach(), torch.autograd.grad((out * weights).sum(), here)[0]

    for actual, wanted in zip(both(model), both(lambda y: functional.adaptive_avg_pool2d(y, size)), strict=True):
        assert actual.shape == wanted.shape
        assert float((actual - wanted).abs().max()) <= BOUND * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(("size", "refused"), [(1, False), (2, False), (8, False), (3, True)])
def test_the_gradient_that_is_not_deterministic_is_that_of_uneven_windows_alone(size: int, refused: bool) -> None:
    """torch's adaptive pool to 1x1 is a plain mean inside, and deterministic."""
    model = Model.from_graph(pooled(size))
    names = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    with Recorder():
        model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert ("aten::_adaptive_avg_pool2d_backward" in names) is refused


def test_a_session_on_cuda_refuses_what_it_could_not_train(tmp_path: Path) -> None:
    session = on_cuda(TorchBackend().open(setup(tmp_path)))
    try:
        graph = pooled(3)
        wanted = r"^deterministic: adaptive_avg_pool 'pool' pools 8x8 to 3x3 .*; use a size that divides 8x8, such as 2"
        with pytest.raises(RunError, match=wanted):
            session.build(graph, initial(graph))
        assert not hasattr(session, "model")
    finally:
        session.close()


def test_a_rewrite_that_brings_it_in_is_refused_before_anything_changes(tmp_path: Path) -> None:
    session = TorchBackend().open(setup(tmp_path))
    try:
        graph = pooled(2)
        session.build(graph, initial(graph))
        before = session.model.graph
        rewrite = Repool().attempt(graph, "network")
        with pytest.raises(RunError, match="pools 8x8 to 3x3"):
            on_cuda(session).propose(rewrite)
        assert session.model.graph is before and session._proposal is None
    finally:
        session.close()


@pytest.mark.parametrize("more", [{}, {"deterministic": False}])
def test_a_session_on_the_cpu_takes_every_pool(tmp_path: Path, more: dict[str, Any]) -> None:
    session = TorchBackend().open(setup(tmp_path, **more))
    try:
        graph = pooled(3)
        session.build(graph, initial(graph))
        assert session.model.graph is graph
    finally:
        session.close()
