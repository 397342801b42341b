"""Phases whose rules grow, prune, split, merge, freeze and remove in turn: they run to the end, and resume alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import HEAD, run_and_resumed

from nasir.records import DecisionRecord, DeclinedRecord, EpochRecord, Record, RewriteRecord

SGD = "    optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}}\n"
MIXED = f"""\
phases:
  - name: both
    epochs: 7
{SGD}\
    rules:
      - every: 2 epochs
        do: {{insert-block: {{init: gaussian}}}}
        where: {{stages: [s1, s2], order: round_robin}}
        at_most: 3
      - every: 2 epochs
        do: {{prune-channels: {{fraction: 0.25}}}}
      - every: 3 epochs
        do: {{remove-block: {{which: last}}}}
        where: {{stages: [s1, s2], order: round_robin}}
  - name: split
    epochs: 6
    reset_optimizer: true
    rules:
      - when: start
        do: {{split-branches: {{branches: 2}}}}
        where: {{sites: [s2]}}
      - every: 2 epochs
        do: {{insert-block: {{init: zero}}}}
        where: {{order: all}}
      - when: {{at: [3]}}
        do: freeze
        where: {{stages: [s1]}}
      - when: {{at: [5]}}
        do: unfreeze
        where: {{stages: [s1]}}
  - name: fine
    epochs: 1
"""
SPLIT_WHILE_GROWING = f"""\
phases:
  - name: grow
    epochs: 6
{SGD}\
    rules:
      - every: 2 epochs
        do: {{insert-block: {{init: gaussian}}}}
        where: {{stages: [s1, s2]}}
        freeze: {{plateau: {{metric: val.accuracy, window: 2 epochs, less_than: 0.99}}}}
      - when: {{at: [3]}}
        do: {{split-branches: {{branches: 2}}}}
        where: {{sites: [s2]}}
      - every: 3 epochs
        do: {{prune-channels: {{fraction: 0.25}}}}
"""
SETTLING = f"""\
phases:
  - name: grow
    epochs: 4
    ema: {{decay: 0.98}}
{SGD}\
    rules:
      - when: {{at: [3]}}
        do: {{insert-block: {{init: adam, tolerance: 0.0, settle_lr: 0.01}}}}
        where: {{stages: [s2]}}
"""


def run_and_resume(phases: str, folder: Path) -> list[Record]:
    """The journal of a run, which one that is killed after its last rewrite and gone on with equals bit for bit."""
    return run_and_resumed(HEAD + phases, folder)


def acted(records: list[Record]) -> list[tuple[int, str, str]]:
    """Epoch, pass and site of each rewrite."""
    return [(record.epoch, record.pass_name, record.site) for record in records if isinstance(record, RewriteRecord)]


@pytest.mark.slow
def test_growth_pruning_and_removal_take_turns_and_a_split_network_grows_in_its_branches(tmp_path: Path) -> None:
    records = run_and_resume(MIXED, tmp_path)
    assert acted(records) == [
        (2, "insert-block", "s1"),
        (2, "prune-channels", "network"),
        (3, "remove-block", "s1"),
        (4, "insert-block", "s2"),
        (4, "prune-channels", "network"),
        (6, "insert-block", "s1"),
        (6, "prune-channels", "network"),
        (6, "remove-block", "s2"),
        (7, "split-branches", "s2"),
        *[(9, "insert-block", stage) for stage in ("s1", "branches.0.s2", "branches.1.s2")],
        (10, "freeze", "s1"),
        *[(11, "insert-block", stage) for stage in ("s1", "branches.0.s2", "branches.1.s2")],
        (12, "unfreeze", "s1"),
    ]
    assert not any(isinstance(record, DeclinedRecord) for record in records)


def test_a_split_within_a_phase_that_grows_prunes_and_freezes(tmp_path: Path) -> None:
    records = run_and_resume(SPLIT_WHILE_GROWING, tmp_path)
    assert (3, "split-branches", "s2") in acted(records)
    grown = [site for _, name, site in acted(records) if name == "insert-block"]
    assert grown == ["s1", "branches.0.s2"]
    frozen = [record.site for record in records if isinstance(record, DecisionRecord) and record.action == "freeze"]
    assert frozen == ["s1", "branches.0.s2"]


@pytest.mark.parametrize("phases", [SETTLING, SETTLING.replace("    ema: {decay: 0.98}\n", "")], ids=["ema", "raw"])
def test_what_settles_is_as_good_on_average_as_it_is(phases: str, tmp_path: Path) -> None:
    records = run_and_resume(phases, tmp_path)
    (rewrite,) = [record for record in records if isinstance(record, RewriteRecord)]
    assert rewrite.settle is not None and rewrite.settle["train.accuracy"]
    values = [record.metrics["val.accuracy"] for record in records if isinstance(record, EpochRecord)]
    # a block that entered the average as it was drawn would spoil it
    assert values[3] >= values[2] - 0.1
