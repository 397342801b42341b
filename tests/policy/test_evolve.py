"""The evolutionary policy: exact sequences on given metrics, ranking by hand, and laws over random set-ups."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import made

from nasir.errors import RunError
from nasir.policy import (
    Budget,
    EvolveOptions,
    EvolvePolicy,
    PhasePlan,
    PhaseView,
    RulePlan,
    RulesPolicy,
    Threshold,
    Where,
    simulate,
)
from nasir.policy.draws import index, weighted
from nasir.policy.evolve_rank import Individual, Objective, crowding, fronts, ranked
from nasir.records import DecisionRecord, DeclinedRecord, DroppedRecord, EpochRecord, KeptRecord, RecalledRecord

VIEW = PhaseView(("a", "b"), {"a": 1, "b": 1}, params=1000, macs=1000)
GROW = RulePlan("grow", "insert-block")


def evolve(
    values: list[float],
    rules: tuple[RulePlan, ...] = (GROW,),
    seed: int = 0,
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The records of a phase whose e-th epoch has that val.accuracy; the last one is held."""
    phase = PhasePlan("evolve", rules=rules, policy="evolve", policy_options=options, **(plan or {}))
    made = EvolveOptions(**options)
    rows = [{"val.accuracy": value} for value in values]
    return simulate([phase], seed, rows, VIEW, make=lambda plan, seed: EvolvePolicy(plan, seed, made))


def births(records: list[dict[str, Any]]) -> list[tuple[int, int | None]]:
    """(individual, the one recalled before it was made) in order."""
    born: list[tuple[int, int | None]] = []
    parent = None
    for record in records:
        if isinstance(record, RecalledRecord):
            parent = record.individual
        elif isinstance(record, KeptRecord):
            born.append((record.individual, parent))
    return born


def numbers(records: list[dict[str, Any]], kind: str) -> list[int]:
    return [record.individual for record in records if record.kind == kind]


VALUES = [0.10, 0.20, 0.15, 0.30, 0.25, 0.40, 0.35, 0.22, 0.41, 0.05]


def regularized(population: int, sample: int, children: int, seed: int) -> list[tuple[int, int]]:
    """Algorithm 1 of Real et al. after the population is there: (child, parent)."""
    alive = list(range(1, population + 1))
    made = []
    for child in range(population + 1, population + children + 1):
        drawn = [alive[index(f"{seed}/evolve/{child}/parent/{n}", len(alive))] for n in range(sample)]
        parent = max(drawn, key=lambda number: VALUES[number - 1])
        made.append((child, parent))
        alive = [*alive[1:], child]
    return made


def test_regularized_evolution_step_by_step() -> None:
    """P = 4, S = 2: the best of two drawn has a child, the oldest leaves, the best of the history goes on."""
    records = evolve(VALUES, population=4, generations=6, select={"tournament": 2}, replace="oldest")
    assert births(records)[:4] == [(1, None), (2, 1), (3, 1), (4, 1)]
    assert births(records)[4:] == regularized(4, 2, 6, seed=0) == [(5, 2), (6, 5), (7, 5), (8, 6), (9, 6), (10, 6)]
    assert numbers(records, "dropped") == [1, 2, 3, 4, 5, 6, 7, 8, 10, 9]
    assert records[-2]["reason"].startswith("6 generations are complete")
    assert numbers(records, "recalled")[-1] == 9
    assert records[-1]["epoch"] == 10


def test_the_best_stays_stored_when_it_is_too_old_to_live() -> None:
    options = {"population": 2, "generations": 4, "select": {"tournament": 1}}
    records = evolve([0.1, 0.9, 0.2, 0.3, 0.4, 0.5], **options)
    assert numbers(records, "dropped") == [1, 3, 4, 5, 6, 2]
    assert births(records)[4][1] != 2 and numbers(records, "recalled")[-1] == 2
    records = evolve([0.1, 0.9, 0.2, 0.3, 0.4, 0.5], result="population", **options)
    assert numbers(records, "dropped") == [1, 2, 3, 4, 5, 6] and numbers(records, "recalled")[-1] == 6


def test_other_seeds_draw_otherwise() -> None:
    histories = {
        str(births(evolve(VALUES, seed=seed, population=4, generations=6, select={"tournament": 2})))
        for seed in range(5)
    }
    assert len(histories) == 5


def test_hill_climbing_by_network_morphisms_step_by_step() -> None:
    """NASH: one parent, three children of which the first is the parent trained on; the best becomes the parent."""
    values = [0.5, 0.52, 0.60, 0.55, 0.61, 0.58, 0.59, 0.50, 0.51, 0.52]
    options = {"population": 1, "offspring": 3, "generations": 3, "replace": "parents", "keep_parent": True}
    records = evolve(values, mutations=2, result="population", **options)
    # the last generation is worse than the one before: its parent, as it was, is gone
    parents = [1, 1, 1, 3, 3, 3, 5, 5, 5]
    assert births(records) == [(1, None), *((child + 2, parent) for child, parent in enumerate(parents))]
    assert numbers(records, "dropped") == [1, 2, 4, 3, 6, 7, 5, 8, 9, 10]
    assert numbers(records, "recalled")[-1] == 10
    rewrites = [
        record.individual for record in records if isinstance(record, DecisionRecord) and record.action == "rewrite"
    ]
    assert rewrites == [3, 3, 4, 4, 6, 6, 7, 7, 9, 9, 10, 10]


def test_the_worst_leave_where_parents_compete() -> None:
    records = evolve([0.5, 0.1, 0.2, 0.9, 0.05, 0.3], population=2, offspring=2, generations=2, replace="worst")
    assert births(records) == [(1, None), (2, 1), (3, 1), (4, 1), (5, 4), (6, 4)]
    assert numbers(records, "dropped")[:4] == [2, 3, 1, 5]
    assert numbers(records, "recalled")[-1] == 4


def test_declined_mutations_are_drawn_again_elsewhere_and_at_last_the_parent_is_trained_on() -> None:
    def apply(decision: Any) -> PhaseView | None:
        return VIEW if decision.action != "rewrite" else None

    phase = PhasePlan("evolve", rules=(GROW, RulePlan("shrink", "remove-block", where=Where(("a",)))), policy="evolve")
    options = EvolveOptions(population=2, generations=1)
    records = simulate([phase], 0, [{"val.accuracy": 0.5}], VIEW, apply, make=lambda p, s: EvolvePolicy(p, s, options))
    tried = [(r.individual, r.rule, r.site) for r in records if isinstance(r, DecisionRecord) and r.action == "rewrite"]
    places = {("grow", "a"), ("grow", "b"), ("shrink", "a")}
    assert {attempt[1:] for attempt in tried if attempt[0] == 2} == places and len(tried) == 6
    assert births(records) == [(1, None), (2, 1), (3, 1)]
    few = simulate(
        [phase],
        0,
        [{"val.accuracy": 0.5}],
        VIEW,
        apply,
        make=lambda p, s: EvolvePolicy(p, s, EvolveOptions(population=2, generations=1, attempts=1)),
    )
    assert sum(isinstance(record, DeclinedRecord) for record in few) == 2


def test_rules_are_drawn_by_weight_and_full_stages_are_not_drawn() -> None:
    often, rarely = RulePlan("often", "insert-block", weight=9.0), RulePlan("rarely", "remove-block")
    options = {"population": 1, "generations": 60, "replace": "parents", "mutations": 2}
    records = evolve(VALUES, (often, rarely), **options)
    drawn = [record.rule for record in records if isinstance(record, DecisionRecord) and record.action == "rewrite"]
    assert drawn.count("often") > 3 * drawn.count("rarely") > 0
    records = evolve(VALUES, (replace(often, at_most=4), rarely), **options)
    assert max(max(record.depths.values()) for record in records if isinstance(record, EpochRecord)) == 4


def test_a_draw_is_uniform_and_follows_the_weights() -> None:
    counts = [sum(index(f"k{n}", 3) == which for n in range(3000)) for which in range(3)]
    assert all(900 < count < 1100 for count in counts)
    heavy = sum(weighted(f"k{n}", [3.0, 1.0]) == 0 for n in range(3000))
    assert 2150 < heavy < 2350


def test_the_start_network_may_be_measured_by_the_phase_before() -> None:
    options = EvolveOptions(population=2, generations=1, initial=0)
    phases = [PhasePlan("train", 3), PhasePlan("evolve", rules=(GROW,), policy="evolve")]

    def make(plan: PhasePlan, seed: int) -> Any:
        return RulesPolicy(plan, seed) if plan.policy == "rules" else EvolvePolicy(plan, seed, options)

    rows = [{"val.accuracy": value} for value in (0.1, 0.2, 0.3, 0.25, 0.2)]
    records = simulate(phases, 0, rows, VIEW, make=make)
    first = next(record for record in records if isinstance(record, KeptRecord))
    assert first["metrics"] == {"val.accuracy": 0.3} and first["epoch"] == 3
    assert numbers(records, "recalled")[-1] == 1
    with pytest.raises(RunError, match="`initial: 0` needs an epoch before"):
        simulate(phases[1:], 0, rows, VIEW, make=make)


def test_a_child_that_diverges_never_becomes_a_parent() -> None:
    values = [0.5, math.nan, 0.4, math.nan, 0.6, math.nan, 0.3, 0.3]
    for leaves in ("oldest", "worst"):
        records = evolve(values, population=2, generations=6, replace=leaves, select={"tournament": 2})
        assert set(numbers(records, "recalled")).isdisjoint({2, 4, 6})
        assert {2, 4, 6} <= set(numbers(records, "dropped"))
        assert numbers(records, "recalled")[-1] == 5
        by_cost = evolve(values, population=2, generations=6, replace=leaves, objectives=("macs",))
        assert set(numbers(by_cost, "recalled")).isdisjoint({2, 4, 6}), "a cost alone shows no divergence"
    with pytest.raises(RunError, match="the training of the start network diverged"):
        evolve([math.nan], population=2, generations=1)


@pytest.mark.parametrize(
    "plan, options, epochs, reason",
    [
        ({"epochs": 7}, {"epochs": 2, "initial": 1}, 7, "no child can be trained in what is left of the 7 epochs"),
        ({"epochs": 8}, {"epochs": 2, "initial": 1}, 7, "no child can be trained in what is left of the 8 epochs"),
        ({"until": Threshold("val.accuracy", above=0.29)}, {}, 4, "val.accuracy 0.3 is above 0.29"),
        ({"budget": Budget(epochs=5)}, {}, 5, "epochs 5 is at the budget of 5"),
    ],
)
def test_a_phase_ends_between_children(plan: dict[str, Any], options: dict[str, Any], epochs: int, reason: str) -> None:
    records = evolve(VALUES, plan=plan, population=2, **options)
    assert records[-1]["epoch"] == epochs
    assert records[-2]["reason"].startswith(reason)


def test_params_and_macs_of_both_budgets_bound_a_mutation() -> None:
    rule = RulePlan("grow", "insert-block", budget=Budget(params=500, macs=900))
    policy = EvolvePolicy(
        PhasePlan("evolve", rules=(rule,), policy="evolve", budget=Budget(params=800, macs=700, seconds=9)),
        0,
        EvolveOptions(population=2),
    )
    history = [
        made("phase", {"phase": "evolve"}),
        made("epoch", {"epoch": 1, "metrics": {"val.accuracy": 0.1}}),
        made("kept", {"individual": 1, "metrics": {"val.accuracy": 0.1}}),
        made("recalled", {"individual": 1}),
    ]
    (decision,) = policy.decide(history, VIEW)
    assert decision.budget == Budget(params=500, macs=700)


# ranking


def point(number: int, *values: float) -> Individual:
    return Individual(number, values)


def test_non_dominated_sorting_and_crowding_by_hand() -> None:
    members = [point(1, 1, 5), point(2, 2, 4), point(3, 4, 1), point(4, 1, 4), point(5, 3, 2), point(6, 0, 0)]
    assert [[member.number for member in front] for front in fronts(members)] == [[1, 2, 3, 5], [4], [6]]
    distance = crowding(fronts(members)[0])
    assert distance[1] == distance[3] == math.inf
    assert distance[2] == pytest.approx((3 - 1) / 3 + (5 - 2) / 4)
    assert distance[5] == pytest.approx((4 - 2) / 3 + (4 - 1) / 4)
    assert [member.number for member in ranked(members)] == [1, 3, 2, 5, 4, 6]


def test_equal_individuals_share_a_front_and_the_older_one_wins() -> None:
    assert [member.number for member in ranked([point(2, 1.0), point(1, 1.0), point(3, 2.0)])] == [3, 1, 2]
    assert len(fronts([point(1, 1, 1), point(2, 1, 1)])) == 1


def test_two_objectives_keep_the_whole_front() -> None:
    records = evolve(
        [0.5, 0.4, 0.6, 0.7, 0.3], population=2, generations=3, replace="worst", objectives=["val.accuracy", "macs"]
    )
    # the toy rewrites cost nothing, so that the front is the best accuracy alone
    assert numbers(records, "recalled")[-1] == 4
    assert "; front: 4 (val.accuracy 0.7, macs 1,000)" in records[-2]["reason"]
    assert set(numbers(records, "kept")) - set(numbers(records, "dropped")) == {4}


@pytest.mark.parametrize(
    "value, metric, sign",
    [
        ("val.accuracy", "val.accuracy", 1),
        ("train.loss", "train.loss", -1),
        ("macs", "macs", -1),
        ({"maximize": "params"}, "params", 1),
    ],
)
def test_objectives_know_their_direction(value: Any, metric: str, sign: int) -> None:
    assert Objective.parse(value) == Objective(metric, sign)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"population": 0}, "population: must be at least 1, found 0"),
        ({"initial": -1}, "initial: must be at least 0, found -1"),
        ({"mutations": 3, "attempts": 2}, "attempts: 2 are too few for 3 mutations"),
        ({"select": {"tournament": 0}}, "select.tournament: must be at least 1, found 0"),
        ({"select": {"roulette": 2}}, "select.roulette: unknown value 'roulette'; known: tournament"),
        ({"select": {}}, "select: too few items: 0; write {tournament: 5}"),
        (
            {"select": "beast"},
            "or a mapping, found the text 'beast'; did you mean 'best'?",
        ),
        ({"replace": "parents", "population": 3}, "offspring: 1 children cannot replace all 3 parents"),
        ({"objectives": ()}, "objectives: too few items: 0; write [val.accuracy]"),
        ({"objectives": ("macs", "macs")}, "named twice"),
        ({"objectives": ("test.accuracy",)}, "unknown metric 'test.accuracy'"),
        ({"objectives": ({"most": "macs"},)}, "objectives.0.most: unknown value 'most'; known: maximize, minimize"),
        ({"objectives": (["macs"],)}, "objectives.0: expected text or a mapping, found a list of 1"),
    ],
)
def test_malformed_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        EvolveOptions(**options)
    assert text in str(caught.value)


# laws


@st.composite
def setups(draw: st.DrawFn) -> dict[str, Any]:
    population = draw(st.integers(1, 5))
    leaves = draw(st.sampled_from(["oldest", "worst", "parents"]))
    least = population if leaves == "parents" else 1
    return {
        "population": population,
        "replace": leaves,
        "offspring": draw(st.integers(least, least + 2)),
        "generations": draw(st.integers(1, 5)),
        "epochs": draw(st.integers(1, 2)),
        "initial": draw(st.sampled_from([None, 1, 3])),
        "mutations": draw(st.integers(1, 3)),
        "select": draw(st.sampled_from(["best", {"tournament": 1}, {"tournament": 3}])),
        "keep_parent": draw(st.booleans()),
        "result": draw(st.sampled_from(["history", "population"])),
    }


@settings(max_examples=120, deadline=None)
@given(setups(), st.lists(st.floats(0, 1), min_size=1, max_size=70), st.integers(0, 5))
def test_laws_of_evolution(options: dict[str, Any], values: list[float], seed: int) -> None:
    records = evolve(values, seed=seed, **options)
    size, offspring, epochs = options["population"], options["offspring"], options["epochs"]
    children = size - 1 + options["generations"] * offspring
    kept = numbers(records, "kept")
    assert kept == list(range(1, children + 2)), "numbers count births"
    assert records[-1]["epoch"] == (options["initial"] or epochs) + children * epochs
    worth = {r.individual: r.metrics["val.accuracy"] for r in records if isinstance(r, KeptRecord)}
    stored: set[int] = set()
    parents: list[int] = []
    for record in records:
        if isinstance(record, KeptRecord):
            stored.add(record.individual)
            best = max(worth[number] for number in kept[: record.individual])
        elif isinstance(record, DroppedRecord):
            stored.remove(record.individual)
        elif isinstance(record, RecalledRecord):
            assert record.individual in stored, "only who is stored is recalled"
            parents.append(record.individual)
            assert len(stored) <= size + offspring, "the population, the best, and the siblings made so far"
            if options["result"] == "history" or options["replace"] == "worst":
                assert max(worth[number] for number in stored) == best, "the best is never lost"
            if options["replace"] == "oldest":
                generation = max(0, len(set(kept) & set(range(1, max(stored) + 1))) - size) // offspring
                youngest = size + generation * offspring
                if len(parents) < children + 1 and max(stored) >= size:
                    assert record.individual > youngest - size, "the oldest are not parents"
    assert len(parents) == children + 1
    last = parents[-1]
    if options["result"] == "history":
        assert worth[last] == max(worth.values())
    assert stored == set(), "nothing stays behind"
    mutated = {r.individual for r in records if isinstance(r, DecisionRecord) and r.action == "rewrite"}
    unchanged = {size + 1 + g * offspring for g in range(options["generations"])} if options["keep_parent"] else set()
    assert mutated == set(kept[1:]) - unchanged
