"""`insert-random-block`: a block somewhere in the network, at random, and not twice in one place (ResBuilder).

Positions as in the released code of ResBuilder; the near-zero start is the paper's, the code starts blocks like any
other layer. "Layers" are those on the network's main path (`nasir.analysis.main_path`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from nasir.analysis.main_path import Layer, layers
from nasir.analysis.untied import is_shortcut
from nasir.blocks import build_block, init_rules, space_by_depth
from nasir.blocks.tail import branch_tail, near_zero
from nasir.errors import Decline, TypeRuleError
from nasir.ir import Draft, Graph, Port
from nasir.options import Remedy
from nasir.options.ranges import Count
from nasir.records import EpochRecord, Record, RewriteRecord
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass

Position = Literal["equal_blockwise", "after_ending_skip", "after_first", "random"]

LEAST = 1e-12  # of sigma: behind a ReLU, weights that are exactly zero never get a gradient


@register("insert-random-block")
@dataclass(frozen=True)
class InsertRandomBlock(Pass):
    """Insert a residual block behind a random layer of the network.

    position     equal_blockwise: a segment between two poolings, then one of its anchors (the first layer of the
                 network, a pooling, or a sum that ends a skip), both uniformly; after_ending_skip: uniformly one of all
                 anchors; after_first: behind the first layer; random: behind any layer outside of blocks
    block        template {block: name or definition, options: {...}}; null: the block "resbuilder"
    convs        convolutions of "resbuilder", where `block` is null
    width        of the convolutions of "resbuilder", where its options do not say: stream, as many channels as arrive;
                 last_conv, those of the last convolution before (released code), fewer where a sum was padded
    init         near_zero: the last weights of the branch are N(0, sigma) (paper); default: nothing special (code)
    sigma        standard deviation of near_zero; the paper's range is 1e-4 to 1e-3
    initializer  of all other weights of the block, where its template names none: a name as for `init:` of a spec
    draws        positions drawn until the architecture was never trained in this run; the last one is used anyway
    """

    position: Position = "equal_blockwise"
    block: Mapping[str, Any] | None = None
    convs: Count = 2
    width: Literal["stream", "last_conv"] = "stream"
    init: Literal["near_zero", "default"] = "near_zero"
    sigma: Annotated[float, Ge(LEAST), Remedy("a block that is zero before a ReLU never learns; use 1e-3")] = 1e-3
    initializer: str = "glorot_uniform"
    draws: Count = 9

    def __post_init__(self) -> None:
        init_rules(self.initializer)

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network as a whole."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Draw a layer and build the block behind it; everything that read the layer reads the block."""
        graph = draft.base
        assert graph is not None
        segments = anchors(graph, self.position)
        rng = seen.rng(self.name)
        trained = architectures(seen.history, graph)
        digests: dict[int, str] = {}
        end = -1
        for _ in range(self.draws):
            segment = segments[int(rng.integers(len(segments)))]
            end = segment[int(rng.integers(len(segment)))]
            if not trained:
                break
            if end not in digests:
                trial = graph.draft()
                self._insert(trial, end)
                digests[end] = trial.commit().digest
            if digests[end] not in trained:
                break
        self._insert(draft, end, start=self.init == "near_zero")

    def _insert(self, draft: Draft, end: int, start: bool = False) -> None:
        """Build the block behind the node `end`; with `start` its branch starts near zero."""
        assert draft.base is not None
        before = Port(end)
        template = dict(self.block or {"block": "resbuilder", "options": {"convs": self.convs}})
        if "branch" in template:
            template = {"block": template}
        template.setdefault("init", self.initializer)
        if self.width == "last_conv" and template.get("block") == "resbuilder":
            template["options"] = {"out": _last_width(draft.base, end), **(template.get("options") or {})}
        known = set(draft.nodes)
        stage = _stage(draft.base, end) or "inserted"
        path = draft.free_label(stage)
        try:
            after = build_block(draft, before, path, template)
            shape = draft.shape(after)
        except TypeRuleError as error:
            raise Decline(f"behind '{draft.nodes[end].label}' the block does not fit: {error}") from error
        if shape != draft.shape(before):
            raise Decline(
                f"the block turns {draft.shape(before)} into {shape}; it must keep the shape: leave `out` out of it"
            )
        draft.join(stage, path)
        if start:
            near_zero(draft, branch_tail(draft, before, after), self.sigma)
            draft.claim("approximate")
        draft.rewire(before, after, only=known)
        draft.outputs = [after if port == before else port for port in draft.outputs]
        space_by_depth(draft, only={path})


def anchors(graph: Graph, position: Position = "equal_blockwise") -> list[list[int]]:
    """Nodes a block may go behind, in groups that are drawn with equal chances; Decline when there are none."""
    chain = layers(graph)
    fit = [layer for layer in chain if _image(graph, layer.end) and _outside_of_blocks(graph, layer.end)]
    first = chain[:1]
    if position == "after_first":
        fit = [layer for layer in fit if layer in first]
    elif position != "random":
        fit = [layer for layer in fit if layer in first or layer.kind == "pool" or _ends_skip(graph, layer)]
    if not fit:
        raise Decline(f"no place for position: {position}: no layer with an image behind it lies on every path")
    if position != "equal_blockwise":
        return [[layer.end for layer in fit]]
    segments: dict[int, list[int]] = {}
    for layer in fit:
        segments.setdefault(layer.segment, []).append(layer.end)
    return list(segments.values())


def architectures(history: Iterable[Record], graph: Graph) -> set[str]:
    """Digests of the architectures that were trained for at least one epoch, by the journal of a run that is at
    `graph` now."""
    trained: set[str] = set()
    epochs = 0
    for record in history:
        if isinstance(record, EpochRecord):
            epochs += 1
        elif isinstance(record, RewriteRecord):
            if epochs:
                trained.add(record.before)
            epochs = 0
    if epochs:
        trained.add(graph.digest)
    return trained


def _image(graph: Graph, node_id: int) -> bool:
    return len(graph.infer.types[Port(node_id)].shape) == 3


def _ends_skip(graph: Graph, layer: Layer) -> bool:
    return layer.kind == "merge" and graph.nodes[layer.node].facts.family == "sum"


def _outside_of_blocks(graph: Graph, node_id: int) -> bool:
    """Whether what is built behind the node lies in no block: blocks are not nested."""
    inside = [path for path in graph.owners[node_id] if graph.regions[path].kind == "block"]
    return all(graph.boundary(path)[1] == node_id for path in inside)


def _last_width(graph: Graph, end: int) -> int:
    """Output channels of the last convolution up to the node `end`, shortcuts left out; 0 where there is none."""
    before = graph.order[: graph.order.index(end) + 1]
    convs = [n for n in before if any(slot.is_convolution for slot in graph.infer.slots[n].values())]
    main_convs = [n for n in convs if not is_shortcut(graph, n)]
    return graph.infer.types[Port(main_convs[-1])].shape[0] if main_convs else 0


def _stage(graph: Graph, node_id: int) -> str | None:
    """Path of the stage a node lies in."""
    return next((path for path in graph.owners[node_id] if graph.regions[path].kind == "stage"), None)
