"""The shipped suites, on what nasir ships and on a custom pass; and that they notice a breach."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nasir.errors import Decline, PlanError
from nasir.ir import Atom, Draft, Graph
from nasir.ir.op import loaded, op_named
from nasir.policy import AtEpochs, PhasePlan, Plateau, Policy, RulePlan, RulesPolicy, Where
from nasir.policy.base import History, PhaseView
from nasir.policy.decision import Decision, RecallIndividual, RewriteSite
from nasir.records import CheckpointRecord, EpochRecord
from nasir.registry import passes, policies
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Pass, get_pass
from nasir.spec import make_policy
from nasir.testing import MIXING, OpCase, OpContract, PassContract, PolicyContract, random_graph

OPTIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "insert-block": ({}, {"init": "copy"}, {"init": "near_zero"}, {"init": "gaussian"}, {"init": "adam"}),
    "prune-channels": ({"fraction": 0.4}, {"target": {"macs": "60%"}, "ranking": "global", "score": "taylor"}),
    "widen": ({"factor": 1.5, "noise": 0.01}, {"units": 2, "how": "fresh"}, {"units": 4, "how": "paired"}),
    "expand-to-budget": ({"budget": 10**8},),
}
# these act on what generated networks lack (a frozen part, branches, a history, norms that come first): suites on
# networks of their own
ELSEWHERE = {
    "merge-branches": "passes/test_merge_branches.py",
    "ungroup-branches": "passes/test_merge_branches.py",
    "place-dropout": "passes/test_place_dropout.py",
    "remove-weak-blocks": "passes/test_remove_weak_blocks.py",
    "scale-branches": "passes/test_scale_branches.py",
    "select-blocks": "passes/test_select_blocks_laws.py",
    "shrink-widths": "passes/test_shrink_widths.py",
    "unfreeze": "passes/test_freezing.py",
}
SHIPPED = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name in passes.names()
    if passes._entry_points()[name].value.startswith("nasir.") and name not in ELSEWHERE
    for number in range(len(OPTIONS.get(name, ({},))))
]
LAWS = sorted(name for name in vars(PassContract) if name.startswith("test_"))


@cache
def suite(name: str, number: int) -> type[PassContract]:
    """The suite of a shipped pass: one class for all of its laws, which share what they look at."""
    options = OPTIONS.get(name, ({},))[number]

    class Suite(PassContract):
        make = staticmethod(lambda: get_pass(name)(**options))

    return Suite


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name, number", SHIPPED)
def test_shipped_pass(name: str, number: int, law: str) -> None:
    getattr(suite(name, number)(), law)()


@pytest.mark.parametrize("name, path", ELSEWHERE.items())
def test_the_other_passes_have_a_suite_of_their_own(name: str, path: str) -> None:
    text = (Path(__file__).parent.parent / path).read_text(encoding="utf-8")
    assert "(PassContract):" in text and get_pass(name).__name__ in text


@dataclass(frozen=True)
class PruneQuiet(Pass):
    """Remove the quietest units of a space."""

    fraction: float = 0.5
    floor: int = 2
    name = "prune-quiet"
    shrinks = True
    needs = (Need("activation_mean"),)

    def sites(self, graph: Graph) -> Iterable[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        keep = max(self.floor, round(site.size * (1 - self.fraction)))
        if keep >= site.size:
            raise Decline(f"{site.size} units, floor {self.floor}")
        draft.select(site, seen.per_index("activation_mean", site).argsort()[::-1][:keep])
        draft.claim("approximate")


@dataclass(frozen=True)
class Widen(PruneQuiet):
    """Every unit once more, exact as long as nothing normalizes over them."""

    name = "widen"

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        draft.select(site, [*range(site.size), *range(site.size)])
        draft.claim("exact")


class TestPruneQuiet(PassContract):
    make = PruneQuiet


class TestWiden(PassContract):
    make = Widen

    def graphs(self) -> Iterable[Graph]:
        return [random_graph(seed, without=MIXING) for seed in range(3)]


def test_an_exact_claim_over_a_mixing_op_is_refused_by_name() -> None:
    graph = random_graph(0)
    mixed = [space for seed in range(9) for space in random_graph(seed).infer.spaces if space.mixed and space.resizable]
    assert mixed
    for seed in range(9):
        graph = random_graph(seed)
        for space in graph.infer.spaces:
            if space.resizable and space.mixed:
                with pytest.raises(PlanError, match=f"widen claims to be exact.*'{space.mixed}'"):
                    Widen().apply(graph, space)


@dataclass(frozen=True)
class Liar(PruneQuiet):
    """Claims that pruning loud units is exact."""

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        super().rewrite(draft, site, seen)
        draft.claim("exact")


@dataclass(frozen=True)
class Fickle(PruneQuiet):
    """Prunes other units each time."""

    calls: ClassVar[list[int]] = [0]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        self.calls[0] += 1
        if site.size < 3:
            raise Decline("small")
        draft.select(site, [self.calls[0] % site.size])


@dataclass(frozen=True)
class Vandal(PruneQuiet):
    """Writes into its input."""

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        assert draft.base is not None
        site.pin = "vandalized"
        raise Decline("done")


@pytest.mark.parametrize(
    "make, law",
    [
        (Liar, "test_a_claim_of_exactness_holds"),
        (Fickle, "test_equal_inputs_give_equal_rewrites"),
        (Vandal, "test_the_input_graph_stays_as_it_was"),
        (Vandal, "test_some_site_is_accepted"),
    ],
)
def test_breaches_are_noticed(make: type[Pass], law: str) -> None:
    chosen = make

    class Suite(PassContract):
        make = chosen

        def graphs(self) -> Iterable[Graph]:
            return [random_graph(seed, without=MIXING) for seed in range(3)]

    with pytest.raises(AssertionError):
        getattr(Suite(), law)()


def autogrow() -> RulesPolicy:
    freeze = Plateau(window=6, less_than=0.01)
    grow = RulePlan("rules.0", "insert-block", every=2, freeze=freeze, at_most=4)
    return RulesPolicy(PhasePlan("phase", rules=(grow,), until="all_frozen"), seed=0)


def mixed_rules() -> RulesPolicy:
    grow = RulePlan("rules.0", "insert-block", when=AtEpochs((3, 5, 9)), where=Where(order="random", count=2))
    shrink = RulePlan("rules.1", "remove-block", every=7, where=Where(stages=("s2",), order="all"))
    return RulesPolicy(PhasePlan("phase", epochs=30, rules=(grow, shrink)), seed=3)


MUTATIONS = (RulePlan("rules.0", "insert-block", weight=2.0), RulePlan("rules.1", "insert-block", at_most=3))


def evolved(**options: Any) -> Policy:
    plan = PhasePlan("phase", rules=MUTATIONS, policy="evolve", policy_options=options)
    return make_policy(plan, seed=5)


POLICIES: Mapping[str, tuple[Callable[[], Policy], ...]] = {
    "rules": (autogrow, mixed_rules),
    "evolve": (
        lambda: evolved(population=4, generations=12, select={"tournament": 2}, epochs=2),
        lambda: evolved(population=1, offspring=3, generations=4, replace="parents", keep_parent=True, mutations=2),
        lambda: evolved(population=3, offspring=2, generations=8, replace="worst", objectives=["val.loss", "macs"]),
    ),
}
POLICY_LAWS = sorted(name for name in vars(PolicyContract) if name.startswith("test_"))
OURS = [name for name in policies.names() if policies._entry_points()[name].value.startswith("nasir.")]


@pytest.mark.parametrize("law", POLICY_LAWS)
@pytest.mark.parametrize("name, number", [(name, n) for name in OURS for n in range(len(POLICIES[name]))])
def test_shipped_policy(name: str, number: int, law: str) -> None:
    class Suite(PolicyContract):
        make = staticmethod(POLICIES[name][number])

    getattr(Suite(), law)()


class Forgetful:
    """Counts its own calls, which a resumed run would not."""

    def __init__(self) -> None:
        self.calls = 0

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        self.calls += 1
        if self.calls % 3:
            return ()
        return (RewriteSite("rules.0", "insert-block", {}, "s1", f"call {self.calls}"),)


class Careless:
    """Draws from the global generator, counts all records, never stops, recalls nobody: by turns."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        grow = (RewriteSite("rules.0", "insert-block", {}, "s1", "because"),)
        if self.fault == "random":
            return grow if isinstance(history[-1], EpochRecord) and random.random() < 0.5 else ()
        if self.fault == "counts":
            return grow if isinstance(history[-1], EpochRecord | CheckpointRecord) and len(history) % 2 else ()
        return grow if self.fault == "loops" else (RecallIndividual(3, "gone"),)


@pytest.mark.parametrize(
    "fault, law, text",
    [
        ("random", "test_global_random_state_neither_matters_nor_moves", ""),
        ("counts", "test_records_of_other_kinds_change_nothing", "after"),
        ("loops", "test_two_runs_decide_alike", "still decides after 1000 rounds"),
        ("recalls", "test_two_runs_decide_alike", "individual 3 is not stored"),
    ],
)
def test_a_careless_policy_is_noticed(fault: str, law: str, text: str) -> None:
    class Suite(PolicyContract):
        make = staticmethod(lambda: Careless(fault))

    with pytest.raises(AssertionError, match=text or None):
        getattr(Suite(), law)()


@pytest.mark.parametrize(
    "law", ["test_decisions_follow_from_history_alone", "test_later_records_do_not_change_earlier_decisions"]
)
def test_a_policy_with_hidden_state_is_noticed(law: str) -> None:
    class Suite(PolicyContract):
        make = Forgetful

    with pytest.raises(AssertionError):
        getattr(Suite(), law)()


@pytest.mark.parametrize(
    "op, shape, law",
    [
        ("layer_norm", (3, 4), "test_the_mixes_flag_is_honest"),
        ("gelu", (4, 3, 3), "test_the_sign_flag_holds_on_random_values"),
    ],
)
def test_a_wrong_flag_is_noticed(op: str, shape: tuple[int, ...], law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loaded, op, replace(op_named(op), mixes=False, nonnegative="always"))

    class Suite(OpContract):
        cases = (OpCase(op, (shape,)),)

    with pytest.raises(AssertionError):
        getattr(Suite(), law)()
