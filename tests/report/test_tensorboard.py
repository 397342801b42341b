"""TensorBoard events hold the numbers of the journal."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import made

from nasir.report.tensorboard import TensorBoard


def test_events_hold_metrics_costs_and_depths(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = TensorBoard(tmp_path)
    facts = {"lr": 0.1, "params": 7, "macs": 9, "depths": {"s1": 2}}
    metrics = {"val.accuracy": 0.5, "train.loss": 1.25}
    events.record(made("epoch", {"time": 1.0, "epoch": 3, "metrics": metrics, **facts}))
    events.record(made("phase", {"time": 1.0}))
    events.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    values = {tag: (event.step, event.value) for tag in read.Tags()["scalars"] for event in read.Scalars(tag)}
    assert values["accuracy/val"] == (3, 0.5) and values["depth/s1"] == (3, 2.0) and values["network/macs"] == (3, 9.0)
