"""Rules whose stages were put into branches: names are followed, freezes are carried on, and runs resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import made
from small_runs import killed_and_resumed

import nasir
from nasir.errors import RunError, SpecError
from nasir.policy import PhasePlan, PhaseView, RulePlan, RulesPolicy, Where
from nasir.records import DecisionRecord, Record, RewriteRecord
from nasir.running.replay import compare
from nasir.spec import loads_spec

SPLIT = PhaseView(
    ("s1", "branches.0.s2", "branches.1.s2"),
    {"s1": 1, "branches.0.s2": 1, "branches.1.s2": 2},
    regions=frozenset({"s1", "branches", "branches.0", "branches.1", "branches.0.s2", "branches.1.s2"}),
)
NETWORK = """\
nasir: 1
name: moved
seed: 1
device: cpu
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: s1, block: basic, out: 8, depth: 1}
  - stage: {name: s2, block: basic, out: 16, depth: 1, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, batch_size: 256, validation: 0.2, subset: 0.3}
checkpoint: {every: 1, keep: 3}
phases:
"""
GROWING = """\
  - name: grow
    epochs: 5
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - every: 2 epochs
        do: {insert-block: {init: gaussian}}
        where: {stages: [s1, s2]}
      - when: {at: [3]}
        do: {split-branches: {branches: 2}}
        where: {sites: [s2]}
"""
LATER = """\
  - name: a
    epochs: 1
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules: [{when: end, do: {split-branches: {branches: 2}}, where: {sites: [s2]}}]
  - name: b
    epochs: 3
    rules:
      - every: 1 epochs
        do: {insert-block: {init: zero}}
        where: {stages: [s1, STAGES]}
"""
FREEZING = """\
  - name: grow
    epochs: 8
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - every: 1 epochs
        do: {insert-block: {init: gaussian}}
        freeze: {plateau: {metric: val.accuracy, window: 1 epochs, less_than: 0.99}}
      - when: {at: [3]}
        do: {split-branches: {branches: 2}}
        where: {sites: [s2]}
"""


def grown(records: list[Record]) -> list[str]:
    return [record.site for record in records if isinstance(record, RewriteRecord) and "insert" in record.pass_name]


def decided(rule: RulePlan, view: PhaseView, *records: Record) -> list[str]:
    history = [*records, made("epoch", {"epoch": 1, "phase_epoch": 1, "metrics": {"val.accuracy": 0.5}})]
    made_now = RulesPolicy(PhasePlan("p", 9, (rule,)), 0).decide(history, view)
    return [str(decision.site) for decision in made_now]  # type: ignore[union-attr]


@pytest.mark.parametrize("where", [Where(("s1", "s2"), "all"), Where(sites=("s1", "s2"), order="all")])
def test_a_name_stands_for_what_became_of_it(where: Where) -> None:
    rule = RulePlan("r", "insert-block", every=1, where=where)
    assert decided(rule, SPLIT) == ["s1", "branches.0.s2", "branches.1.s2"]


def test_a_name_that_never_was_is_still_an_error() -> None:
    for where in (Where(("s3",)), Where(sites=("s3",))):
        with pytest.raises(RunError, match=r"names (stage|site) 's3'"):
            decided(RulePlan("r", "insert-block", every=1, where=where), SPLIT)


def test_a_freeze_holds_for_what_became_of_its_site() -> None:
    frozen = made("decision", {"action": "freeze", "rule": "r", "site": "s2", "pass": "insert-block"})
    rule = RulePlan("r", "insert-block", every=1, where=Where(order="all"))
    assert decided(rule, SPLIT, frozen) == ["s1"]
    # a stage of that name that is there besides is another one
    beside = PhaseView(("s2", "t.s2"), {"s2": 1, "t.s2": 1}, regions=frozenset({"s2", "t", "t.s2"}))
    assert decided(rule, beside, frozen) == ["t.s2"]


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param(GROWING, id="within"),
        pytest.param(LATER.replace("STAGES", "s2"), id="later", marks=pytest.mark.slow),
        pytest.param(
            LATER.replace("STAGES", "branches.0.s2, branches.1.s2"), id="by the new names", marks=pytest.mark.slow
        ),
    ],
)
def test_growth_goes_on_in_the_branches(phases: str, tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(NETWORK + phases)
    run = nasir.run(spec, out=tmp_path / "run")
    assert "branches.0.s2" in grown(run.journal)

    last = [record for record in run.journal if isinstance(record, RewriteRecord)][-1]

    resumed = killed_and_resumed(spec, tmp_path / "killed", last.n)
    assert compare(run.journal, resumed.journal) == []


def test_a_new_name_that_no_pass_before_gives_is_refused() -> None:
    # the split comes in the phase after the one that names the branches
    head, split = LATER.replace("STAGES", "branches.0.s2").split("  - name: b")
    swapped = (
        NETWORK + "  - name: b" + split.replace("epochs: 3", "epochs: 3\n    optimizer: {sgd: {lr: 0.05}}", 1) + head
    )
    with pytest.raises(SpecError, match=r"unknown stage 'branches\.0\.s2'"):
        loads_spec(swapped, "s.yaml")
    with pytest.raises(SpecError, match=r"unknown stage 'branches\.0\.s3'"):
        loads_spec(NETWORK + LATER.replace("STAGES", "branches.0.s3"), "s.yaml")


def test_what_was_frozen_before_the_split_does_not_grow_after_it(tmp_path: Path) -> None:
    spec = tmp_path / "s.yaml"
    spec.write_text(NETWORK + FREEZING)
    run = nasir.run(spec, out=tmp_path / "run")
    frozen = [r.site for r in run.journal if isinstance(r, DecisionRecord) and r.action == "freeze"]
    assert frozen == ["s1", "s2"]
    # s2 grew after epoch 2 and was frozen at 3, when it was split
    assert grown(run.journal) == ["s1", "s2"]
    assert run.graph.depths() == {"s1": 2, "branches.0.s2": 2, "branches.1.s2": 2}
