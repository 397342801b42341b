"""ResBuilder as shipped: its specs say what the released code does, and small runs go through all its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import stable, weights

import nasir
from nasir.blocks.init import GLOROT
from nasir.journal.directory import RunDirectory
from nasir.passes.morph_widths import flops_of
from nasir.policy.plans import Moment
from nasir.running.replay import replay_graphs
from nasir.spec import load_spec
from nasir.spec.network import build, initial_plan

SPECS = sorted(path for path in Path("specs/resbuilder").glob("*.yaml") if not path.stem.endswith("_fixed"))
TARGETS = {"high": 1e9, "middle": 1e8, "low": 1e7}

TINY = """\
nasir: 1
name: tiny-resbuilder
seed: {seed}
device: cpu
precision: fp32
input: {{image: [3, 8, 8]}}
network:
  - batch_norm: {{label: stem.bn, eps: 1.0e-3, momentum: 0.01}}
  - conv: {{label: stem.conv, out: 4, kernel: 3, bias: true}}
  - relu: {{label: stem.relu}}
  - max_pool: {{label: pool1}}
  - max_pool: {{label: pool2}}
  - classifier: {{classes: 3}}
init: glorot_uniform
data:
  dataset: synthetic
  options: {{classes: 3, size: 8, channels: 3, train: 96, test: 48}}
  batch_size: 16
  validation: 24
phases:
  - repeat: 2
    phases:
      - name: scratch
        epochs: 1
        optimizer: {{adam: {{lr: 1.0e-3}}}}
        reset_optimizer: true
        regularize:
          - {{layer-lasso: {{strength: 1.0e-4, on: blocks}}}}
          - {{l2: {{strength: 1.0e-5}}}}
          - {{group-lasso: {{strength: 1.0e-6, resource: flops, threshold: 0.01}}}}
        rules:
          - {{when: start, do: {{morph-widths: {{flops: 4.0e+5{morph}}}}}}}
          - {{when: end, do: {{remove-weak-blocks: {remove}}}}}
      - name: first
        epochs: 1
        optimizer: {{adam: {{lr: 1.0e-3}}}}
        reset_optimizer: true
        rules:
          - {{when: start, do: {{insert-random-block: {{sigma: 1.0e-4}}}}}}
          - {{when: end, do: {{remove-weak-blocks: {remove}}}}}
      - name: second
        epochs: 1
        optimizer: {{adam: {{lr: 1.0e-3}}}}
        reset_optimizer: true
        rules:
          - {{when: start, do: {{insert-random-block: {{init: default}}}}}}
          - {{when: end, do: {{remove-weak-blocks: {remove}}}}}
"""


def tiny(folder: Path, seed: int = 0, morph: str = "", remove: str = "{threshold: 0.02, guard: null}") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(seed=seed, morph=morph, remove=remove))
    return path


# -- the specs


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_builds_and_has_the_steps_of_a_cycle(path: Path) -> None:
    spec = load_spec(path)
    assert build(spec).cost().params > 0
    cycles = 4 if path.stem == "cifar10_cpu" else 7
    phases = [phase.plan() for phase in spec.phases]
    assert [phase.name for phase in phases[:5]] == ["scratch.1", "insert1.1", "insert2.1", "insert3.1", "scratch.2"]
    assert len(phases) == 4 * cycles + (path.stem == "cifar10_cpu")
    for index, phase in enumerate(phases[: 4 * cycles]):
        first, last = phase.rules
        assert first.pass_name == ("insert-random-block" if index % 4 else "morph-widths")
        assert last.pass_name == "remove-weak-blocks"
        assert (first.when, last.when) == (Moment("start"), Moment("end"))


@pytest.mark.parametrize("path", [path for path in SPECS if path.stem != "cifar10_cpu"], ids=lambda path: path.stem)
def test_defaults_are_those_of_the_released_code(path: Path) -> None:
    spec = load_spec(path)
    paper = path.stem == "empty_paper"
    for phase in spec.phases:
        train = phase.training(spec)
        assert (phase.epochs, train.optimizer.kind, train.optimizer.lr) == (20, "adam", 1e-3)
        assert (train.batch_size, train.reset_optimizer, train.schedule.kind) == (128, True, "constant")
        kinds = {penalty.kind: penalty for penalty in train.penalties}
        assert {kind: penalty.strength for kind, penalty in kinds.items()} == {
            "layer-lasso": 1e-8,
            "l2": 1e-5,
            "group-lasso": 1e-7,
        }
        assert kinds["layer-lasso"].on == ("blocks" if paper else "convs")
        assert (kinds["group-lasso"].resource, kinds["group-lasso"].threshold) == ("flops", 0.01)
    assert (spec.data.validation, spec.data.seed, spec.init) == (0.2, 42, "glorot_uniform")
    widths = spec.phases[0].rules[0].options
    assert widths["flops"] == TARGETS.get(path.stem.split("_")[1], 1e9)
    assert widths.get("width_step", "rescratch") == ("transfer" if paper else "rescratch")
    assert spec.phases[1].rules[0].options["init"] == ("near_zero" if paper else "default")
    assert spec.phases[1].rules[0].options.get("width", "stream") == ("stream" if paper else "last_conv")
    assert spec.phases[1].rules[1].options.get("score", "mean") == ("sum" if paper else "mean")


def test_the_resnet18_of_the_released_generator() -> None:
    spec = load_spec("specs/resbuilder/resnet18_high.yaml")
    graph = build(spec)
    assert graph.cost().params == 11_873_544
    assert graph.depths() == {"s1": 2, "s2": 2, "s3": 2, "s4": 2}
    norms = [node for node in graph.nodes.values() if node.op == "batch_norm"]
    convolutions = [node for node in graph.nodes.values() if node.op == "conv2d"]
    assert all((norm.attrs["eps"], norm.attrs["momentum"]) == (1e-3, 0.01) for norm in norms)
    assert len(norms) == 17 and len(convolutions) == 20  # three of them are shortcuts, which have no norm
    assert all(conv.attrs["bias"] for conv in convolutions)
    sources = initial_plan(graph, spec).sources
    kernels = [key for key in sources if key.slot == "weight" and graph.nodes[key.node].op in ("conv2d", "linear")]
    assert len(kernels) == 22 and all(sources[key] == GLOROT for key in kernels)


# -- runs


def of(run: Any, kind: str, name: str) -> list[dict[str, Any]]:
    return [record for record in run.journal if record.kind == kind and record.pass_name == name]


def test_a_small_run_takes_all_steps_and_replays_bit_for_bit(tmp_path: Path) -> None:
    run = nasir.run(tiny(tmp_path), out=tmp_path / "run")
    inserted = of(run, "rewrite", "insert-random-block")
    assert len(inserted) == 4 and all(len(record.added) == 1 for record in inserted)
    assert [record.delta_logits < 0.05 for record in inserted] == [True, False] * 2  # near zero, or like any layer
    [early], [widths] = of(run, "declined", "morph-widths"), of(run, "rewrite", "morph-widths")
    assert "not trained yet" in early["reason"] and early["phase"] == "scratch.1"
    assert widths["phase"] == "scratch.2" and widths["noted"]["widths"]["stem.conv"][0] == 4
    removals = [*of(run, "rewrite", "remove-weak-blocks"), *of(run, "declined", "remove-weak-blocks")]
    assert len(removals) == 6 and all("scores" in record.noted for record in removals)
    graphs = replay_graphs(RunDirectory.open(tmp_path / "run"))
    assert graphs[-1] == run.graph
    again = nasir.run(tiny(tmp_path), out=tmp_path / "again")
    assert stable(run.journal) == stable(again.journal)
    assert weights(tmp_path / "run") == weights(tmp_path / "again")


def test_a_weak_block_goes_a_run_late(tmp_path: Path) -> None:
    """The blocks of `first` start at N(0, 1e-4), below the threshold: they are still there when `first` ends, and go
    when `second` ends. Those of `second` start like any layer."""
    run = nasir.run(tiny(tmp_path), out=tmp_path / "run")
    born = {path: r.phase for r in of(run, "rewrite", "insert-random-block") for path in r.added}
    gone = {path: r.phase for r in of(run, "rewrite", "remove-weak-blocks") for path in r.removed}
    weak = {path: phase.replace("first", "second") for path, phase in born.items() if phase.startswith("first")}
    assert len(weak) == 2 and gone == weak


@pytest.mark.parametrize("morph", ["", ", ties: coupled, width_step: transfer", ", factor: exact, expand: 1"])
def test_width_steps_come_towards_the_target(morph: str, tmp_path: Path) -> None:
    run = nasir.run(tiny(tmp_path, seed=1, morph=morph), out=tmp_path / "run")
    [step] = of(run, "rewrite", "morph-widths")
    graphs = {graph.digest: graph for graph in replay_graphs(RunDirectory.open(tmp_path / "run"))}
    before, after = (abs(flops_of(graphs[step[side]]) - 4e5) for side in ("before", "after"))
    assert after < before
    if "exact" in morph:
        assert flops_of(graphs[step["after"]]) <= 4e5
