"""Small runs for tests: a spec that grows a tiny network on generated images in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nasir.api
from nasir.journal.directory import RunDirectory
from nasir.records import Record, RewriteRecord
from nasir.running.engine import Signals
from nasir.running.replay import compare

SPEC = """\
nasir: 1
name: tiny
seed: 3
device: cpu
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - stage: {name: s2, block: basic, out: 8, depth: 1, stride: 2}
  - classifier: {classes: 3}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 96, test: 48}
  batch_size: 16
  augment: [{pad_crop: {pad: 1}}, hflip]
  validation: 24
precision: fp32
phases:
  - name: grow
    optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 1.0e-4}}
    ema: {decay: 0.9}
    rules:
      - every: 1
        do: {insert-block: {init: gaussian}}
        where: {stages: [s1, s2]}
        at_most: 3
    until: all_frozen
  - name: finetune
    epochs: 2
    optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 1.0e-4}}
    schedule: {cosine: {}}
    reset_optimizer: false
"""
HEAD = SPEC.partition("phases:")[0]
"""All of it but the phases."""

STABLE = ("phase", "epoch", "decision", "rewrite", "declined", "end")
VOLATILE = ("n", "time", "seconds", "cpu_seconds")


class After(Signals):
    """Asks to stop at the n-th time it is looked at."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def wanted(self) -> bool:
        self.calls -= 1
        self.exit_code = 75 if self.calls <= 0 else 0
        return self.exit_code != 0


class Killed(BaseException):
    """Ends a run as a kill would: no checkpoint is written, nothing is tidied up."""


def killed_and_resumed(spec: str | Path, folder: Path, ordinal: int) -> nasir.api.Run:
    """The run of a spec that was killed once it had written the record of an ordinal, and gone on with."""

    def listener(record: Record) -> None:
        if record.n == ordinal:
            raise Killed

    with pytest.raises(Killed):
        nasir.api.run(spec, folder, listener=listener)
    return nasir.api.resume(folder)


def run_and_resumed(spec: str, folder: Path, after: type[Record] = RewriteRecord) -> list[Record]:
    """The journal of a run, which one that is killed after its last record `after` and gone on with equals bit for
    bit."""
    run = nasir.api.run(spec, folder / "run")
    last = [record for record in run.journal if isinstance(record, after)][-1]
    resumed = killed_and_resumed(spec, folder / "killed", last.n)
    assert compare(run.journal, resumed.journal) == []
    assert weights(run.path) == weights(resumed.path)
    return list(run.journal)


def write_spec(folder: Path, text: str = SPEC) -> Path:
    """The spec as a file."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def stable(records: Any) -> list[dict[str, Any]]:
    """Journal records without what may differ between two equal runs."""
    return [
        {key: value for key, value in record.items() if key not in VOLATILE}
        for record in records
        if record.kind in STABLE
    ]


def weights(run: Path) -> bytes:
    """The bytes of the newest checkpoint's weights."""
    newest = RunDirectory(run).checkpoint(RunDirectory(run).checkpoint_steps()[-1])
    return (newest / "model.safetensors").read_bytes() + (newest / "optimizer.safetensors").read_bytes()
