"""Repeated phases, moments, sites, trials and frozen labels in specs: what is read, and what is refused where."""

from __future__ import annotations

import pytest
from spec_examples import VALID

from nasir.errors import SpecError
from nasir.policy import Moment, Trial
from nasir.spec import json_schema, loads_spec

HEAD = VALID[: VALID.index("phases:")]
GROUPS = (
    HEAD
    + """\
phases:
  - name: warm
    epochs: 1
    optimizer: {sgd: {lr: 0.1}}
  - repeat: 2
    phases:
      - name: shrink
        epochs: 2
        rules:
          - {when: start, do: try-this}
      - repeat: 3
        phases:
          - {name: grow, epochs: 1, freeze: conv1}
  - {name: last, epochs: 1}
"""
)
NAMES = ["warm"]
for outer in (1, 2):
    NAMES += [f"shrink.{outer}", *(f"grow.{outer}.{inner}" for inner in (1, 2, 3))]
NAMES += ["last"]


def refused(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads_spec(text, "t.yaml")
    return str(caught.value).splitlines()


def line_of(text: str, wanted: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if wanted in line)


def test_groups_are_written_out_with_numbered_names() -> None:
    spec = loads_spec(GROUPS)
    assert [phase.name for phase in spec.phases] == NAMES
    assert all(phase.optimizer == spec.phases[0].optimizer for phase in spec.phases)
    assert spec.phases[1].rules[0].plan("r").when == Moment("start")
    assert spec.phases[2].freeze == ("conv1",) and spec.phases[2].training(spec).freeze == ("conv1",)


def test_the_resolved_spec_is_plain_and_loads_back_equal() -> None:
    spec = loads_spec(GROUPS)
    text = spec.to_yaml()
    assert "repeat" not in text
    again = loads_spec(text)
    assert again.resolved() == spec.resolved() and again.digest == spec.digest


def test_a_group_can_be_changed_from_the_command_line() -> None:
    spec = loads_spec(GROUPS, overrides=["phases.1.repeat=1", "phases.1.phases.1.repeat=1"])
    assert [phase.name for phase in spec.phases] == ["warm", "shrink.1", "grow.1.1", "last"]


def test_a_problem_in_a_group_is_told_once_and_at_its_line() -> None:
    text = GROUPS.replace("epochs: 2\n", "epochs: 0\n").replace("try-this}", "try-that}")
    problems = refused(text)
    assert len(problems) == 2
    assert problems[0].startswith(f"t.yaml:{line_of(text, 'epochs: 0')}:17: phases.1.epochs: must be at least 1")
    assert problems[1].startswith(f"t.yaml:{line_of(text, 'try-that')}:31: phases.1.rules.0.do.try-that: unknown pass")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("repeat: 2", "repeat: 0", "phases.1.repeat: 0 is not a number of times; write a whole number, 1 to 2000"),
        ("repeat: 2", "repeat: many", "phases.1.repeat: 'many' is not a number of times"),
        ("repeat: 2", "repeat: 2\n    names: x", "phases.1.names: unknown key of a group"),
        ("repeat: 3", "repeat: 1999", "phases: more than 2000 phases; repeat fewer times"),
        ("          - {name: grow, epochs: 1, freeze: conv1}\n", "          []\n", "a group repeats a list of phases"),
    ],
)
def test_malformed_groups_are_refused(old: str, new: str, message: str) -> None:
    assert GROUPS.count(old) == 1
    (problem,) = refused(GROUPS.replace(old, new))
    assert message in problem and problem.startswith("t.yaml:")


def test_a_phase_may_not_be_named_like_one_of_a_group() -> None:
    problems = refused(GROUPS.replace("name: last", "name: shrink.2"))
    assert "the phase 'shrink.2' exists already" in problems[0]


def rule(text: str, more: str = "") -> str:
    return (
        f"{HEAD}phases:\n  - name: p\n    epochs: 4\n    optimizer: {{sgd: {{lr: 0.1}}}}\n{more}"
        f"    rules:\n      - {text}\n"
    )


def test_moments_sites_and_trials_become_plans() -> None:
    text = "{when: end, do: try-this, where: {sites: s1.0}, trial: {epochs: 2, metric: val.loss, min_gain: 0.01}}"
    plan = loads_spec(rule(text)).phases[0].plan().rules[0]
    assert plan.when == Moment("end") and plan.where.sites == ("s1.0",) and plan.where.stages == ()
    assert plan.trial == Trial(2, "val.loss", 0.01, "trained") and plan.every is None
    assert loads_spec(rule("{when: {start: {}}, do: try-this, trial: {}}")).phases[0].plan().rules[0].trial == Trial()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{every: 2, when: start, do: try-this}", "start comes once in a phase; remove `every`"),
        ("{when: begin, do: try-this}", "unknown value 'begin'"),
        ("{every: 1, do: try-this, freeze: end}", "freeze: end is a moment, not a condition; only `when` can name it"),
        ("{every: 1, do: try-this, where: {stages: [s1], sites: [s1.0]}}", "stages and sites are both given"),
        ("{every: 1, do: try-this, where: {order: all}, trial: {}}", "a trial tries every site, in no order"),
        (
            "{every: 1, do: try-this, trial: {metric: val.acc}}",
            "unknown metric 'val.acc'; did you mean 'val.accuracy'?",
        ),
        ("{every: 1, do: try-this, trial: {epochs: 0}}", "must be at least 1"),
        ("{every: 1, do: try-this, where: {sites: []}}", "where.sites"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    problems = refused(rule(text))
    assert message in problems[0] and problems[0].startswith("t.yaml:15:")


def test_a_phase_cannot_last_until_its_end() -> None:
    problems = refused(rule("{every: 1, do: try-this}", more="    until: end\n"))
    assert "phases.0.until: end is a moment, not a condition" in problems[0]


def test_a_trial_stops_a_rule_for_all_frozen() -> None:
    assert loads_spec(rule("{every: 1, do: try-this, trial: {}}", more="    until: all_frozen\n"))


def test_the_schema_knows_groups() -> None:
    schema = json_schema()
    phase, group, _choice = schema["properties"]["phases"]["anyOf"][0]["items"]["anyOf"]
    assert phase == {"$ref": "#/$defs/Phase"} and group == {"$ref": "#/$defs/PhaseGroup"}
    inner = schema["$defs"]["PhaseGroup"]["properties"]["phases"]["anyOf"][0]
    assert inner["items"]["anyOf"][0] == phase
