"""`insert-block`: one more block in a stage, initialized so that it starts silent, loud, or as a copy.

The initializers are AutoGrow's (Wen et al., KDD 2020, section 3; released code where it differs from the text) and
act on the last norm of the new block's residual branch; everything else keeps the stage's initializer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from nasir.blocks import build_block, space_by_depth
from nasir.blocks.end_scales import rescale
from nasir.blocks.scales import rule_of
from nasir.blocks.tail import branch_tails, near_zero, parameters
from nasir.branching import copy_nodes
from nasir.errors import Decline, GraphError
from nasir.ir import Draft, Graph, Node, Port, Region
from nasir.ir.regions import relative
from nasir.options.ranges import Count, Positive
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import REMARK, Pass, Settle

Init = Literal["zero", "gaussian", "uniform", "uniform_std1", "adam", "near_zero", "copy", "default"]


@register("insert-block")
@dataclass(frozen=True)
class InsertBlock(Pass):
    """Append a block to a stage, or insert one after a given block.

    init          zero: silent, exact behind a ReLU (last norm's scale and shift 0); gaussian: both N(0, 1);
                  uniform: both U(0, 1), as AutoGrow's code; uniform_std1: both U(-sqrt 3, sqrt 3), as its text;
                  adam: only that norm is trained after insertion, until the old training accuracy - 0.5 points is
                  back, 10 epochs at most; near_zero: N(0, sigma); copy: the weights of the block before it;
                  default: nothing special
    block         template of the new block: null for the stage's, "copy" for the structure of a neighbour, or a
                  mapping {block: name or definition, options: {...}}. Stages of imported networks have no template:
                  null then is "copy", where weights that functions use, and modules that nasir has no rule for, start
                  as copies whatever `init` says of the others
    sigma         standard deviation of near_zero
    settle_lr     learning rate of Adam for init: adam
    settle_epochs most epochs of that training
    tolerance     accuracy (fraction) below the old training accuracy at which it may stop
    stochastic_depth  with `{linear: p}` of blocks, which gives the new block what its depth says: keep, the blocks that
                  are there keep theirs; respace, they too get what their depths say in the new network
    branch_scale  with a rule for the scale of branches, which gives the new block what the residual sums of the new
                  network say: keep, the blocks that are there keep theirs; rescale, they too get the new one
    """

    init: Init = "zero"
    block: Mapping[str, Any] | Literal["copy"] | None = None
    sigma: Positive = 1e-3
    settle_lr: Positive = 1e-3
    settle_epochs: Count = 10
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.005
    stochastic_depth: Literal["keep", "respace"] = "keep"
    branch_scale: Literal["keep", "rescale"] = "keep"

    @property
    def settles(self) -> bool:  # type: ignore[override]
        """With init: adam."""
        return self.init == "adam"

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage (append at its end) and every block (insert after it)."""
        return [region.path for region in (*graph.stages, *graph.blocks)]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> Settle | None:
        """Build the block behind the site's exit and let everything that read the exit read the block."""
        graph = draft.base
        assert graph is not None
        stage, previous = _place(graph, site)
        before = Port(graph.boundary(previous.path)[1])
        path = draft.free_label(stage)
        old_nodes = set(draft.nodes)
        template = _template(graph, stage, previous) if self.block is None else self.block
        copied: dict[int, int] = {}
        if template is None or isinstance(template, str):
            after, copied = _clone(draft, graph, stage, previous, path, before)
        else:
            after = _build(draft, before, path, template)
        draft.join(stage, path)
        if draft.shape(after) != draft.shape(before):
            raise Decline(f"the block turns {draft.shape(before)} into {draft.shape(after)}; it must keep the shape")
        settle = None
        if self.init == "copy":
            if not _copy_weights(draft, graph, stage, previous, path, copied):
                draft.note(
                    REMARK, f"no block of '{stage}' before '{path}' is built like it: it starts fresh, not as a copy"
                )
        elif self.init != "default":
            settle = self._initialize(draft, graph, before, after)
        draft.rewire(before, after, only=[*old_nodes])
        draft.outputs = [after if port == before else port for port in draft.outputs]
        space_by_depth(draft, only=None if self.stochastic_depth == "respace" else {path})
        self._scale(draft, path)
        return settle

    def _scale(self, draft: Draft, path: str) -> None:
        """The constants that rules of templates name, now that the network has one more block."""
        if not any(rule_of(region) for region in draft.regions.values()):
            return
        grown = draft.commit()
        rescale(draft, grown, [path])  # a copy comes with the constants of its model
        others = [block.path for block in grown.blocks if block.path != path]
        if self.branch_scale == "rescale" and rescale(draft, grown, others):
            draft.claim("no")

    def _initialize(self, draft: Draft, graph: Graph, before: Port, after: Port) -> Settle | None:
        tails = branch_tails(draft, before, after)
        ends = [draft.nodes[tail] for tail in tails.nodes]
        weights = [(n, slot) for tail in tails.nodes for n, slot, _ in parameters(draft, tail)]
        if self.init == "zero":
            if any(node.facts.dead_at_zero for node in ends):
                raise Decline("its branch ends in a ReLU: at zero it would never get a gradient; use init: near_zero")
            for tail, slot in weights:
                draft.fill(tail, slot, "zeros")
            # behind the sum's ReLU an identity is only exact on a stream that is never negative
            draft.claim("exact" if tails.silent_is_exact(graph.nonnegative[before.node]) else "no")
            return None
        if self.init == "near_zero":
            for tail in tails.nodes:
                near_zero(draft, tail, self.sigma)
            draft.claim("approximate")
            return None
        other = sorted({node.op for node in ends if node.facts.family != "norm"})
        if other:
            raise Decline(
                f"init: {self.init} sets the last norm of the branch, which ends in a {other[0]}; use near_zero"
            )
        if self.settles:
            return Settle(tuple(weights), self.settle_lr, self.tolerance, self.settle_epochs)
        for tail, slot in weights:
            if self.init == "gaussian":
                draft.fill(tail, slot, "normal", mean=0.0, std=1.0)
            else:
                low, high = (0.0, 1.0) if self.init == "uniform" else (-sqrt(3.0), sqrt(3.0))
                draft.fill(tail, slot, "uniform", low=low, high=high)
        return None


def _place(graph: Graph, site: str) -> tuple[str, Region]:
    """(stage path, the block the new one follows)."""
    region = graph.regions.get(site)
    if region is None:
        raise GraphError(f"no stage or block {site!r}; known: {', '.join(graph.regions)}")
    if region.kind == "stage":
        blocks = graph.blocks_of(site)
        if not blocks:
            raise Decline(f"stage '{site}' has no block to append to")
        return site, blocks[-1]
    return graph.stage_of(site), region


def _template(graph: Graph, stage: str, previous: Region) -> Mapping[str, Any] | None:
    parent = graph.regions.get(stage)
    return (parent.template if parent is not None else None) or previous.template


def _build(draft: Draft, before: Port, path: str, template: Mapping[str, Any]) -> Port:
    """The template's block, at the stage's width of today: pruning and widening leave the template's `out` behind."""
    first = draft.minted
    after = build_block(draft, before, path, template)
    options = dict(template.get("options") or {})
    if draft.shape(after)[0] != draft.shape(before)[0] and options.pop("out", None) is not None:
        draft.retract(first)
        after = build_block(draft, before, path, {**template, "options": options})
    return after


def _shapes(graph: Graph, block: Region) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a block reads and what it puts out."""
    entry, exit_ = graph.boundary(block.path)
    return graph.infer.types[entry].shape, graph.infer.types[Port(exit_)].shape


def _nothing_to_copy(graph: Graph, stage: str, previous: Region) -> str:
    """Why no block of a stage could follow the one before the new one."""
    shapes = [_shapes(graph, block) for block in graph.blocks_of(stage)]
    before, after = _shapes(graph, previous)
    if any(one == other for one, other in shapes):
        return f"no block of '{stage}' keeps the shape {after} that '{previous.path}' puts out: nothing to copy"
    told = f"'{previous.path}' turns {before} into {after}"
    return f"no block of '{stage}' keeps its shape: nothing to copy ({told})"


def _relative(graph: Graph, path: str) -> dict[str, int]:
    return {relative(graph.nodes[node_id].label, path): node_id for node_id in graph.members(path)}


def _model(draft: Draft, graph: Graph, stage: str, previous: Region) -> Region:
    """The block to copy: the nearest one of the stage that keeps the shape that `previous` puts out, `previous` first,
    then the last; one with an identity shortcut where there is any."""
    wanted = graph.infer.types[Port(graph.boundary(previous.path)[1])].shape

    def fits(block: Region) -> bool:
        return _shapes(graph, block) == (wanted, wanted)

    blocks = [b for b in (previous, *reversed(graph.blocks_of(stage))) if fits(b)]
    if not blocks:
        raise Decline(f"{_nothing_to_copy(graph, stage, previous)}; name a template with `block:`")

    def is_residual(block: Region) -> bool:
        entry, exit_ = graph.boundary(block.path)
        try:
            branch_tails(draft, entry, Port(exit_))
        except Decline:
            return False
        return True

    return next((block for block in blocks if is_residual(block)), blocks[0])


def _clone(
    draft: Draft, graph: Graph, stage: str, previous: Region, path: str, before: Port
) -> tuple[Port, dict[int, int]]:
    """The structure of a block of the stage; returns its output, and its nodes by those that they are copies of.

    Weights of which it is not known how they begin are copies, too, and so are constants.
    """
    model = _model(draft, graph, stage, previous)
    entry, exit_ = graph.boundary(model.path)
    members = graph.members(model.path)
    made, ports = copy_nodes(
        draft, graph, members, lambda label: f"{path}.{relative(label, model.path)}", entries={entry: before}
    )
    for node_id, copy in made.items():
        if graph.nodes[node_id].facts.foreign:
            draft.copy(copy, node_id)
    draft.region(path, "block", model.template)
    return ports[Port(exit_)], made


def _copy_weights(
    draft: Draft, graph: Graph, stage: str, previous: Region, path: str, copied: Mapping[int, int]
) -> bool:
    """Copy from the nearest earlier block with the same nodes, or else from that whose structure was copied.

    `copied`: new nodes by those that they are copies of. Where there is neither, FRAGrow falls back to a fresh start,
    so do we.
    """
    made = {
        relative(node.label, path): node_id
        for node_id, node in draft.nodes.items()
        if node.label.startswith(path + ".")
    }
    blocks = graph.blocks_of(stage)
    upto = blocks[: [b.path for b in blocks].index(previous.path) + 1]
    for block in reversed(upto):
        known = _relative(graph, block.path)
        if known.keys() == made.keys() and all(
            _alike(graph.nodes[known[name]], draft.nodes[n]) for name, n in made.items()
        ):
            for name, node_id in made.items():
                draft.copy(node_id, known[name])
            return True
    for node_id, copy in copied.items():
        draft.copy(copy, node_id)
    return bool(copied)


def _alike(node: Node, other: Node) -> bool:
    """Whether two nodes are the same but for numbers that may depend on depth: how much one drops in training, and what
    a branch is multiplied by."""
    if node.op != other.op or node.facts.drops is not None:
        return node.op == other.op
    different = {name for name, value in node.attrs.items() if value != other.attrs[name]}
    return different <= ({"value"} if node.facts.family == "scale" else set())
