"""Replaying a run: its rewrites from the journal alone, and what a second training of it does differently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasir.errors import Decline, JournalError, SpecError
from nasir.growing import GrowingSequence
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import lineage
from nasir.policy import RewriteSite
from nasir.records import (
    DecisionRecord,
    DeclinedRecord,
    DroppedRecord,
    EndRecord,
    EpochRecord,
    KeptRecord,
    PhaseRecord,
    RecalledRecord,
    Record,
    RewriteRecord,
    StartRecord,
    TrialRecord,
)
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.propose import make_pass, propose
from nasir.spec import Spec, hash_code, import_plugins
from nasir.spec.past import load_stored
from nasir.transfer import TransferPlan

COMPARED = (
    PhaseRecord
    | EpochRecord
    | DecisionRecord
    | TrialRecord
    | RewriteRecord
    | DeclinedRecord
    | KeptRecord
    | RecalledRecord
    | DroppedRecord
    | EndRecord
)
VOLATILE = frozenset(
    {
        "n",
        "time",
        "seconds",
        "cpu_seconds",
        "compiled_graphs",
        "manifest",
        "path",
        "step",
        "supersedes_from",
        "checkpoint_step",
        "spec_digest",
    }
)


def reopen(directory: RunDirectory) -> tuple[Spec, dict[str, Any]]:
    """(spec, environment) of a run, its plugins imported; refuses code that changed, before running any."""
    env = directory.env()
    spec = load_stored(directory.spec_path)
    for code in hash_code(spec):
        known = env["plugins"].get(Path(code.path).name)
        if known != code.sha256:
            raise SpecError(
                f"{code.path}: {'plugin ' * (code.path in spec.plugins)}changed since the run began (sha256 was "
                f"{str(known)[:12]}, is {code.sha256[:12]}); restore it, or start a new run"
            )
    import_plugins(spec)
    return spec, env


def replay_graphs(directory: RunDirectory) -> tuple[Graph, ...]:
    """Rebuild every network of a run from its journal: each pass is applied again and must give the same graph and
    plan as recorded, bit for bit. Passes that used measurements are replayed from their recorded plan.

    Where a policy recalled an individual, what follows is built on the network that was kept as it; such a network is
    among those returned once more. Raises JournalError at the first rewrite that does not come out as recorded.
    """
    reopen(directory)  # the passes of plugins
    records = GrowingSequence(directory.effective())
    if not records:
        raise JournalError(f"{directory.path}: the journal is empty")
    start = records[0]
    if not isinstance(start, StartRecord):
        raise JournalError(f"{directory.path}: the journal begins with a {start.kind} record; restore it from a copy")
    graphs = [Graph.from_json(directory.get_blob(start.graph))]
    kept: dict[int, Graph] = {}
    for index, record in enumerate(records):
        match record:
            case KeptRecord():
                kept[record.individual] = graphs[-1]
                _check_individual(directory, graphs[-1], record)
            case RecalledRecord():
                graphs.append(kept[record.individual])
                _check_individual(directory, graphs[-1], record)
            case RewriteRecord():
                seen = Evidence(history=lineage(records[:index]), seed=start.seed, ordinal=record.ordinal)
                graphs.append(_replay(directory, graphs[-1], record, seen))
    return tuple(graphs)


def _check_individual(directory: RunDirectory, graph: Graph, record: KeptRecord | RecalledRecord) -> None:
    if Graph.from_json(directory.get_blob(record.graph)) != graph:
        raise JournalError(
            f"{directory.path}: individual {record.individual} was {record.kind} as another network than its "
            "rewrites lead to"
        )


def _replay(directory: RunDirectory, graph: Graph, record: RewriteRecord, seen: Evidence) -> Graph:
    place = f"{directory.path}: rewrite {record.ordinal} ({record.pass_name} at {record.site})"
    if graph.digest != record.before:
        raise JournalError(f"{place}: begins with another network than the one before it ended with")
    after = Graph.from_json(directory.get_blob(record.graph))
    plan = TransferPlan.from_json(directory.get_blob(record.plan))
    plan.verify(graph, after)
    for digest in plan.digests():
        directory.get_array(digest)  # whole, and still what the plan means
    if not make_pass(record.pass_name, record.options).needs:
        decision = RewriteSite("", record.pass_name, record.options, record.site)
        try:
            again = propose(decision, graph, lambda _: seen)
        except Decline as refusal:
            raise JournalError(f"{place}: the pass now refuses: {refusal}; was it changed since?") from None
        if again.graph != after or again.plan.to_json() != plan.to_json():
            raise JournalError(f"{place}: the pass now gives another network; was it changed since?")
    if after.digest != record.after:
        raise JournalError(f"{place}: its stored network does not match the journal")
    return after


def compare(first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    """Differences of two journals in what must be equal bit for bit: decisions, rewrites, metrics."""
    left = [_stable(record) for record in first if isinstance(record, COMPARED)]
    right = [_stable(record) for record in second if isinstance(record, COMPARED)]
    differences = [f"record {i}: {a} != {b}" for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b]
    if len(left) != len(right):
        differences.append(f"{len(left)} records against {len(right)}")
    return differences


def _stable(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.to_json().items() if key not in VOLATILE}
