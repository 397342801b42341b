"""Proposing: what runs, dry runs and replays make of a decision, before anything is adopted."""

from __future__ import annotations

import pytest
from small_runs import SPEC

from nasir.errors import Decline, OptionError, UnknownName
from nasir.ir import Graph
from nasir.policy import Budget, RewriteSite
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.propose import propose
from nasir.rewriting.rewrite import get_pass
from nasir.spec import loads_spec
from nasir.spec.network import build


@pytest.fixture(scope="module")
def graph() -> Graph:
    return build(loads_spec(SPEC))


def nothing(needs: tuple[Need, ...]) -> Evidence:
    assert needs == ()
    return Evidence(seed=3, ordinal=2)


def test_it_is_what_the_pass_itself_makes_of_the_site(graph: Graph) -> None:
    rewrite = propose(RewriteSite("grow", "insert-block", {"init": "zero"}, "s1"), graph, nothing)
    assert rewrite.graph == get_pass("insert-block")(init="zero").attempt(graph, "s1").graph
    assert (rewrite.before, rewrite.site) == (graph, "s1") and rewrite.graph.depths()["s1"] == graph.depths()["s1"] + 1


def test_evidence_is_gathered_for_what_the_pass_needs_and_only_once(graph: Graph) -> None:
    asked = []

    def gather(needs: tuple[Need, ...]) -> Evidence:
        asked.append(needs)
        raise Decline("nothing is measured here")

    site = next(space.name for space in graph.infer.spaces if space.resizable)
    with pytest.raises(Decline, match="nothing is measured here"):
        propose(RewriteSite("cut", "prune-channels", {"score": "l1", "fraction": 0.5}, site), graph, gather)
    assert asked == [(Need("weight_l1"), Need("weights"))]


def test_past_its_budget_it_declines_with_the_figures(graph: Graph) -> None:
    cost = graph.cost()
    for budget in (Budget(params=cost.params), Budget(macs=cost.macs)):
        decision = RewriteSite("grow", "insert-block", {}, "s1", budget=budget)
        with pytest.raises(Decline, match=r"past the budget: (params|macs) [\d,]+ is past the budget of [\d,]+"):
            propose(decision, graph, nothing)
    assert propose(RewriteSite("grow", "insert-block", {}, "s1", budget=Budget(epochs=1)), graph, nothing)


def test_what_is_not_there_is_told(graph: Graph) -> None:
    with pytest.raises(Decline, match="has no site 's9' in the network as it is now"):
        propose(RewriteSite("grow", "insert-block", {}, "s9"), graph, nothing)
    with pytest.raises(UnknownName, match="unknown pass 'insert-blok'"):
        propose(RewriteSite("grow", "insert-blok", {}, "s1"), graph, nothing)
    with pytest.raises(OptionError, match="pass insert-block: inti: unknown option"):
        propose(RewriteSite("grow", "insert-block", {"inti": 1}, "s1"), graph, nothing)
