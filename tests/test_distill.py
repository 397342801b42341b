"""Distillation: what the term is, which teacher it has, and that a killed run goes on with the same one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from grown import pyramid
from safetensors.numpy import load_file
from small_runs import HEAD, SPEC, run_and_resumed, write_spec
from torch.nn import functional

import nasir.api
from nasir.backends.torch import Model
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.penalties.distill import Distillation
from nasir.backends.torch.penalties.forward import ForwardPass
from nasir.errors import OptionError, SpecError
from nasir.records import EpochRecord, RewriteRecord
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.training import PenaltyPlan

SGD = "    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}\n"
TWO = f"""\
phases:
  - name: first
    epochs: 1
    ema: {{decay: 0.5}}
{SGD}\
  - name: taught
    epochs: 2
    ema: {{decay: 0.5}}
{SGD}\
    regularize: [{{distill: {{strength: 0.7, teacher: TEACHER, temperature: 2}}}}]
    rules:
      - when: {{at: [1]}}
        do: {{insert-block: {{init: gaussian}}}}
        where: {{stages: [s1]}}
"""


def forward(model: Model, teacher: Model, count: int = 6) -> ForwardPass:
    x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(count) % 3
    return ForwardPass(x, y, model(x), {"previous": teacher.eval()}, torch.autocast("cpu", enabled=False))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_value_is_that_of_the_definition_and_its_gradient_too(temperature: float) -> None:
    graph = pyramid((1, 1), 4, size=8, classes=3)
    model, teacher = (Model.from_graph(graph, seed, dtype=torch.float64) for seed in (0, 1))
    given = forward(model, teacher)
    plan = PenaltyPlan("distill", 0.5, temperature=temperature)
    value = Distillation(graph, plan.options, torch.device("cpu")).loss(given)  # type: ignore[arg-type]
    assert value is not None
    p, q = (torch.softmax(logits / temperature, 1).detach().numpy() for logits in (teacher(given.images), given.logits))
    assert value.item() == pytest.approx(0.5 * temperature**2 * (p * np.log(p / q)).sum() / 6, rel=1e-12)
    (slope,) = torch.autograd.grad(value, given.logits)
    np.testing.assert_allclose(slope.numpy(), 0.5 * temperature * (q - p) / 6, rtol=1e-12, atol=1e-15)


def test_separate_branches_are_each_taught() -> None:
    graph = pyramid((1, 1), 4, size=8, classes=3)
    teacher = Model.from_graph(graph, 1, dtype=torch.float64)
    given = forward(teacher, teacher)
    term = Distillation(graph, PenaltyPlan("distill", 1.0).options, torch.device("cpu"))  # type: ignore[arg-type]
    branches = ForwardPass(
        given.images, given.labels, torch.randn(6, 2, 3, dtype=torch.float64), given.teachers, given.computing
    )
    each = [
        term.loss(ForwardPass(given.images, given.labels, one, given.teachers, given.computing))
        for one in branches.logits.unbind(1)
    ]
    assert term.loss(branches).item() == pytest.approx(sum(one.item() for one in each), rel=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("teacher", ["previous", "initial", "run"])
def test_a_run_is_taught_alike_after_a_kill_bit_for_bit(teacher: str, tmp_path: Path) -> None:
    name = teacher
    if teacher == "run":
        name = str(nasir.api.run(write_spec(tmp_path, SPEC), tmp_path / "parent").path)
    records = run_and_resumed(HEAD + TWO.replace("TEACHER", name), tmp_path, EpochRecord)
    epochs = [record for record in records if isinstance(record, EpochRecord)]
    assert [("train.penalty" in record.metrics) for record in epochs] == [False, True, True]
    assert any(isinstance(record, RewriteRecord) for record in records)


def test_the_previous_teacher_is_the_network_as_it_was_evaluated_before_the_phase(tmp_path: Path) -> None:
    one = nasir.api.run(HEAD + TWO.partition("  - name: taught")[0], tmp_path / "one")
    step = max(one.path.glob("checkpoints/step_*"), key=lambda path: int(path.name[5:]))
    wanted = TorchBackend().stored_weights(step, average=True).weights
    two = nasir.api.run(HEAD + TWO.replace("TEACHER", "previous"), tmp_path / "two")
    step = max(two.path.glob("checkpoints/step_*"), key=lambda path: int(path.name[5:]))
    kept = load_file(step / "teacher_0.safetensors")
    assert kept.keys() == wanted.keys()
    for label, array in kept.items():
        np.testing.assert_array_equal(array, wanted[label])


def test_a_network_that_is_its_own_teacher_starts_without_a_penalty() -> None:
    model = Model.from_graph(pyramid((1, 1), 4, size=8, classes=3), dtype=torch.float64).eval()
    given = forward(model, model)
    term = Distillation(model.graph, PenaltyPlan("distill", 1.0).options, torch.device("cpu"))  # type: ignore[arg-type]
    assert term.loss(given).item() == pytest.approx(0.0, abs=1e-15)  # type: ignore[union-attr]
    assert functional.cross_entropy(given.logits, given.labels).item() > 0.1


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("nowhere", "nowhere"),
        ("parent", "it gives"),
    ],
)
def test_a_teacher_that_cannot_teach_is_told_at_its_line(teacher: str, says: str, tmp_path: Path) -> None:
    if teacher == "parent":
        text = HEAD.replace("classes: 3", "classes: 5") + "phases:\n  - name: a\n    epochs: 1\n" + SGD
        nasir.api.run(text, tmp_path / "parent")
    path = write_spec(tmp_path, HEAD + TWO.replace("TEACHER", teacher))
    with pytest.raises(SpecError, match=says) as told:
        build(load_spec(path))
    assert f"{path.name}:" in str(told.value) and "teacher" in str(told.value)


def test_options_that_do_not_fit_are_refused() -> None:
    for options in ({"temperature": 0.0}, {"teacher": ""}, {"strength": -1.0}):
        with pytest.raises(OptionError):
            PenaltyPlan("distill", **{"strength": 1.0, **options})
