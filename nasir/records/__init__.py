"""Records of a journal, one frozen class per kind: the events of a run, with the meaning and range of each number.

for record in run.journal:
    match record:
        case EpochRecord(): print(record.epoch, record.metrics["val.accuracy"])
        case DecisionRecord(action="freeze"): print(record.site, record.reason)
"""

from __future__ import annotations

from nasir.records.base import IfMissing, Key, Record
from nasir.records.data import DataSummary
from nasir.records.kinds import (
    KINDS,
    CheckpointRecord,
    CompilationRecord,
    DecisionRecord,
    DeclinedRecord,
    DroppedRecord,
    EndRecord,
    EpochRecord,
    KeptRecord,
    NetworkRecord,
    PhaseRecord,
    PrefixRecord,
    PrunedRecord,
    RecalledRecord,
    ResumeRecord,
    RewriteRecord,
    StartRecord,
    TrialRecord,
)
from nasir.records.network import newest_network
from nasir.records.picking import last_of, of_kind
from nasir.records.reading import from_json, read_record, typed

__all__ = [
    "KINDS",
    "CheckpointRecord",
    "CompilationRecord",
    "DataSummary",
    "DecisionRecord",
    "DeclinedRecord",
    "DroppedRecord",
    "EndRecord",
    "EpochRecord",
    "IfMissing",
    "KeptRecord",
    "Key",
    "NetworkRecord",
    "PhaseRecord",
    "PrefixRecord",
    "PrunedRecord",
    "RecalledRecord",
    "Record",
    "ResumeRecord",
    "RewriteRecord",
    "StartRecord",
    "TrialRecord",
    "from_json",
    "last_of",
    "newest_network",
    "of_kind",
    "read_record",
    "typed",
]
