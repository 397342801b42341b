"""An epoch can be left and taken up at any step without a bit changing; evaluation disturbs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasir.backends.torch.data.in_memory import DataSource, open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.backends.torch.optimizers.named import export_state, import_state
from nasir.backends.torch.train.ema import Ema
from nasir.backends.torch.train.loop import (
    EpochResult,
    Sums,
    evaluate,
    prepare,
    step_seed,
    train_epoch,
    wants_bf16,
    wants_channels_last,
)
from nasir.errors import DataError, RunError
from nasir.training.plans import DataPlan, OptimizerPlan, SchedulePlan, TrainPlan

CPU = torch.device("cpu")
PLAN = TrainPlan(OptimizerPlan("sgd", lr=0.05, weight_decay=1e-3), precision="fp32")


def _source(**plan: Any) -> DataSource:
    made = DataPlan("synthetic", batch_size=32, augment=({"pad_crop": {"pad": 1}},), validation=32, **plan)
    return open_source(made, DataContext(Path(".")), CPU, channels_last=True)


def _model(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128, 4),
    )


def _optimizer(model: nn.Module, plan: TrainPlan) -> torch.optim.Optimizer:
    return build_optimizer(((n, p, frozenset({"decay"})) for n, p in model.named_parameters()), plan.optimizer)


def _epoch(model: nn.Module, optimizer: Any, source: Any, plan: TrainPlan, epoch: int = 0, **more: Any) -> EpochResult:
    return train_epoch(model, optimizer, source, plan, seed=3, epoch=epoch, phase_epoch=epoch, phase_epochs=4, **more)


def _after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_resuming_in_the_middle_of_an_epoch_is_bit_equal(kind: Any, precision: Any) -> None:
    plan = TrainPlan(
        OptimizerPlan(kind, lr=0.01),
        SchedulePlan("cosine", warmup=0.5),
        gradient_clip=1.0,
        label_smoothing=0.1,
        ema_decay=0.9,
        precision=precision,
    )
    source, whole = _source(), _model()
    optimizer, ema = _optimizer(whole, plan), Ema(whole, 0.9)
    _epoch(whole, optimizer, source, plan, ema=ema)
    wanted = _epoch(whole, optimizer, source, plan, epoch=1, ema=ema)

    first = _model()
    optimizer, average = _optimizer(first, plan), Ema(first, 0.9)
    _epoch(first, optimizer, source, plan, ema=average)
    part = _epoch(first, optimizer, source, plan, epoch=1, ema=average, stop=_after(3))
    assert (part.steps_done, part.finished) == (3, False)
    weights = {name: tensor.clone().contiguous() for name, tensor in first.state_dict().items()}
    state = export_state(optimizer, first.named_parameters())
    state = {name: {key: t.clone().contiguous() for key, t in values.items()} for name, values in state.items()}
    sums = json.loads(json.dumps(part.sums.to_json()))

    torch.manual_seed(999)  # a new process: other generator state, other layout of the tensors read back
    second = _model()
    second.load_state_dict(weights)
    optimizer, later = _optimizer(second, plan), Ema(second, 0.9)
    later.load(average.tensors, average.updates)
    import_state(optimizer, state, second.named_parameters())
    rest = _epoch(second, optimizer, _source(), plan, epoch=1, ema=later, start_step=3, sums=Sums.from_json(sums, CPU))
    assert rest.finished and rest.steps_done == source.steps_per_epoch
    assert rest.metrics == wanted.metrics
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
        assert torch.equal(ema.tensors[name], later.tensors[name]), name


def test_training_learns_the_synthetic_classes() -> None:
    model, source = _model(0.0), _source()
    optimizer = _optimizer(model, PLAN)
    results = [_epoch(model, optimizer, source, PLAN, epoch) for epoch in range(4)]
    assert results[-1].metrics["train.loss"] < 0.5 * results[0].metrics["train.loss"]
    assert evaluate(model, source.validation(), PLAN)["accuracy"] > 0.9


def test_metrics_are_means_over_the_examples_seen() -> None:
    model, source = _model(0.0), _source(drop_last=True)
    optimizer = _optimizer(model, TrainPlan(OptimizerPlan(lr=1e-30, momentum=0.0)))
    plan = TrainPlan(OptimizerPlan(lr=1e-30, momentum=0.0), precision="fp32")
    result = _epoch(model, optimizer, source, plan)
    prepare(model, plan)
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        model.train()
        for x, y in source.batches(0):
            logits = model(x)
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(1) == y).sum())
            count += len(y)
    assert result.metrics["train.loss"] == pytest.approx(loss / count, rel=1e-6)
    assert result.metrics["train.accuracy"] == right / count


def test_the_learning_rate_follows_the_schedule_step_by_step() -> None:
    plan = TrainPlan(OptimizerPlan(lr=1.0), SchedulePlan("staircase", at=(0.5,)), precision="fp32")
    model, source, seen = _model(), _source(), []
    optimizer = _optimizer(model, plan)

    def note() -> bool:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = None
        return False

    train_epoch(model, optimizer, source, plan, seed=0, epoch=9, phase_epoch=0, phase_epochs=1, stop=note)
    steps = source.steps_per_epoch
    assert seen == [1.0] * ((steps + 1) // 2) + [0.1] * (steps // 2)


def test_only_trainable_parameters_move_and_flags_come_back() -> None:
    model, source = _model(), _source()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.get_parameter("3.bias").requires_grad_(False)
    _epoch(model, _optimizer(model, PLAN), source, PLAN, trainable={"1.weight", "1.bias"})
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"1.weight", "1.bias"}
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["3.bias"]
    with pytest.raises(RunError, match="no parameter called nope"):
        _epoch(model, _optimizer(model, PLAN), source, PLAN, trainable={"nope"})


def test_a_diverged_loss_names_epoch_rate_and_remedy() -> None:
    plan = TrainPlan(OptimizerPlan(lr=1e20), precision="fp32")
    model = _model()
    with pytest.raises(RunError, match=r"epoch 1 is nan at learning rate 1e\+20; lower `lr`.*gradient_clip"):
        _epoch(model, _optimizer(model, plan), _source(), plan)


def test_gradient_clip_bounds_the_step() -> None:
    plan = TrainPlan(OptimizerPlan(lr=1.0, momentum=0.0), gradient_clip=1e-3, precision="fp32")
    model = _model()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    _epoch(model, _optimizer(model, plan), _source(), plan, stop=lambda: True)
    moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_evaluation_disturbs_neither_flags_nor_statistics() -> None:
    model, source = _model(), _source()
    model.train()
    model[1].eval()  # type: ignore[index,operator]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    first = evaluate(model, source.validation(), PLAN)
    assert first == evaluate(model, source.validation(), PLAN)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_evaluating_nothing_is_a_data_error() -> None:
    with pytest.raises(DataError, match="validation"):
        evaluate(_model(), iter(()), PLAN)


def test_prepare_keeps_the_parameter_objects() -> None:
    model = _model()
    before = list(model.parameters())
    prepare(model, TrainPlan())
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert before[0].is_contiguous(memory_format=torch.channels_last)


def test_auto_means_bf16_and_channels_last_for_convolutions_only() -> None:
    dense = nn.Linear(3, 2)
    assert not wants_bf16(TrainPlan(), dense, CPU) and not wants_channels_last(TrainPlan(), dense)
    assert wants_channels_last(TrainPlan(), _model())
    assert wants_bf16(TrainPlan(precision="bf16"), dense, CPU)
    assert not wants_bf16(TrainPlan(precision="fp32"), _model(), CPU)


def test_step_seeds_differ_in_every_argument() -> None:
    seeds = {step_seed(seed, epoch, step) for seed in range(4) for epoch in range(4) for step in range(4)}
    assert len(seeds) == 64 and all(0 <= seed < 2**63 for seed in seeds)
