"""A network of torchvision that a spec imports: trained while rules rewrite it, killed, resumed, searched, exported."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import warm
from small_runs import stable, weights

from nasir.journal.directory import RunDirectory
from nasir.records import CheckpointRecord, RewriteRecord

CODE = """\
from torch import nn
from torchvision.models import resnet18


def gray(classes):
    net = resnet18(num_classes=classes)
    net.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
    return net
"""
SPEC = """\
nasir: 1
name: digits-on-resnet18
seed: 1
device: cpu
input: {image: [1, 32, 32]}
network: {from: module, module: rn.py:gray, args: {classes: 10}}
data: {dataset: digits, options: {pad_to: 32}, batch_size: 64, eval_batch_size: 64, validation: 0.15}
phases:
  - name: change
    epochs: 2
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - every: 1
        do: {insert-block: {init: zero}}
        where: {stages: [layer1, layer2]}
        at_most: 3
      - every: 1
        do: {prune-channels: {fraction: 0.4}}
"""


def written(folder: Path, more: str = "") -> Path:
    (folder / "rn.py").write_text(CODE)
    (folder / "spec.yaml").write_text(SPEC + more)
    return folder / "spec.yaml"


@pytest.mark.slow
def test_a_resnet_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    spec = written(tmp_path)
    done = warm.nasir("run", str(spec), "--out", str(tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    whole = RunDirectory.open(tmp_path / "whole")
    made = [record.pass_name for record in whole.effective() if isinstance(record, RewriteRecord)]
    assert made == ["insert-block", "prune-channels"]
    killed = tmp_path / "killed"
    process = warm.Process("-m", "nasir", "run", str(spec), "--out", str(killed), stderr=tmp_path / "stderr")
    while process.poll() is None and '"kind":"checkpoint"' not in _journal(killed):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len([r for r in RunDirectory.open(killed).effective() if isinstance(r, CheckpointRecord)]) == 1
    done = warm.nasir("resume", str(killed))
    assert done.returncode == 0, done.stderr
    assert stable(RunDirectory.open(killed).effective()) == stable(whole.effective())
    assert weights(killed) == weights(whole.path)
    for command in (["verify"], ["replay"], ["report"], ["show"]):
        done = warm.nasir(*command, str(killed))
        assert done.returncode == 0, done.stderr
    file = tmp_path / "w.safetensors"
    done = warm.nasir("export", str(killed), "--to", "safetensors", "--out", str(file))
    assert done.returncode == 0 and file.stat().st_size > 2**20, done.stderr


def _journal(run: Path) -> str:
    path = run / "journal.jsonl"
    return path.read_text() if path.exists() else ""


SEARCH = """\
search:
  trials: 2
  seed: 0
  objectives: [{maximize: val.accuracy}]
"""
SMALL = """\
from torch import nn


def make(classes, width):
    layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(width, classes))
"""


@pytest.mark.slow
def test_a_search_imports_in_its_workers(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "small.py").write_text(SMALL)
    text = SPEC.replace("rn.py:gray, args: {classes: 10}", "small.py:make, args: {classes: 10, width: WIDTH}")
    text = text.replace("WIDTH", "{choose: [4, 8]}").replace("options: {pad_to: 32}, ", "").replace("32, 32", "8, 8")
    text = text[: text.index("    rules:")]
    spec = tmp_path / "search.yaml"
    spec.write_text(text + SEARCH)
    checked = warm.nasir("check", str(spec))
    assert checked.returncode == 0 and "correct as far as can be told without its network" in checked.stdout
    done = warm.nasir("search", str(spec), "--out", str(tmp_path / "study"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
