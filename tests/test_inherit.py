"""`network: {from: run}` and `data: {classes}`: another run's network, and a part of the classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import SPEC, stable, weights, write_spec

import nasir.api
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext, FileData, Files, only_classes
from nasir.errors import CheckpointError, DataError, Preempted, RunError, SpecError
from nasir.images.decode import View
from nasir.journal.directory import RunDirectory
from nasir.records import StartRecord
from nasir.running.engine import Signals
from nasir.running.replay import replay_graphs
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.training.plans import DataPlan

FIRST = SPEC.replace("network:\n", "init: he_normal\nnetwork:\n")
CHILD = """\
nasir: 1
name: child
seed: 9
device: cpu
precision: fp32
input: {image: [3, 8, 8]}
network: {from: run, run: parent}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 96, test: 48}
  batch_size: 16
  validation: 12
phases:
  - {name: tune, epochs: 2, optimizer: {sgd: {lr: 0.01}}}
"""
TWO = CHILD.replace("run: parent}", "run: parent, classes: 2}").replace(
    "  batch_size", "  classes: [class2, class0]\n  batch_size"
)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that grew its network, in a folder of its own."""
    folder = tmp_path_factory.mktemp("parent")
    return nasir.api.run(write_spec(folder, FIRST), folder / "parent").path


def child(parent: Path, folder: Path, text: str = CHILD) -> Path:
    if not (folder / "parent").exists():
        shutil.copytree(parent, folder / "parent")
    return write_spec(folder, text)


def newest(run: Path, file: str = "model") -> dict[str, torch.Tensor]:
    step = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    return load_file(step / f"{file}.safetensors")


def start_weights(spec: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    from nasir.backends.torch.session import TorchSession

    started: dict[str, torch.Tensor] = {}
    begin = TorchSession.begin_phase

    def watched(self: TorchSession, *arguments: object, **more: object) -> object:
        if not started:
            started.update({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return begin(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchSession, "begin_phase", watched)
    nasir.api.run(spec, spec.parent / "child")
    return started


def test_a_network_goes_on_where_another_run_ended(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start_weights(child(parent, tmp_path), monkeypatch)
    last = newest(parent)
    assert started.keys() == last.keys() and all(torch.equal(started[name], last[name]) for name in started)
    run = RunDirectory.open(tmp_path / "child")
    (start,) = [record for record in run.effective() if isinstance(record, StartRecord)]
    assert start["depths"] == {"s1": 3, "s2": 3}
    assert start["inherited"]["weights"] == "last" and len(start["inherited"]["manifest"]) == 64
    assert start["inherited"]["checkpoint"].startswith("step_")
    assert len(replay_graphs(run)) == 1


def test_a_new_classifier_starts_fresh_and_the_rest_does_not(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, last = start_weights(child(parent, tmp_path, TWO), monkeypatch), newest(parent)
    assert started["fc.weight"].shape == (2, 8)
    assert all(torch.equal(started[name], last[name]) for name in started if not name.startswith("fc"))


def test_weights_may_be_fresh_by_the_initializer_of_that_run(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CHILD.replace("run: parent}", "run: parent, weights: none}")
    started, last = start_weights(child(parent, tmp_path, text), monkeypatch), newest(parent)
    assert not torch.equal(started["conv1.weight"], last["conv1.weight"])
    std = torch.cat([t.flatten() for n, t in started.items() if "s2" in n and n.endswith("conv2.weight")]).std()
    assert abs(float(std) - (2 / 72) ** 0.5) < 0.02  # He et al. 2015, fan out 9 * 8


def test_the_moving_average_is_taken_if_asked_for(parent: Path, tmp_path: Path) -> None:
    text = CHILD.replace("run: parent}", "run: parent, weights: average}")
    with pytest.raises(DataError, match="the run kept no moving average; use `weights: last`"):
        nasir.api.run(child(parent, tmp_path, text), tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_a_run_is_resumed_without_the_one_it_came_from_once_it_has_a_checkpoint(parent: Path, tmp_path: Path) -> None:
    class Soon(Signals):
        def wanted(self) -> bool:
            self.exit_code = 75
            return True

    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = nasir.api.run(child(parent, tmp_path / "whole"), tmp_path / "whole" / "child")
    with pytest.raises(Preempted):
        nasir.api.run(child(parent, tmp_path / "broken"), tmp_path / "broken" / "child", signals=Soon())
    shutil.rmtree(tmp_path / "broken" / "parent")
    done = nasir.api.resume(tmp_path / "broken" / "child")
    assert stable(done.journal) == stable(whole.journal) and weights(done.path) == weights(whole.path)


def test_before_that_it_needs_the_same_run(parent: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def listener(record: dict[str, object]) -> None:
        raise Killed

    with pytest.raises(Killed):
        nasir.api.run(child(parent, tmp_path), tmp_path / "child", listener=listener)
    steps = sorted((tmp_path / "parent" / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    kept = steps[-1].rename(tmp_path / "aside")
    with pytest.raises(RunError, match="went on since this run began from it"):
        nasir.api.resume(tmp_path / "child")
    kept.rename(steps[-1])
    assert nasir.api.resume(tmp_path / "child").metrics


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run: parent", "run: nowhere", r"network.run: .*nowhere: no run here .*; run its spec first, or correct"),
        ("[3, 8, 8]", "[1, 8, 8]", r"network.run: the network of .* takes \[3, 8, 8\], `input` is \[1, 8, 8\]"),
        ("run: parent", "run: parent, weights: best", "unknown value 'best'"),
        ("run: parent", "run: parent, model: x", "network.model: unknown key"),
        ("run: parent", "classes: 2", "network.run: is required"),
    ],
)
def test_what_cannot_be_taken_over_is_told_at_its_line(
    parent: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        build(load_spec(child(parent, tmp_path, CHILD.replace(old, new))))
    assert "tiny.yaml:7:" in str(caught.value)


def test_a_run_without_a_checkpoint_and_a_damaged_one_are_named(parent: Path, tmp_path: Path) -> None:
    spec = child(parent, tmp_path)
    for step in (tmp_path / "parent" / "checkpoints").glob("step_*"):
        file = step / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        nasir.api.run(spec, tmp_path / "child")
    shutil.rmtree(tmp_path / "parent" / "checkpoints")
    with pytest.raises(SpecError, match=r"has no checkpoint yet; wait for its first, or `weights: none`"):
        build(load_spec(spec))


def test_the_digest_does_not_depend_on_where_the_run_lies(parent: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (load_spec(child(parent, tmp_path / name)) for name in ("a", "b"))
    assert first.digest == second.digest and first.network.run != second.network.run  # type: ignore[union-attr]


# -- classes


def test_classes_are_chosen_and_numbered_as_listed(tmp_path: Path) -> None:
    options = {"classes": 4, "size": 8, "train": 80, "test": 40}
    plans = [DataPlan("synthetic", options, classes=c) for c in (None, ("class3", "class1"))]
    whole, part = (open_source(plan, DataContext(tmp_path), torch.device("cpu")) for plan in plans)
    assert part.class_names == ("class3", "class1") and part.train_size == 40
    labels = torch.cat([y for _, y in whole.train_plain()])
    chosen = torch.cat([y for _, y in part.train_plain()])
    assert torch.equal(chosen, torch.tensor([{3: 0, 1: 1}[int(y)] for y in labels if int(y) in (3, 1)]))
    assert {int(y) for _, batch in part.test() for y in batch} == {0, 1}


def test_classes_of_streamed_files() -> None:
    files = Files(("a", "b", "c", "d"), np.array([0, 1, 2, 1]))
    raw = FileData(files, files, ("x", "y", "z"), View((4, 4)))
    part = only_classes(raw, ("y", "x"), "image_folder")
    assert isinstance(part, FileData) and part.class_names == ("y", "x")
    assert part.train.paths == ("a", "b", "d") and part.train.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("class0", "clas1"), "there is no class 'clas1'; did you mean 'class1'?"),
        (("class0", "x"), "there is no class 'x'; its classes are class0, class1, class2, class3"),
    ],
)
def test_unknown_classes_are_named(classes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    plan = DataPlan("synthetic", {"classes": 4}, classes=classes)
    with pytest.raises(DataError) as caught:
        open_source(plan, DataContext(tmp_path), torch.device("cpu"))
    assert message in str(caught.value)


def test_a_class_is_named_once() -> None:
    with pytest.raises(ValueError, match="classes: one is named twice among a, a; name each once"):
        DataPlan("synthetic", classes=("a", "a"))
