"""MorphNet as shipped: seed, shrink, expand to the budget of the seed, train anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import stable, weights

import nasir
from nasir.journal.directory import RunDirectory
from nasir.policy.plans import Moment
from nasir.records import RewriteRecord
from nasir.running.replay import replay_graphs
from nasir.spec import load_spec
from nasir.spec.network import build

SPECS = sorted(path for path in Path("specs/morphnet").glob("*.yaml") if not path.stem.endswith("_fixed"))
TINY = """\
nasir: 1
name: tiny-morphnet
seed: 0
device: cpu
precision: fp32
input: {{image: [3, 8, 8]}}
network:
  - conv_bn_relu: {{out: 8}}
  - stage: {{name: s1, block: basic, out: 8, depth: 1}}
  - stage: {{name: s2, block: basic, out: 16, depth: 1, stride: 2}}
  - classifier: {{classes: 3}}
data:
  dataset: synthetic
  options: {{classes: 3, size: 8, channels: 3, train: 128, test: 48}}
  batch_size: 16
  validation: 24
phases:
  - name: seed
    epochs: 2
    optimizer: {{sgd: {{lr: 0.1, momentum: 0.9}}}}
    regularize:
      - {{{penalty}: {{strength: {strength}, resource: flops, threshold: {threshold}}}}}
  - name: retrain
    epochs: 2
    reset_optimizer: true
    rules:
      - {{when: start, do: {{shrink-widths: {{score: {score}, threshold: {threshold}}}}}}}
      - {{when: start, do: {{expand-to-budget: {{budget: {budget}}}}}}}
      - {{when: start, do: reset-weights}}
"""
BUDGET = 370_000  # of multiply-accumulates


def tiny(folder: Path, score: str = "norm_scale") -> Path:
    path = folder / "tiny.yaml"
    kind, strength, threshold = ("gamma", 5e-6, 0.3) if score == "norm_scale" else ("group-lasso", 5e-5, 0.1)
    path.write_text(TINY.format(penalty=kind, strength=strength, threshold=threshold, score=score, budget=BUDGET))
    return path


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_builds_and_returns_to_the_cost_of_its_seed(path: Path) -> None:
    spec = load_spec(path)
    seed, retrain = spec.phases
    budget = retrain.rules[1].options["budget"]
    assert build(spec).cost().macs == budget == 40_813_184
    [penalty] = seed.training(spec).penalties
    assert penalty.strength == pytest.approx(1 / (2 * budget), rel=0.05)
    names = [rule.plan("r").pass_name for rule in retrain.rules]
    assert names == ["shrink-widths", "expand-to-budget", "reset-weights"]
    assert all(rule.plan("r").when == Moment("start") for rule in retrain.rules)
    assert retrain.rules[0].options["threshold"] == penalty.threshold


@pytest.mark.parametrize("score", ["norm_scale", pytest.param("group_lasso", marks=pytest.mark.slow)])
def test_a_small_run_shrinks_expands_and_replays_bit_for_bit(score: str, tmp_path: Path) -> None:
    run = nasir.run(tiny(tmp_path, score), out=tmp_path / "run")
    rewrites = [record for record in run.journal if isinstance(record, RewriteRecord)]
    assert [record.pass_name for record in rewrites] == ["shrink-widths", "expand-to-budget", "reset-weights"]
    start, shrunk, expanded, _ = replay_graphs(RunDirectory.open(tmp_path / "run"))
    assert shrunk.cost().macs < start.cost().macs and shrunk.cost().macs < expanded.cost().macs <= BUDGET
    assert run.graph.depths() == expanded.depths()
    again = nasir.run(tiny(tmp_path, score), out=tmp_path / "again")
    assert stable(run.journal) == stable(again.journal)
    assert weights(tmp_path / "run") == weights(tmp_path / "again")
