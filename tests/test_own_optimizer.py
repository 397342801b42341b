"""An optimizer in a plugin file: runs that grow and prune, are resumed bit for bit, and search over its options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_optimizers import FILE, FORGETFUL, LION, RADAM
from small_runs import SPEC, stable, weights, write_spec

import nasir
from nasir.cli.main import main
from nasir.errors import NasirError, SpecError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.records import CheckpointRecord, Record
from nasir.spec import load_search


def spec_with(folder: Path, name: str, options: str, code: str, more: str = "") -> Path:
    """The tiny spec, trained by an optimizer of a plugin file."""
    (folder / FILE).write_text(code)
    text = SPEC.replace("sgd: {lr: 0.05, momentum: 0.9, weight_decay: 1.0e-4}", f"{name}: {options}")
    return write_spec(folder, text + f"plugins: [./{FILE}]\n" + more)


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("radam", "{lr: 0.02, weight_decay: 1.0e-4}", RADAM),
        pytest.param("lion", "{lr: 0.001, betas: [0.9, 0.95]}", LION, marks=pytest.mark.slow),
    ],
)
def test_a_growing_run_resumes_bit_for_bit(name: str, options: str, code: str, tmp_path: Path) -> None:
    assert len(code.splitlines()) <= (25 if name == "radam" else 45)
    spec = spec_with(tmp_path, name, options, code)
    whole = nasir.run(spec, out=tmp_path / "whole")
    assert whole.graph.depths() == {"s1": 3, "s2": 3} and whole.metrics["test.accuracy"] > 0.2

    class Stopped(Exception):
        pass

    checkpoints = []

    def listen(record: Record) -> None:
        if isinstance(record, CheckpointRecord):
            checkpoints.append(record)
            if len(checkpoints) == 4:
                raise Stopped

    with pytest.raises(Stopped):
        nasir.run(spec, out=tmp_path / "broken", listener=listen)
    nasir.resume(tmp_path / "broken")
    assert stable(RunDirectory.open(tmp_path / "broken").effective()) == stable(
        RunDirectory.open(tmp_path / "whole").effective()
    )
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_state_that_nothing_says_the_kind_of_is_refused_before_a_rewrite(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, "forgetful", "{lr: 0.001}", FORGETFUL)
    with pytest.raises(UsageError, match=r"optimizer forgetful: nothing says what its state 'ema' holds"):
        nasir.run(spec, out=tmp_path / "run")
    kinds = {json.loads(line)["kind"] for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()}
    assert "rewrite" not in kinds


def test_unknown_options_of_it_are_told_when_its_file_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unseen = RADAM.replace('"radam"', '"radam-unseen"')
    spec = spec_with(tmp_path, "radam-unseen", "{lr: 0.02, beta: 0.9}", unseen)
    assert main(["check", str(spec)]) == 0
    assert "unknown optimizer 'radam-unseen' here; a run must find it in the plugins" in capsys.readouterr().err
    with pytest.raises(
        SpecError, match=r"optimizer\.radam-unseen\.beta: unknown option of radam-unseen; did you mean 'betas'\?"
    ):
        nasir.run(spec, out=tmp_path / "run")


def test_a_spec_says_the_same_before_and_after_its_plugin_is_imported(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, "radam-later", "{lr: 0.02}", RADAM.replace('"radam"', '"radam-later"'))
    before = nasir.load_spec(spec)
    nasir.import_plugins(before)
    after = nasir.load_spec(spec)
    assert after.digest == before.digest
    assert after.phases[0].optimizer_plan().betas == (0.9, 0.999)


def test_its_options_can_be_searched(tmp_path: Path) -> None:
    options = "{lr: {choose: {float: [0.001, 0.1], log: true}, name: rate}, betas: {choose: [[0.9, 0.99], [0.8, 0.9]]}}"
    spec = spec_with(tmp_path, "radam", options, RADAM, "search: {trials: 2}\n")
    text = spec.read_text()
    head, _, tail = text.partition("  - name: finetune")
    spec.write_text(head + "  - name: finetune" + tail.replace(options, "{lr: 0.01}"))
    search = load_search(spec)
    point = dict(search.space.base()) | {"rate": 0.05}
    made = search.trial(point)
    nasir.import_plugins(made)
    plan = made.phases[0].optimizer_plan()
    assert (plan.lr, plan.betas) == (0.05, (0.9, 0.99))


BROKEN = '''
from dataclasses import dataclass
import torch
from nasir.registry import optimizers
from nasir.training import Optimizer

class Failing(torch.optim.SGD):
    def __init__(self, groups, lr):
        raise TypeError("not today")

@optimizers.register("failing-NAME")
@dataclass(frozen=True)
class FailingSgd(Optimizer):
    """Cannot be made."""
    factory = FACTORY
'''


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Failing", r"raised TypeError: not today"),
        ("'nowhere.to.be.found:Sgd'", r"raised ModuleNotFoundError: No module named 'nowhere'"),
        ("'torch.optim:Nowhere'", r"raised AttributeError"),
        ("torch.optim.LBFGS", r"raised (TypeError|ValueError)"),
        ("staticmethod(lambda groups, lr: None)", r"made None, which is no torch.optim.Optimizer"),
        ("lambda groups, lr: None", r"made None, which is no torch.optim.Optimizer"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_named(factory: str, message: str, tmp_path: Path) -> None:
    name = f"failing-{len(factory)}"  # a name belongs to one file
    code = BROKEN.replace("failing-NAME", name).replace("FACTORY", factory)
    spec = spec_with(tmp_path, name, "{lr: 0.001}", code)
    with pytest.raises(NasirError, match=rf"optimizer {name}[ :].*{message}"):
        nasir.run(spec, out=tmp_path / "run")


UNSTEADY = '''
from dataclasses import dataclass
import torch
from nasir.registry import optimizers
from nasir.training import Optimizer

class Unsteady(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == STEPS:
            raise RAISED

def unsteady(groups, lr):
    return Unsteady(groups, lr=lr)

@optimizers.register("unsteady-NAME")
@dataclass(frozen=True)
class UnsteadySgd(Optimizer):
    """Fails at a step."""
    factory = unsteady
'''


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            'ValueError("no more")',
            r"optimizer unsteady-\d+ \(.*own\.py:\d+\) raised ValueError: no more; mend its `step`",
        ),
        ("KeyError", r"optimizer unsteady-\d+ \(.*own\.py:\d+\) raised KeyError; mend its `step`"),
        ("MemoryError", r"a training step of .* not enough memory"),
        ('RuntimeError("DefaultCPUAllocator: not enough memory")', r"a training step of .* not enough memory"),
    ],
)
def test_a_step_that_fails_is_told_with_the_optimizer_and_the_epoch(raised: str, message: str, tmp_path: Path) -> None:
    name = f"unsteady-{len(raised)}"
    code = UNSTEADY.replace("unsteady-NAME", name).replace("RAISED", raised).replace("STEPS", "3")
    spec = spec_with(tmp_path, name, "{lr: 0.001}", code)
    with pytest.raises(NasirError, match=message) as caught:
        nasir.run(spec, out=tmp_path / "run")
    if "mend" in message:
        assert caught.value.__notes__ == ["in epoch 1, of phase 'grow'"]
