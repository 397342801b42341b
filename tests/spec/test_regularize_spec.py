"""`regularize:` in a spec: what it means, and what it refuses, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SPEC as TINY
from small_runs import write_spec
from spec_examples import changed

import nasir
from nasir.analysis.roofline import PROFILES
from nasir.errors import SpecError
from nasir.records import EpochRecord
from nasir.spec import json_schema, loads_spec
from nasir.training.plans import PenaltyPlan

TERMS = """\
    optimizer: {sgd: {lr: 0.1}}
    regularize:
      - l2: {strength: 1.0e-5, on: [s1, fc]}
      - l1: {strength: 1.0e-6, on: all}
      - layer-lasso: {strength: 1.0e-8}
      - group-lasso: {strength: 1.0e-9, l1: 0.25, threshold: 0.02, grouping: l2, exclude: [s1.0]}
      - group-lasso: {strength: 1.0e-3, resource: latency, profile: V100, batch: 8}
      - gamma: {strength: 1.0e-7, resource: params}
"""
TEXT = changed("    optimizer: {sgd: {lr: 0.1}}\n", TERMS)
RULES = TEXT[TEXT.index("    rules:") : TEXT.index("  - name: finetune")]
FIXED = TEXT.replace(RULES, "    epochs: 1\n")


def test_terms_become_plans() -> None:
    spec = loads_spec(TEXT)
    v100 = PROFILES["V100"]
    assert spec.phases[0].training(spec).penalties[4].roofline == (v100.flops_per_second, v100.bytes_per_second)
    assert spec.phases[0].training(spec).penalties == (
        PenaltyPlan("l2", 1e-5, on=("s1", "fc")),
        PenaltyPlan("l1", 1e-6, on="all"),
        PenaltyPlan("layer-lasso", 1e-8, on="blocks"),
        PenaltyPlan("group-lasso", 1e-9, l1=0.25, threshold=0.02, grouping="l2", exclude=("s1.0",)),
        PenaltyPlan(
            "group-lasso",
            1e-3,
            resource="latency",
            profile="V100",
            batch=8,
        ),
        PenaltyPlan("gamma", 1e-7, resource="params"),
    )
    assert spec.phases[1].regularize == ()
    assert loads_spec(spec.to_yaml()).digest == spec.digest


def test_a_device_may_be_given_by_its_figures() -> None:
    spec = loads_spec(TEXT.replace("V100", "{flops_per_second: 1.0e+12, bytes_per_second: 2.0e+10}"))
    assert spec.phases[0].training(spec).penalties[4].roofline == (1e12, 2e10)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{strength: 1.0e-8}", "{strength: -1}", "16:33: {}.2.layer-lasso.strength: must be at least 0, found -1"),
        ("{strength: 1.0e-8}", "{}", "16:22: {}.2.layer-lasso.strength: this option is required; add `strength: ...`"),
        (
            "on: all",
            "on: most",
            "15:36: {}.1.l1.on: expected one of kernels, all or a list, found the text 'most'; known: kernels, all",
        ),
        ("[s1, fc]", "[]", "14:36: {}.0.l2.on: too few items: 0"),
        ("[s1, fc]", "[1s]", "14:37: {}.0.l2.on.0: cannot be '1s'"),
        ("[s1, fc]", "[s9]", "14:37: {}.0.l2.on.0: unknown label 's9'; known: "),
        ("[s1.0]", "[s2.7]", "17:92: {}.3.group-lasso.exclude.0: unknown label 's2.7'; did you mean 's2.0'?"),
        ("l1: 0.25", "l1: 2", "17:45: {}.3.group-lasso.l1: must be at most 1, found 2"),
        ("grouping: l2", "grouping: l3", "17:78: {}.3.group-lasso.grouping: unknown value 'l3'"),
        (
            "V100",
            "V10",
            "18:69: {}.4.group-lasso.profile: expected a mapping or one of K80, P4, T4, P100, V100, TPUv2 or nothing, "
            "found the text 'V10'; did you mean 'V100'?",
        ),
        (", profile: V100", "", "18:22: {}.4.group-lasso: latency needs a device profile; add `profile: V100`"),
        ("resource: latency", "resource: memory", "{}.4.group-lasso.profile: memory has no use for a profile"),
        ("params", "params, batch: 2", "19:60: {}.5.gamma.batch: params is counted for one sample; remove `batch`"),
        ("params", "params, l1: 1", "19:53: {}.5.gamma.l1: unknown option of gamma; known: strength, resource"),
        ("gamma:", "gama:", "19:9: {}.5.gama: unknown penalty 'gama'; did you mean 'gamma'?"),
    ],
)
def test_a_wrong_term_is_told_at_its_place(old: str, new: str, message: str) -> None:
    assert FIXED.count(old) == 1
    with pytest.raises(SpecError) as caught:
        nasir.build(loads_spec(FIXED.replace(old, new), "s.yaml"))
    assert message.format("phases.0.regularize") in str(caught.value)


def test_labels_that_rules_may_make_are_not_looked_for() -> None:
    nasir.build(loads_spec(TEXT.replace("[s1.0]", "[s1.7]")))


def test_labels_to_freeze_are_looked_for_where_no_rule_comes_before() -> None:
    frozen = changed("  - name: grow\n", "  - name: grow\n    freeze: [s9]\n")
    with pytest.raises(SpecError, match=r"^s\.yaml:12:14: phases\.0\.freeze\.0: unknown label 's9'"):
        nasir.build(loads_spec(frozen, "s.yaml"))
    nasir.build(loads_spec(frozen.replace("every: 3 epochs", "when: start"), "s.yaml"))
    later = changed("  - name: finetune\n", "  - name: finetune\n    freeze: [s9]\n")
    nasir.build(loads_spec(later, "s.yaml"))


def test_a_run_journals_the_penalty_and_what_is_alive(tmp_path: Path) -> None:
    terms = "    regularize: [{group-lasso: {strength: 1.0e-6}}, {l2: {strength: 1.0e-4}}]\n"
    text = TINY.replace("    ema: {decay: 0.9}\n", terms)
    run = nasir.run(write_spec(tmp_path, text), out=tmp_path / "run")
    epochs = [record for record in run.journal if isinstance(record, EpochRecord)]
    grown = [record for record in epochs if record.phase == "grow"]
    assert all(record.metrics["train.penalty"] > 0 for record in grown)
    # nothing is dead after a few epochs, so what is alive costs what the network costs
    assert all(record.alive["macs"] == record.macs for record in grown)
    assert all(record.alive["params"] == record.params for record in grown)
    assert len({record.alive["channels"] for record in grown}) > 1  # tables follow the growing network
    assert not any("alive" in r or "train.penalty" in r.metrics for r in epochs if r.phase == "finetune")


def test_the_schema_offers_the_terms() -> None:
    terms = json_schema()["$defs"]["Penalty"]["properties"]
    shipped = {name for name in terms if not name.startswith(("own-", "bad-"))}  # tests register others
    assert shipped == {"l1", "l2", "layer-lasso", "group-lasso", "gamma", "distill", "expected-macs"}
