"""Drawings of a network: an overview with one box a block, and each block layer by layer, folded until asked for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nasir.counted import counted
from nasir.ir import Graph, Port, Region
from nasir.report.layout import layered
from nasir.report.plots import COLOURS, quantity
from nasir.report.windows import window_of

__all__ = ["draw", "overview"]

COLOUR_OF: Mapping[str | None, str] = {
    "weighted": "weight",
    "standardized": "weight",
    "norm": "norm",
    "scale": "norm",
    "activation": "act",
    "pool": "pool",
    "shape": "pool",
    **dict.fromkeys(("sum", "mean", "product", "concat", "split", "embedding", "attention"), "merge"),
}
"""Colours of ops by family; all others share one."""
LETTER = 7.5  # widest average width of a letter of a stage's name
TIMES = "\u00d7"
BOX_WIDTH, BOX_HEIGHT, PITCH = 178.0, 36.0, 56.0


def draw(graph: Graph, born: Mapping[str, str] | None = None) -> str:
    """The network as HTML: overview, then stages and blocks to unfold. `born` tells of blocks when they were added."""
    born = born or {}
    drawings = _Drawings(graph)
    sections = "".join(drawings.section(part, born) for part in _parts(graph))
    return f'<div class="scroll">{overview(graph, born)}</div>{drawings.symbols()}{sections}'


# -- overview


def overview(graph: Graph, born: Mapping[str, str] | None = None) -> str:
    """One box a block and loose weighted layer, left to right: taller for larger images, wider for more channels."""
    born = born or {}
    owner = {node_id: block.path for block in graph.blocks for node_id in graph.members(block.path)}
    shown: dict[Hashable, int] = {}  # block path or node id -> node whose output stands for it
    for node_id in graph.order:
        path = owner.get(node_id)
        if path is not None:
            shown[path] = node_id
        elif graph.nodes[node_id].facts.family == "input" or graph.nodes[node_id].facts.convolves:
            shown[node_id] = node_id
    stages = {block.path: graph.stage_of(block.path) for block in graph.blocks}
    stage_of = {path: stage for path, stage in stages.items() if stage in graph.depths()}
    colours = {stage.path: f"s{index % COLOURS}" for index, stage in enumerate(graph.stages)}
    sizes = {item: _extent(graph, node_id) for item, node_id in shown.items()}
    middle = max((height for _, height in sizes.values()), default=40.0) / 2 + 26
    x, boxes, wires, spans = 8.0, list[str](), list[str](), dict[str, tuple[float, float]]()
    for item, (width, height) in sizes.items():
        stage = (stage_of.get(item) or "") if isinstance(item, str) else ""
        if stage and stage not in spans and spans:  # its name must not run into the one before
            other, (left, _) = list(spans.items())[-1]
            begin = max(x, left + LETTER * len(_legend(graph, other)))
            wires.append(f'<line class="wire" x1="{x:.1f}" x2="{begin:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
            x = begin
        style = f"{colours.get(stage, 'loose')}{' grown' if item in born else ''}"
        boxes.append(
            f'<g class="{style}"><title>{escape(_about(graph, item, shown[item], born))}</title>'
            f'<rect x="{x:.1f}" y="{middle - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"/></g>'
        )
        if stage:
            spans[stage] = (spans.get(stage, (x, x))[0], x + width)
        x += width + 7
        wires.append(f'<line class="wire" x1="{x - 7:.1f}" x2="{x:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    names = "".join(_span(graph, stage, ends, 2 * middle - 8) for stage, ends in spans.items())
    height = 2 * middle + 22
    total = max([x, *(left + LETTER * len(_legend(graph, stage)) for stage, (left, _) in spans.items())])
    zoom = min(1.6, max(1.0, 900 / total))
    return (
        f'<svg class="overview" width="{zoom * total:.0f}" height="{zoom * height:.0f}" '
        f'viewBox="0 0 {total:.1f} {height:.1f}" role="img" '
        f'aria-label="The network, one box a block">{"".join([*wires, *boxes])}{names}</svg>'
    )


def _extent(graph: Graph, node_id: int) -> tuple[float, float]:
    """(width, height) in pixels: logarithmic, since both run over orders of magnitude."""
    value = graph.infer.types[Port(node_id)]
    width = 5 + 3.2 * math.log2(1 + value.shape[value.channel_axis])
    places = value.with_channels(1).shape
    side = math.sqrt(places[0]) if len(places) == 2 else max(places)  # tokens stand for a square image
    height = 22 + 14 * math.log2(max(1.0, side))
    return width, height


def _about(graph: Graph, item: Hashable, node_id: int, born: Mapping[str, str]) -> str:
    shape = _shape(graph, node_id)
    path = item if isinstance(item, str) else graph.nodes[node_id].label
    cost = graph.cost(path)
    text = f"{path}: {shape}, {quantity(cost.params)} parameters, {quantity(cost.macs)} MACs"
    return f"{text}; {born[path]}" if path in born else text


def _legend(graph: Graph, stage: str) -> str:
    return f"{stage} {TIMES} {graph.depths().get(stage, 0)}"


def _span(graph: Graph, stage: str, ends: tuple[float, float], y: float) -> str:
    left, right = ends
    return (
        f'<path class="span" d="M{left:.1f} {y:.1f}v5H{right:.1f}v-5"/>'
        f'<text class="legend" x="{left:.1f}" y="{y + 20:.1f}">{escape(_legend(graph, stage))}</text>'
    )


# -- stages and blocks


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of the network in topological order: a stage, a block outside stages, or loose nodes between them."""

    region: Region | None
    nodes: tuple[int, ...]


def _parts(graph: Graph) -> Iterator[_Part]:
    regions = [*graph.stages, *(block for block in graph.blocks if graph.stage_of(block.path) not in graph.depths())]
    owner = {node_id: region for region in regions for node_id in graph.members(region.path)}
    done: set[str] = set()
    loose: list[int] = []
    for node_id in graph.order:
        region = owner.get(node_id)
        if region is None:
            loose.append(node_id)
        elif region.path not in done:
            if loose:
                yield _Part(None, tuple(loose))
                loose = []
            done.add(region.path)
            yield _Part(region, graph.members(region.path))
    if loose:
        yield _Part(None, tuple(loose))


class _Drawings:
    """Renders parts; blocks that look alike share one drawing (`<symbol>`), which keeps deep networks small."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._symbols: dict[str, tuple[str, float, float]] = {}

    def symbols(self) -> str:
        """The shared drawings so far; call after the sections have been made."""
        return "" if not self._symbols else f'<svg class="hidden" aria-hidden="true"><defs>{self._defs()}</defs></svg>'

    def _defs(self) -> str:
        return "".join(
            f'<symbol id="{name}" viewBox="0 0 {width:.1f} {height:.1f}">{body}</symbol>'
            for body, (name, width, height) in self._symbols.items()
        )

    def section(self, part: _Part, born: Mapping[str, str]) -> str:
        if part.region is None:
            names = [self.graph.nodes[node_id].label for node_id in part.nodes]
            title = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
            return self._fold("loose", title, self._facts(part.nodes), self._picture(part.nodes, ""))
        path = part.region.path
        if part.region.kind == "block":
            return self._block(part.region, born)
        blocks = self.graph.blocks_of(path)
        inside = {node_id for block in blocks for node_id in self.graph.members(block.path)}
        rest = tuple(node_id for node_id in part.nodes if node_id not in inside)
        body = "".join(self._block(block, born) for block in blocks)
        if rest:
            body += self._fold("block", "other nodes", self._facts(rest), self._picture(rest, path + "."))
        count = counted(len(blocks), "block")
        return self._fold("stage", path, f"{count} · {self._facts(part.nodes)}", f'<div class="blocks">{body}</div>')

    def _block(self, block: Region, born: Mapping[str, str]) -> str:
        nodes = self.graph.members(block.path)
        note = f' <em class="born">{escape(born[block.path])}</em>' if block.path in born else ""
        return self._fold("block", block.path, self._facts(nodes), self._picture(nodes, block.path + "."), note)

    def _fold(self, style: str, title: str, facts: str, body: str, note: str = "") -> str:
        summary = f"<summary><b>{escape(title)}</b>{note} <span>{escape(facts)}</span></summary>"
        return f'<details class="{style}">{summary}{body}</details>'

    def _facts(self, nodes: Sequence[int]) -> str:
        costs = [self.graph.cost(self.graph.nodes[node_id].label) for node_id in nodes]
        params, macs = sum(cost.params for cost in costs), sum(cost.macs for cost in costs)
        return f"{_shape(self.graph, nodes[-1])} · {quantity(params)} params · {quantity(macs)} MACs"

    def _picture(self, nodes: Sequence[int], prefix: str) -> str:
        body, width, height = _layers(self.graph, nodes, prefix)
        name, *_ = self._symbols.setdefault(body, (f"net{len(self._symbols)}", width, height))
        return (
            f'<div class="scroll"><svg class="layers" width="{width:.0f}" height="{height:.0f}" role="img" '
            f'aria-label="{escape(prefix or "layers")}"><use href="#{name}"/></svg></div>'
        )


def _layers(graph: Graph, nodes: Sequence[int], prefix: str) -> tuple[str, float, float]:
    """(SVG elements, width, height) of nodes with the values they read from outside as one box `in` each."""
    inside = set(nodes)
    widths: dict[Hashable, float] = {}
    for node_id in nodes:
        for port in graph.nodes[node_id].inputs:
            if port.node not in inside:
                widths[-1 - port.node] = 60.0  # a negative key: the outside producer
    widths |= {node_id: BOX_WIDTH for node_id in nodes}
    edges: list[tuple[Hashable, Hashable]] = [
        (port.node if port.node in inside else -1 - port.node, node_id)
        for node_id in nodes
        for port in graph.nodes[node_id].inputs
    ]
    layout = layered(widths, edges)
    parts = [_edge(path) for path in layout.paths]
    for item, (x, layer) in layout.place.items():
        node_id = item if isinstance(item, int) else 0
        parts.append(_entry(graph, -1 - node_id, x) if node_id < 0 else _box(graph, node_id, prefix, x, layer))
    return "".join(parts), layout.width + 8, layout.layers * PITCH - (PITCH - BOX_HEIGHT) + 8


def _edge(path: Sequence[tuple[float, int]]) -> str:
    x, y = path[0][0] + 4, path[0][1] * PITCH + BOX_HEIGHT + 4
    steps = [f"M{x:.1f} {y:.1f}"]
    for index, (next_x, layer) in enumerate(path[1:], start=1):
        top = layer * PITCH + 4
        middle = (y + top) / 2
        steps.append(f"C{x:.1f} {middle:.1f} {next_x + 4:.1f} {middle:.1f} {next_x + 4:.1f} {top:.1f}")
        x, y = next_x + 4, top
        if index < len(path) - 1:  # a bend: straight through its layer
            y = top + BOX_HEIGHT
            steps.append(f"V{y:.1f}")
    head = f"M{x - 3.5:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3.5:.1f} {y - 6:.1f}"
    return f'<path class="edge" d="{"".join(steps)}{head}"/>'


def _entry(graph: Graph, node_id: int, x: float) -> str:
    shape = _shape(graph, node_id)
    return (
        f'<g class="entry"><rect x="{x - 26:.1f}" y="8" width="60" height="28" rx="14"/>'
        f'<text class="op" x="{x + 4:.1f}" y="26">{escape(shape if len(shape) < 10 else "in")}</text></g>'
    )


def _box(graph: Graph, node_id: int, prefix: str, x: float, layer: int) -> str:
    node = graph.nodes[node_id]
    left, top = x - BOX_WIDTH / 2 + 4, layer * PITCH + 4
    name = node.label.removeprefix(prefix)
    facts = _summary(graph, node_id)
    name = name if len(name) <= 24 else f"…{name[-23:]}"
    return (
        f'<g class="op-{COLOUR_OF.get(node.facts.family, "other")}">'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}" rx="6"/>'
        f'<text class="name" x="{left + BOX_WIDTH / 2:.1f}" y="{top + 15:.1f}">{escape(name)}</text>'
        f'<text class="op" x="{left + BOX_WIDTH / 2:.1f}" y="{top + 29:.1f}">{escape(facts)}</text></g>'
    )


def _summary(graph: Graph, node_id: int) -> str:
    node = graph.nodes[node_id]
    window, (stride, groups) = window_of(graph, node_id, TIMES), (node.attrs.get(key) for key in ("stride", "groups"))
    parts = [node.op.replace("_", " ")]
    if window:
        parts.append(window)
    if stride not in (None, 0, 1, [1, 1], (1, 1)):
        parts.append(f"/{stride[0] if isinstance(stride, (list, tuple)) else stride}")
    if groups not in (None, 1):
        parts.append(f"g{groups}")
    return f"{' '.join(parts)} → {_shape(graph, node_id)}"


def _shape(graph: Graph, node_id: int) -> str:
    return TIMES.join(map(str, graph.infer.types[Port(node_id)].shape))
