"""The text drawing of a network: stages and blocks with widths, parameters and MACs."""

from __future__ import annotations

from itertools import groupby

from nasir.ir import Graph, Port, Region
from nasir.report.windows import window_of


def render(graph: Graph) -> str:
    """One line a block (equal neighbours folded) and a line for each node outside blocks, with their cost."""
    rows = [("", "op or block", "shape", "params", "MACs")]
    for key, group in groupby(_items(graph), key=lambda item: item[1]):
        members = list(group)
        if isinstance(key, tuple):
            rows.append(_block_row(graph, [region for region, _ in members if isinstance(region, Region)]))
        else:
            rows += [_node_row(graph, node) for node, _ in members if isinstance(node, int)]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        left = "  ".join(text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True))
        right = "  ".join(text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True))
        lines.append(f"{left}  {right}".rstrip())
    cost = graph.cost()
    depths = ", ".join(f"{stage} {depth}" for stage, depth in graph.depths().items())
    lines.append("")
    lines.append(f"depth: {depths or 'no stages'}")
    lines.append(
        f"total: {cost.params:,} params, {cost.macs:,} MACs, "
        f"{cost.activation_bytes / 2**20:.2f} MiB activations per sample"
    )
    return "\n".join(lines)


def _items(graph: Graph) -> list[tuple[int | Region, object]]:
    """Nodes and blocks in order, each with the key by which neighbours fold."""
    owner = {node_id: block for block in graph.blocks for node_id in graph.members(block.path)}
    items: list[tuple[int | Region, object]] = []
    seen: set[str] = set()
    for node_id in graph.order:
        block = owner.get(node_id)
        if block is None:
            items.append((node_id, node_id))
        elif block.path not in seen:
            seen.add(block.path)
            items.append((block, _shape_key(graph, block)))
    return items


def _shape_key(graph: Graph, block: Region) -> tuple[object, ...]:
    members = [graph.nodes[n] for n in graph.members(block.path)]
    # how much is dropped in training may depend on depth
    nodes = tuple((node.op, () if node.facts.drops else tuple(node.attrs.items())) for node in members)
    return (graph.stage_of(block.path), nodes, graph.cost(block.path).macs)


def _block_row(graph: Graph, blocks: list[Region]) -> tuple[str, str, str, str, str]:
    first, last = blocks[0].path, blocks[-1].path
    name = first if len(blocks) == 1 else f"{first} .. {last}"
    weighted = [n for n in graph.members(first) if graph.nodes[n].facts.convolves]
    convs = " ".join(f"{window_of(graph, n) or 'fc'}:{graph.nodes[n].attrs['out']}" for n in weighted)
    what = f"{len(blocks)} x [{convs}]" if len(blocks) > 1 else f"[{convs}]"
    exit_ = graph.boundary(last)[1]
    params = sum(graph.cost(block.path).params for block in blocks)
    macs = sum(graph.cost(block.path).macs for block in blocks)
    return (name, what, _shape(graph, exit_), f"{params:,}", f"{macs:,}")


def _node_row(graph: Graph, node_id: int) -> tuple[str, str, str, str, str]:
    node = graph.nodes[node_id]
    cost = graph.cost(node.label)
    what = node.op
    window = window_of(graph, node_id)
    if node.facts.convolves and window:
        stride = node.attrs.get("stride", 1)
        what += f" {window}" + (f" / {stride}" if stride != 1 else "")
    numbers = (f"{cost.params:,}" if cost.params else "", f"{cost.macs:,}" if cost.macs else "")
    return (node.label, what, _shape(graph, node_id), *numbers)


def _shape(graph: Graph, node_id: int) -> str:
    return "x".join(map(str, graph.infer.types[Port(node_id)].shape))
