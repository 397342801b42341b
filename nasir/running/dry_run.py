"""`nasir check --simulate`: which rewrite would fire when, from given metrics; real rewrites, no weights, no torch."""

from __future__ import annotations

from pathlib import Path

from nasir.errors import Decline
from nasir.ir import Graph
from nasir.policy import Decision, PhaseView, read_metrics, simulate
from nasir.records import Record
from nasir.running.decisions import view
from nasir.spec import Spec, make_pass, make_policy


def simulate_spec(spec: Spec, graph: Graph, metrics: Path, epochs: int) -> list[Record]:
    """The records a run of `spec` with the metrics of a CSV file would write; the last metrics are held.

    Passes that want measurements cannot act without a trained network: they count as declined, with that reason.
    Raises DataError for a malformed file.
    """
    current = graph

    def apply(decision: Decision) -> PhaseView:
        nonlocal current
        if decision.action == "keep":
            kept[int(decision.individual or 0)] = current
        if decision.action == "recall":
            current = kept[int(decision.individual or 0)]
        if decision.action != "rewrite":
            return view(current, plans)
        change = make_pass(decision.pass_name, decision.options)
        if change.needs:
            raise Decline(f"{decision.pass_name} measures the network, which a simulation has not trained")
        rewrite = change.attempt(current, change.site(current, str(decision.site)))
        if decision.budget is not None:
            cost = rewrite.graph.cost()
            excess = decision.budget.excess(params=cost.params, macs=cost.macs)
            if excess:
                raise Decline(f"past the budget: {excess}")
        current = rewrite.graph
        return view(current, plans)

    kept: dict[int, Graph] = {}
    plans = tuple(phase.plan() for phase in spec.phases)
    return simulate(plans, spec.seed, read_metrics(metrics), view(graph, plans), apply, epochs, make_policy)
