"""`nasir check --simulate`: which rewrite would fire when, from given metrics; real rewrites, no weights, no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nasir.errors import Decline
from nasir.ir import Graph
from nasir.policy import KeepIndividual, PhaseView, RecallIndividual, RewriteSite, Structural, read_metrics, simulate
from nasir.records import Record
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.propose import propose
from nasir.running.decisions import view
from nasir.spec import Spec, make_policy


def simulate_spec(spec: Spec, graph: Graph, metrics: Path, epochs: int) -> list[Record]:
    """The records a run of `spec` with the metrics of a CSV file would write; the last metrics are held.

    Passes that want measurements cannot act without a trained network: they count as declined, with that reason.
    Raises DataError for a malformed file.
    """
    current = graph

    def apply(decision: Structural) -> PhaseView:
        nonlocal current
        match decision:
            case KeepIndividual(number):
                kept[number] = current
            case RecallIndividual(number):
                current = kept[number]
            case RewriteSite():
                current = propose(decision, current, partial(_unmeasured, decision.pass_name)).graph
        return view(current, plans)

    kept: dict[int, Graph] = {}
    plans = tuple(phase.plan() for phase in spec.phases)
    return simulate(plans, spec.seed, read_metrics(metrics), view(graph, plans), apply, epochs, make_policy)


def _unmeasured(pass_name: str, needs: tuple[Need, ...]) -> Evidence:
    if needs:
        raise Decline(f"{pass_name} measures the network, which a simulation has not trained")
    return Evidence()
