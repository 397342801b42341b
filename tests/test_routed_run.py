"""Routed networks in runs: made by a rule, trained, evaluated, killed and resumed."""

from __future__ import annotations

from pathlib import Path

from small_runs import HEAD, run_and_resumed

import nasir.api
from nasir.records import EpochRecord, RewriteRecord

ROUTED = (
    HEAD.replace("depth: 1", "depth: 3")
    + """\
phases:
  - name: static
    epochs: 1
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
  - name: routed
    epochs: 2
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    ema: {decay: 0.9}
    rules:
      - when: start
        do: {insert-router: {actions: [skip, reuse, exit], noise: gumbel}}
        where: {stages: [s1, s2], order: all}
      - when: {at: [1]}
        do: remove-block
        where: {stages: [s1]}
"""
)

TERMS = """\
    regularize:
      - expected-macs: {strength: 0.5, target: 0.5}
      - distill: {strength: 1.0}
"""


def test_a_run_inserts_routers_exactly_and_goes_on_after_a_kill_bit_for_bit(tmp_path: Path) -> None:
    records = run_and_resumed(ROUTED, tmp_path)
    made = [record for record in records if isinstance(record, RewriteRecord)]
    assert [record.pass_name for record in made] == ["insert-router", "insert-router", "remove-block"]
    assert [record.delta_logits for record in made[:2]] == [0.0, 0.0]


def test_epochs_of_a_routed_network_tell_the_routes_and_what_they_cost(tmp_path: Path) -> None:
    text = ROUTED.replace("    ema: {decay: 0.9}\n", TERMS).partition("      - when: {at")[0]
    epochs = [record for record in nasir.api.run(text, tmp_path / "run").journal if isinstance(record, EpochRecord)]
    assert epochs[0].executed_macs is None and not epochs[0].routes
    for record in epochs[1:]:
        assert 0 < record.executed_macs <= record.macs
        assert all(0.0 <= share <= 1.0 for shares in record.routes.values() for share in shares)
        assert {"s1.0.route", "s1.exit_0.route", "s2.2.route"} <= record.routes.keys()
        assert record.metrics["train.penalty"] > 0.0
