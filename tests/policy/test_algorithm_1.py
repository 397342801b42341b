"""AutoGrow against Algorithm 1 of its paper (arXiv:1906.02909), written down once more from the text.

"Improves" is read as everywhere in nasir: an improvement of exactly tau counts. Of the accuracy before an epoch was
trained the paper says nothing; a window that reaches there shows no plateau.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import made

from nasir.cli.main import main
from nasir.errors import OptionError, SpecError
from nasir.policy import PhasePlan, PhaseView, Plateau, RulePlan, evaluate, simulate
from nasir.records import DecisionRecord, EpochRecord
from nasir.spec import loads_spec
from nasir.spec.past import load_stored

SPECS = Path(__file__).parents[2] / "specs/autogrow"

TAU = 5  # images of 10,000
Event = tuple[int, str, int | None]
Regime = Literal["periodic", "convergent"]


def algorithm_1(regime: Regime, images: list[int], stages: int, period: int, window: int) -> list[Event]:
    """(epoch, what, sub-network) of a growth; images[e - 1]: images classified after epoch e, the last is held."""

    def best(epoch: int) -> int:
        return max(images[: min(epoch, len(images))])

    def flat(epochs: int) -> bool:
        return now > epochs and best(now) - best(now - epochs) < TAU

    def stops() -> bool:
        if regime == "periodic":
            return flat(window)
        return grown_at is not None and best(grown_at + period) - best(grown_at) < TAU

    def grows() -> bool:
        return regime == "periodic" or flat(period)

    events: list[Event] = []
    growing = list(range(stages))  # the circular list
    pointer = 0  # the sub-network that grows next
    grown: int | None = None
    grown_at: int | None = None
    now = 0
    while growing and now < len(images) + window + period * (stages + 2):
        now += period
        if stops() and grown in growing:
            growing.remove(grown)
            events.append((now, "freeze", grown))
        if not growing:
            events.append((now, "end_phase", None))
        elif grows():
            while pointer not in growing:
                pointer = (pointer + 1) % stages
            events.append((now, "rewrite", pointer))
            grown, grown_at = pointer, now
            pointer = (pointer + 1) % stages
    return events


def policy(regime: Regime, images: list[int], stages: int, period: int, window: int) -> list[Event]:
    """The same by a rule."""
    plateau = {"less_than": TAU / 10_000}
    if regime == "periodic":
        rule = RulePlan("grow", "insert-block", every=period, freeze=Plateau(window=window, **plateau))
    else:
        freeze = Plateau(window=period, since="rule", **plateau)
        converged = Plateau(window=period, **plateau)
        rule = RulePlan("grow", "insert-block", every=period, when=converged, freeze=freeze)
    phase = PhasePlan("grow", rules=(rule,), until="all_frozen")
    names = tuple(f"s{number}" for number in range(stages))
    rows = [{"val.accuracy": count / 10_000} for count in images]
    last = len(images) + window + period * (stages + 3)
    records = simulate((phase,), 0, rows, PhaseView(names, dict.fromkeys(names, 1)), max_epochs=last)
    return [
        (record.epoch, record.action, None if record.site is None else names.index(record.site))
        for record in records
        if isinstance(record, DecisionRecord)
    ]


STEPS = st.sampled_from([-30, -3, 0, 0, 0, 0, 1, 2, 4, 5, 6, 20])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["periodic", "convergent"]),
    st.integers(0, 9000),
    st.lists(STEPS, min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_rules_grow_as_algorithm_1(
    regime: Regime, start: int, steps: list[int], stages: int, period: int, window: int
) -> None:
    images = [start]
    for step in steps:
        images.append(min(10_000, max(0, images[-1] + step)))
    expected = algorithm_1(regime, images, stages, period, window)
    last = expected[-1][0] if expected else 0
    # both are cut off somewhere; up to where the first of them is, they agree
    assert [event for event in policy(regime, images, stages, period, window) if event[0] <= last] == expected


def test_a_growth_that_helped_is_not_frozen_for_having_converged_after_it() -> None:
    # Each growth lifts the accuracy in the next epoch, then it is flat again, up to the fourth.
    values = [0.2, *[0.3] * 5, *[0.4] * 5, *[0.5] * 5, *[0.6] * 2]
    when, freeze = Plateau(window=4, less_than=0.01), Plateau(window=4, less_than=0.01, since="rule")
    phase = PhasePlan("grow", rules=(RulePlan("g", "insert-block", when=when, freeze=freeze),), until="all_frozen")
    assert decided(phase, values) == [
        (6, "rewrite", "s0"),
        (11, "rewrite", "s1"),
        (16, "rewrite", "s0"),
        (21, "rewrite", "s1"),
        (25, "freeze", "s1"),
        (25, "rewrite", "s0"),
        (29, "freeze", "s0"),
        (29, "end_phase", None),
    ]


def decided(phase: PhasePlan, values: list[float]) -> list[tuple[int, str, str | None]]:
    """What the rules of a phase decide on two stages."""
    view = PhaseView(("s0", "s1"), {"s0": 1, "s1": 1})
    records = simulate((phase,), 0, [{"val.accuracy": value} for value in values], view)
    return [(r.epoch, r.action, r.site) for r in records if isinstance(r, DecisionRecord)]


def curve(images: list[float]) -> list[EpochRecord]:
    return [made("epoch", {"epoch": n, "metrics": {"val.accuracy": value}}) for n, value in enumerate(images, 1)]


@pytest.mark.parametrize(
    ("plateau", "rewritten", "holds"),
    [
        (Plateau(window=2, since="rule", less_than=0.01), None, False),
        (Plateau(window=2, since="rule", less_than=0.01), 0, False),  # nothing to compare with
        (Plateau(window=2, since="rule", less_than=0.01), 5, False),  # one epoch since
        (Plateau(window=2, since="rule", less_than=0.01), 4, True),
        (Plateau(window=2, since="rule", less_than=0.01), 2, False),  # helped, though not lately
        (Plateau(window=2, less_than=0.01), 2, True),
    ],
)
def test_improvement_since_a_rewrite(plateau: Plateau, rewritten: int | None, holds: bool) -> None:
    verdict = evaluate(plateau, curve([0.1, 0.1, 0.4, 0.4, 0.4, 0.4]), rewritten)
    assert verdict.holds is holds
    assert verdict.sentence


def test_each_site_is_judged_by_its_own_rewrite() -> None:
    freeze = Plateau(window=4, since="site", less_than=0.01)
    phase = PhasePlan("grow", rules=(RulePlan("g", "insert-block", every=2, freeze=freeze),), until="all_frozen")
    # the lift at epoch 7 is s1's, which grew after epoch 4: s0 had its time
    assert decided(phase, [*[0.1] * 6, *[0.5] * 12]) == [
        (2, "rewrite", "s0"),
        (4, "rewrite", "s1"),
        (6, "freeze", "s0"),  # nothing came of epoch 2, and s1 has its 4 epochs yet
        (8, "rewrite", "s1"),
        (12, "freeze", "s1"),
        (12, "end_phase", None),
    ]


def test_a_freeze_that_looks_at_the_epochs_of_when_is_refused() -> None:
    when, same = Plateau(window=4, less_than=0.01), Plateau(window=4, less_than=0.01)
    with pytest.raises(OptionError, match="add `since: rule`"):
        RulePlan("g", "insert-block", when=when, freeze=same)
    for other in (Plateau(window=8, less_than=0.01), Plateau(window=4, less_than=0.001), Plateau(metric="val.loss")):
        RulePlan("g", "insert-block", when=when, freeze=other)


def test_a_window_that_never_passes_is_refused() -> None:
    with pytest.raises(OptionError, match="longer than the 3 after"):
        RulePlan("g", "insert-block", every=3, freeze=Plateau(window=100, since="rule"))
    RulePlan("g", "insert-block", every=3, freeze=Plateau(window=100, since="site"))


def test_since_is_for_freeze_alone() -> None:
    since = Plateau(since="rule")
    with pytest.raises(OptionError, match="when: `since` is for `freeze` only"):
        RulePlan("g", "insert-block", when=since)
    with pytest.raises(OptionError, match="until: `since` is for `freeze` only"):
        PhasePlan("p", until=since)


@pytest.mark.parametrize("name", ["c_constant", "c_staircase"])
def test_convergent_growth_that_helps_each_time_goes_on(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # rises for 60 epochs after each of the first nine growths, then it stays
    values = [
        0.70 + 0.02 * min(e // 200, 9) + (0.02 * min(e % 200, 60) / 60 if e < 2000 else 0.02) for e in range(2001)
    ]
    rows = [f"{epoch},{values[epoch]:.5f}" for epoch in range(1, 2001)]
    (tmp_path / "curve.csv").write_text("\n".join(["epoch,val.accuracy", *rows]))
    spec = str(SPECS / f"basic3_{name}.yaml")
    assert main(["check", spec, "--simulate", str(tmp_path / "curve.csv"), "--epochs", "4000"]) == 0
    told = capsys.readouterr().out
    assert "epoch 2200  freeze s1: best val.accuracy improved by 0 in the 200 epochs since the last rewrite" in told
    assert "every stage is frozen at depths 5-5-5 after 2600 epochs of the phase" in told


CONVERGENT = """\
nasir: 1
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: s1, block: basic, out: 8, depth: 1}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.2}
phases:
  - name: grow
    optimizer: {sgd: {lr: 0.1}}
    rules:
      - when: {plateau: {window: 4 epochs, less_than: 0.01}}
        do: {insert-block: {init: zero}}
        freeze: {plateau: {window: 4 epochs, less_than: 0.01}}
    until: all_frozen
"""


def test_a_spec_whose_freeze_undoes_its_when_is_refused_at_its_place() -> None:
    with pytest.raises(SpecError, match=r"c.yaml:14:17: .*however much that helped.*; add `since: rule`"):
        loads_spec(CONVERGENT, "c.yaml")
    mended = CONVERGENT.replace("freeze: {plateau: {", "freeze: {plateau: {since: rule, ")
    assert loads_spec(mended, "c.yaml").phases[0].plan().rules[0].freeze == Plateau(
        window=4, less_than=0.01, since="rule"
    )


def test_a_stored_spec_that_says_nothing_of_early_plateaus_means_the_code(tmp_path: Path) -> None:
    spec = loads_spec(CONVERGENT.replace("when: {plateau: {window: 4", "when: {plateau: {window: 2"), "c.yaml")
    now = tmp_path / "now.yaml"
    now.write_text(spec.to_yaml())
    assert load_stored(now).phases[0].plan().rules[0].when == Plateau(window=2, less_than=0.01)
    before = tmp_path / "before.yaml"
    before.write_text(spec.to_yaml().replace("early: paper", "").replace(", }", "}"))
    assert load_stored(before).phases[0].plan().rules[0].when == Plateau(window=2, less_than=0.01, early="code")
