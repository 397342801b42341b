"""What stands around a model in a loop of one's own and keeps something across a rewrite: scalers, averages, ZeRO."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, lived, resize
from networks import small_resnet
from torch.nn import functional
from torch.optim.swa_utils import SWALR, AveragedModel

import nasir
from nasir.backends.torch import Model
from nasir.errors import UsageError
from nasir.passes import InsertBlock


def loss_of(model: Model, seed: int) -> torch.Tensor:
    return functional.cross_entropy(model.train()(images(6, 8, seed, torch.float64)), torch.arange(6) % 3)


def scaled(when: str, *, infinite: bool = False) -> tuple[Model, torch.optim.Optimizer]:
    """Trained with a gradient scaler; `when` in its third step a rewrite is made, "never" scaled without a scaler."""
    model = lived(small_resnet((2, 1)), dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=when != "never")
    for seed in range(5):
        rewrite = seed == 2
        optimizer.zero_grad()
        scaler.scale(loss_of(model, seed)).backward()
        if rewrite and infinite:
            model.get_parameter("s1.0.conv1.weight").grad[3] = torch.inf
        if rewrite and when == "scaled":
            change(model, optimizer)
        scaler.unscale_(optimizer)
        if rewrite and when == "unscaled":
            change(model, optimizer)
        if rewrite and when == "never":
            change(model, optimizer)
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


def change(model: Model, optimizer: torch.optim.Optimizer) -> None:
    resize(model, "s1.0.conv1", [2, 0, 1], optimizer)
    model.apply(InsertBlock(init="zero"), "s1", optimizers=[optimizer])


@pytest.mark.parametrize("when", ["scaled", "unscaled"])
def test_a_gradient_scaler_goes_on_through_a_rewrite_within_its_step(when: str) -> None:
    (plain, _), (other, _) = scaled("never"), scaled(when)
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name


def test_a_step_that_is_to_be_skipped_is_skipped_though_what_was_infinite_is_gone() -> None:
    """`unscale_` saw it, and that is what `step` goes by."""
    model, optimizer = scaled("unscaled", infinite=True)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    steps = {name: float(optimizer.state[p]["step"]) for name, p in model.named_parameters()}
    assert {steps[name] for name in steps if name.startswith("s1.2")} == {2.0}
    assert {steps[name] for name in steps if not name.startswith("s1.2")} == {4.0}


def average_of(kind: str, model: Model) -> Any:
    if kind == "swa":
        return AveragedModel(model)
    utils = pytest.importorskip("timm.utils", reason="timm is not installed")
    if kind == "ModelEmaV3":
        return utils.ModelEmaV3(model, decay=0.8)
    return getattr(utils, kind)(model, decay=0.8)


@pytest.mark.parametrize("kind", ["swa", "ModelEma", "ModelEmaV2", "ModelEmaV3"])
def test_averages_of_packages_follow(kind: str, tmp_path: Path) -> None:
    """Kept units have the average that they have without the rewrite, and new ones the model's own weights."""
    averages = []
    for rewritten in (False, True):
        model = lived(small_resnet((2, 1)), dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        average = average_of(kind, model)

        def update(seed: int, model: Model = model, average: Any = average) -> None:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if not name.startswith("s1.2"):
                        parameter.add_(0.01 * (seed + 1))
            (average.update_parameters if kind == "swa" else average.update)(model)

        update(0)
        update(1)
        if rewritten:
            draft = model.graph.draft()
            draft.select(next(s for s in model.graph.infer.spaces if s.name == "s1.0.conv1"), [2, 0])
            graph = draft.commit()
            rewrite = nasir.Rewrite(model.graph, graph, nasir.transfer.derive(draft, graph), {}, "s1", "approximate")
            model.apply(rewrite, optimizers=[optimizer], averages=[average])
            model.apply(InsertBlock(init="default"), "s1", optimizers=[optimizer], averages=[average])
            new = dict(model.named_parameters())
            copy = average.ema if kind == "ModelEma" else average.module
            for name, parameter in copy.named_parameters():
                if name.startswith("s1.2"):
                    assert torch.equal(parameter, new[name]), name
        update(2)
        averages.append(dict((average.ema if kind == "ModelEma" else average.module).named_parameters()))
    narrow, plain = averages[1], averages[0]
    for name, parameter in plain.items():
        wanted = parameter.detach()
        if name in ("s1.0.conv1.weight", "s1.0.bn1.weight", "s1.0.bn1.bias"):
            wanted = wanted[[2, 0]]
        elif name == "s1.0.conv2.weight":
            wanted = wanted[:, [2, 0]]
        assert torch.allclose(narrow[name], wanted, rtol=1e-12, atol=1e-15), name


def test_a_schedule_of_averaged_weights_goes_on() -> None:
    model = lived(small_resnet((2, 1)), dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = SWALR(optimizer, swa_lr=0.01, anneal_epochs=4)
    for seed in range(6):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()
        schedule.step()
        if seed == 2:
            change(model, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_what_is_no_list_of_averages_is_refused() -> None:
    model = lived(small_resnet((2, 1)))
    with pytest.raises(UsageError, match=r"write averages=\[ema\]"):
        model.apply(InsertBlock(init="zero"), "s1", averages=object())  # type: ignore[arg-type]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_state_that_is_split_among_processes_is_refused_before_anything_changes() -> None:
    model = lived(small_resnet((2, 1)), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what some releases import with it
        from torch.distributed.optim import ZeroRedundancyOptimizer
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
    loss_of(model, 0).backward()
    optimizer.step()
    graph, held = model.graph, [id(p) for p in optimizer.param_groups[0]["params"]]
    for act in (
        lambda: resize(model, "s1.0.conv1", [2, 0, 1], optimizer),
        lambda: model.apply(InsertBlock(init="zero"), "s1", optimizers=[optimizer]),
    ):
        with pytest.raises(UsageError, match=r"optimizer ZeroRedundancyOptimizer.* anew"):
            act()
        assert model.graph is graph and [id(p) for p in optimizer.param_groups[0]["params"]] == held
    loss_of(model, 1).backward()
    optimizer.step()
