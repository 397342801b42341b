"""Routed networks in runs: made by a rule, trained, evaluated, killed and resumed."""

from __future__ import annotations

from pathlib import Path

from small_runs import HEAD, run_and_resumed

from nasir.records import RewriteRecord

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


def test_a_run_inserts_routers_exactly_and_goes_on_after_a_kill_bit_for_bit(tmp_path: Path) -> None:
    records = run_and_resumed(ROUTED, tmp_path)
    made = [record for record in records if isinstance(record, RewriteRecord)]
    assert [record.pass_name for record in made] == ["insert-router", "insert-router", "remove-block"]
    assert [record.delta_logits for record in made[:2]] == [0.0, 0.0]
