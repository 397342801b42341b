"""Options that a dataclass declares, in a spec: the same types, ranges, defaults and words as in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from spec_examples import VALID, changed

from nasir.errors import OptionError, SpecError
from nasir.options import described, kind_of, options_of
from nasir.options.ranges import EpochLength, Epochs
from nasir.policy.plans import METRICS, Budget, Plateau, Trial, Where
from nasir.spec import json_schema, loads_spec
from nasir.training.data import DataPlan, PadCrop, ResizedCrop
from nasir.training.plans import SchedulePlan

PLATEAU = "freeze: {plateau: {window: 10, less_than: 0.01}}"
assert PLATEAU in VALID


def message(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        loads_spec(text, "s.yaml")
    return str(caught.value)


def test_a_value_of_a_spec_is_the_dataclass_itself() -> None:
    more = "        budget: {macs: 5}\n        trial: {epochs: 2 epochs}"
    spec = loads_spec(VALID.replace(PLATEAU, f"{PLATEAU}\n{more}"))
    made = spec.phases[0].rules[0]
    assert (made.freeze.chosen, made.budget, made.trial) == (
        Plateau(window=10, less_than=0.01),
        Budget(macs=5),
        Trial(2),
    )
    assert type(made.budget.macs) is float and spec.resolved()["phases"][0]["rules"][0]["budget"] == {"macs": 5.0}


@pytest.mark.parametrize(
    ("written", "where", "resolved"),
    [
        ("{}", Where(), {"stages": "all"}),
        ("{stages: all, count: 2}", Where(count=2), {"stages": "all", "count": 2}),
        ("{stages: s1}", Where(("s1",)), {"stages": ["s1"]}),
        (
            "{sites: [s1.0], order: all}",
            Where((), "all", 1, ("s1.0",)),
            {"stages": "all", "sites": ["s1.0"], "order": "all"},
        ),
        ("{sites: s1}", Where(sites=("s1",)), {"stages": "all", "sites": ["s1"]}),
    ],
)
def test_short_forms_are_read_and_resolved(written: str, where: Where, resolved: dict[str, Any]) -> None:
    spec = loads_spec(VALID.replace(PLATEAU, f"where: {written}\n        at_most: 3"))
    assert spec.phases[0].rules[0].where == where
    assert spec.resolved()["phases"][0]["rules"][0]["where"] == {"order": "round_robin", "count": 1, **resolved}
    assert loads_spec(spec.to_yaml()).digest == spec.digest


@pytest.mark.parametrize(
    ("old", "new", "make"),
    [
        (PLATEAU, "freeze: {plateau: {window: 0}}", lambda: Plateau(window=0)),
        (PLATEAU, "freeze: {plateau: {smooth: mean}}", lambda: Plateau(smooth="mean")),  # type: ignore[arg-type]
        (PLATEAU, "freeze: {plateau: {decay: 1}}", lambda: Plateau(decay=1)),
        (PLATEAU, "budget: {params: x}", lambda: Budget(params="x")),  # type: ignore[arg-type]
        (PLATEAU, "budget: {}", lambda: Budget()),
        (PLATEAU, "where: {stages: s1, sites: s1}", lambda: Where(("s1",), sites=("s1",))),
        (PLATEAU, "trial: {baseline: best}", lambda: Trial(baseline="best")),  # type: ignore[arg-type]
        ("{staircase: {at: [0.5, 0.75]}}", "{staircase: {at: [0.5, 1]}}", lambda: SchedulePlan("staircase", (0.5, 1))),
        ("{staircase: {at: [0.5, 0.75]}}", "{cosine: {floor: -1}}", lambda: SchedulePlan("cosine", floor=-1)),
        ("validation: 0.2", "augment: [{pad_crop: {pad: 0}}]", lambda: PadCrop(0)),
        ("validation: 0.2", "augment: [{random_resized_crop: {scale: [1, 0.5]}}]", lambda: ResizedCrop(None, (1, 0.5))),
        ("validation: 0.2", "validation: 1.5", lambda: DataPlan("x", validation=1.5)),
    ],
)
def test_a_spec_and_python_refuse_in_the_same_words(old: str, new: str, make: Callable[[], object]) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    [(_, text, remedy)] = caught.value.faults
    refused = message(changed(old, new))
    assert refused.endswith(f": {text}; {remedy}") and len(refused.splitlines()) == 1, refused


def test_all_faults_of_a_mapping_are_told_each_at_its_place() -> None:
    text = changed(PLATEAU, "freeze: {plateau: {windw: 3, decay: 2, smooth: 1}}")
    assert [line.partition(": ")[0] for line in message(text).splitlines()] == [
        "s.yaml:16:28",
        "s.yaml:16:45",
        "s.yaml:16:56",
    ]


def test_what_two_keys_disagree_about_is_told_at_the_newer_one() -> None:
    base = changed(PLATEAU, "where: {sites: s1}\n        at_most: 3")
    with pytest.raises(SpecError, match=r"--set .*: phases.0.rules.0.where.stages: stages and sites are both given"):
        loads_spec(base, "s.yaml", ["phases.0.rules.0.where.stages=s1"])


def test_the_schema_is_that_of_the_fields() -> None:
    properties = json_schema()["$defs"]["Rule"]["properties"]["budget"]["anyOf"][0]["properties"]
    for name, option in options_of(Budget).items():
        wanted = described(option)
        assert (properties[name].get("description"), properties[name]["default"]) == (wanted.get("description"), None)
        assert all(member in properties[name]["anyOf"] for member in wanted["anyOf"])
    assert kind_of(Epochs).schema()["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert options_of(Plateau)["metric"].kind.schema() == {"enum": list(METRICS)}


def test_amounts_may_have_their_unit_in_python_too() -> None:
    assert Plateau(window="3 epochs") == Plateau(window=3)  # type: ignore[arg-type]
    assert kind_of(EpochLength).normal("0.5 epochs") == (0.5, []) and kind_of(Epochs).normal(" 1 epoch ") == (1, [])
    for wrong in ("3", "3 steps", "epochs", "-3 epochs"):
        assert kind_of(Epochs).normal(wrong)[1] == [
            ((), f"expected a duration in epochs, found {wrong!r}", "write `3 epochs`, or just 3")
        ]
    assert kind_of(Epochs).normal("2.5 epochs")[1] == [
        ((), "expected a whole number, found 2.5", "write digits only, such as 3")
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            PLATEAU,
            "where: {stages: }",
            "16:17: phases.0.rules.0.where.stages: expected a list, found nothing",
        ),
        (PLATEAU, "where: {sites: []}", "16:24: phases.0.rules.0.where.sites: too few items: 0; give at least 1"),
        (
            PLATEAU,
            "where: {order: all}\n        trial: {}",
            "17:9: phases.0.rules.0.trial: a trial tries every",
        ),
        (PLATEAU, "budget: 5", "16:17: phases.0.rules.0.budget: expected a mapping, found 5; write `key: value` pairs"),
        (
            "validation: 0.2",
            "augment: [{hflip: {x: 1}}]",
            "9:44: data.augment.0.hflip.x: unknown key; this mapping",
        ),
        ("{staircase: {at: [0.5, 0.75]}}", "{staircase: {}}", "20:27: phases.1.schedule.staircase.at: is required"),
    ],
)
def test_forms_and_mappings_that_are_wrong_are_told_at_their_place(old: str, new: str, expected: str) -> None:
    assert message(changed(old, new)).startswith(f"s.yaml:{expected}")
