"""What a network costs, region by region: the rows and the text of `nasir cost`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nasir.analysis.roofline import DeviceProfile, estimates
from nasir.ir import Cost, Graph
from nasir.ir.cost import total
from nasir.training.backend import Latency

OUTSIDE = "(outside regions)"
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `depth` is that of the region, `seconds` the estimate of the roofline, None without a profile."""

    name: str
    kind: str  # region kind, op, or "" for sums
    depth: int
    cost: Cost
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Costs of one sample; `estimated_seconds` of one batch, when estimated."""
        facts = {"name": self.name, "kind": self.kind, **asdict(self.cost), "flops": self.cost.flops}
        return facts if self.seconds is None else {**facts, "estimated_seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class CostTable:
    """Rows of a graph. `regions` nest; top-level ones and `outside` add up to `total`."""

    regions: tuple[Row, ...]
    outside: Row
    total: Row
    nodes: tuple[Row, ...]
    batch: int

    def to_json(self) -> dict[str, Any]:
        """The table as data."""
        return {
            "batch": self.batch,
            "regions": [row.to_json() for row in self.regions],
            "outside": self.outside.to_json(),
            "total": self.total.to_json(),
            "nodes": [row.to_json() for row in self.nodes],
        }


def cost_table(graph: Graph, profile: DeviceProfile | None = None, batch: int = 1, nodes: bool = False) -> CostTable:
    """Costs by region in the order data flows, of every node too if `nodes`; estimates need a `profile`."""
    estimated = estimates(graph, profile, batch) if profile is not None else None

    def row(name: str, kind: str, depth: int, ids: Collection[int]) -> Row:
        seconds = None if estimated is None else sum(estimated[node_id].seconds for node_id in ids)
        return Row(name, kind, depth, total(graph.costs[node_id] for node_id in ids), seconds)

    position = {node_id: index for index, node_id in enumerate(graph.order)}
    first = {path: min(map(position.__getitem__, graph.members(path)), default=len(position)) for path in graph.regions}
    above = {path: [*reversed(graph.around(path))] if graph.members(path) else [] for path in graph.regions}
    paths = sorted(graph.regions, key=lambda path: [(first[p], p) for p in (*above[path], path)])
    regions = [row(path, graph.regions[path].kind, len(above[path]), graph.members(path)) for path in paths]
    outside = [node_id for node_id in graph.order if not graph.owners[node_id]]
    return CostTable(
        tuple(regions),
        row(OUTSIDE, "", 0, outside),
        row(TOTAL, "", 0, graph.order),
        tuple([row(graph.nodes[n].label, graph.nodes[n].op, 0, (n,)) for n in graph.order] if nodes else ()),
        batch,
    )


def render(
    table: CostTable,
    *,
    flops: bool = False,
    profile: DeviceProfile | None = None,
    measured: Latency | None = None,
) -> str:
    """The table as text, costs of one sample; below it the estimate and the measured time of one batch."""
    head = ["", "kind", "params", "FLOPs" if flops else "MACs", "activations", "weights"]
    rows = [*table.nodes, *table.regions, table.outside, table.total]
    cells = [[*head, "estimate"] if profile else head]
    for row in rows:
        cost = row.cost
        numbers = [f"{cost.params:,}", f"{cost.flops if flops else cost.macs:,}"]
        numbers += [_bytes(cost.activation_bytes), _bytes(cost.weight_bytes)]
        if row.seconds is not None:
            numbers.append(milliseconds(row.seconds))
        cells.append(["  " * row.depth + row.name, row.kind, *numbers])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join([*lines, *_footer(table, profile, measured)])


def _footer(table: CostTable, profile: DeviceProfile | None, measured: Latency | None) -> list[str]:
    lines = []
    if profile is not None:
        assert table.total.seconds is not None
        lines.append(
            f"estimated: {milliseconds(table.total.seconds)} for a batch of {table.batch} on {profile.name} "
            f"({profile.flops_per_second / 1e9:,.0f} GFLOP/s, {profile.bytes_per_second / 1e9:,.0f} GB/s)"
        )
    if measured is not None:
        lines.append(
            f"measured:  {milliseconds(measured.median)} for a batch of {measured.batch} on {measured.device} "
            f"(fastest {milliseconds(measured.minimum)}, quartiles {milliseconds(measured.spread)} apart, "
            f"CPU threads: {measured.threads})"
        )
    return ["", *lines] if lines else []


def describe(profile: DeviceProfile | None, measured: Latency | None) -> Mapping[str, Any]:
    """Profile and measurement as JSON data, null where there is none."""
    return {
        "profile": asdict(profile) if profile is not None else None,
        "measured": asdict(measured) if measured is not None else None,
    }


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"


def _bytes(count: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
