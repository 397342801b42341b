"""A network without stages of its own, grown by rules that name the stages which were found in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import nasir
from nasir.journal.directory import RunDirectory
from nasir.records import RewriteRecord
from nasir.running.replay import replay_graphs
from nasir.running.verify import verify

CODE = """\
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x):
        return F.relu(x + self.norm(self.conv(x)) * self.scale)


def make(classes):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), Block(6), Block(6),
        nn.Conv2d(6, 8, 1, stride=2), nn.ReLU(), Block(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )
"""
SPEC = """\
nasir: 1
name: grown
device: cpu
input: {image: [1, 8, 8]}
network: {from: module, module: net.py:make, args: {classes: 10}}
data: {dataset: digits, batch_size: 256, validation: 0.15}
phases:
  - name: grow
    epochs: 3
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    freeze: [stage2]
    rules:
      - every: 1
        do: {insert-block: {init: zero}}
        where: {stages: [stage1, stage2], order: round_robin}
        at_most: 3
  - name: shrink
    epochs: 1
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - when: start
        do: {remove-block: {which: first}}
        where: {stages: [stage1]}
      - when: start
        do: {prune-channels: {fraction: 0.3}}
"""


@pytest.mark.slow
def test_rules_grow_and_shrink_the_stages_that_were_found(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "spec.yaml").write_text(SPEC)
    run = nasir.run(tmp_path / "spec.yaml", out=tmp_path / "run")
    assert run.graph.depths() == {"stage1": 2, "stage2": 2}
    directory = RunDirectory.open(tmp_path / "run")
    made = [record for record in directory.effective() if isinstance(record, RewriteRecord)]
    assert [(record.pass_name, record.site) for record in made][:3] == [
        ("insert-block", "stage1"), ("insert-block", "stage2"), ("remove-block", "stage1"),
    ]  # fmt: skip
    assert all(record.preserves == "exact" for record in made[:2])
    assert [graph.digest for graph in replay_graphs(directory)][-1] == run.graph.digest
    assert verify(run.path).sound and run.report.stat().st_size > 2**12
