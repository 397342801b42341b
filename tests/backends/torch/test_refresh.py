"""Refreshed statistics of norms: the plain average, as torch's own, without a read from the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from grown import images, lived, pyramid
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasir.backends.torch import Model
from nasir.backends.torch.train.refresh import moving_norms, refresh_norms
from nasir.ir import Draft
from nasir.rewriting.rewrite import Refresh
from nasir.training.plans import OptimizerPlan, TrainPlan

PLAN = TrainPlan(OptimizerPlan("sgd", lr=0.1), precision="fp32")
STEPS = 3


class Batches:
    """Three batches an epoch, others in each."""

    steps_per_epoch = STEPS

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start_step, STEPS):
            yield images(5, 8, seed=100 * epoch + step), torch.zeros(5, dtype=torch.int64)


class NoReads(TorchDispatchMode):
    """Refuses what makes a number of a tensor: on a device it waits for all that was asked of it before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a tensor is read"
        return func(*args, **(kwargs or {}))


def network() -> Model:
    return lived(pyramid((1, 1), 4, size=8))


def refreshed(model: Model, refresh: Refresh) -> dict[str, Any] | None:
    return refresh_norms(model, Batches(), PLAN, refresh, seed=0, epoch=7, stop=lambda: False)  # type: ignore[arg-type]


def norms_of(model: Model) -> list[nn.Module]:
    return list(moving_norms(model, Refresh(batches=1)).values())


@pytest.mark.parametrize("batches", [1, 2, 7])
def test_the_cumulative_average_is_torchs_own_bit_for_bit(batches: int) -> None:
    model, reference = network(), network()
    counts = refreshed(model, Refresh(batches=batches, cumulative=True))
    assert counts == {"batches": batches, "norms": len(norms_of(model))} and counts["norms"] > 4
    for norm in norms_of(reference):
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
    source = Batches()
    with torch.no_grad():
        for number in range(batches):
            for step, (x, _) in enumerate(source.batches(7 + number // STEPS)):
                if step == number % STEPS:
                    reference.train()(x)
    wanted = reference.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_norms_that_do_not_count_batches_are_averaged_alike() -> None:
    statistics = []
    for counts in (True, False):
        draft = Draft()
        x = draft.add("input", (), "x", shape=images(1, 8, seed=0).shape[1:])
        x = draft.add("batch_norm", draft.add("conv2d", x, "conv", out=4, kernel=3), "norm", counts=counts)
        draft.output(draft.add("global_avg_pool", x, "pool"))
        model = Model.from_graph(draft.commit())
        assert refreshed(model, Refresh(batches=4, cumulative=True)) == {"batches": 4, "norms": 1}
        statistics.append({name: buffer for name, buffer in model.named_buffers() if "running" in name})
    assert all(torch.equal(buffer, statistics[1][name]) for name, buffer in statistics[0].items())


@pytest.mark.parametrize("cumulative", [True, False])
def test_nothing_is_read_from_the_device(cumulative: bool) -> None:
    model = network()
    with pytest.raises(AssertionError, match="a tensor is read"), NoReads():
        float(torch.ones(()))
    with NoReads():
        assert refreshed(model, Refresh(batches=4, cumulative=cumulative)) is not None


@pytest.mark.parametrize("stopped", [False, True])
def test_momentum_and_modes_are_put_back(stopped: bool) -> None:
    model = network()
    momenta = [norm.momentum for norm in norms_of(model)]
    done = refresh_norms(
        model,
        Batches(),  # type: ignore[arg-type]
        PLAN,
        Refresh(batches=4, cumulative=True),
        seed=0,
        epoch=0,
        stop=lambda: stopped,
    )
    assert (done is None) is stopped
    assert [norm.momentum for norm in norms_of(model)] == momenta
    assert all(module.training for module in model.modules())
