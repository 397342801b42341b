"""The data of a spec, for `nasir check`: looked at quickly, or, with --data, read and summarized."""

from __future__ import annotations

import sys

from nasir.errors import DataError
from nasir.ir import Graph
from nasir.records import DataSummary
from nasir.running.before import check_batches, check_data
from nasir.spec import Spec


def data_of(spec: Spec, graph: Graph, whole: bool) -> DataSummary | None:
    """The summary of the data, None where they could not be looked at, which is then said (--data: an error)."""
    check_batches(spec, graph)
    data = check_data(spec, graph, whole)
    if isinstance(data, DataSummary):
        return data
    if whole:
        raise DataError(f"{data}; leave out --data")
    print(f"note: {data}", file=sys.stderr)
    return None


def print_data(data: DataSummary, whole: bool) -> None:
    """What was found: all of it, or the warnings."""
    from nasir.report.classes import data_lines

    if whole:
        print("\n".join(data_lines(data)))
        return
    for text in data.warnings:
        print(f"note: data: {text}", file=sys.stderr)
