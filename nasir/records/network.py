"""What records say of the network that they end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasir.records.base import Record
from nasir.records.kinds import EndRecord, EpochRecord, StartRecord

__all__ = ["newest_network"]


def newest_network(records: Sequence[Record]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """(`params` and `macs`, blocks of each stage), as the end, else the last epoch, else the start says; empty where
    none of them does."""
    cost: Mapping[str, int | None] = {}
    depths: Mapping[str, int] = {}
    for kind in (EndRecord, EpochRecord, StartRecord):
        last = next((record for record in reversed(records) if isinstance(record, kind)), None)
        if isinstance(last, EpochRecord):
            cost = cost or {"params": last.params, "macs": last.macs}
        elif isinstance(last, EndRecord | StartRecord):
            cost = cost or last.cost
        depths = depths or (last.depths if last is not None else {})
    return {key: value for key in ("params", "macs") if (value := cost.get(key)) is not None}, dict(depths)
