"""`place-dropout`: dropout in residual branches and in the head where no norm follows it (Kim et al., UAI 2023).

Dropout before a norm with running statistics shifts the variance that the norm sees between training and evaluation,
so in a branch it belongs between the last norm and the last layer with a kernel, and in the head before the pooling,
which averages it over all places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from nasir.analysis.residuals import ResidualSum, residual_sums
from nasir.analysis.statistics import keeps_statistics
from nasir.analysis.variance_shift import keeps_all
from nasir.blocks.branch_ends import branch_nodes, put_between
from nasir.errors import Decline, GraphError
from nasir.ir import Draft, Graph, Node, Port
from nasir.options.ranges import Rate
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import REMARK, WHOLE, Pass

CARRIES = ("passive", "scale", "shift", "pad", "pool", "shape", "split", "activation", "product")
"""Families of ops that may lie between the last layer with a kernel and the end of a branch."""


@register("place-dropout")
@dataclass(frozen=True)
class PlaceDropout(Pass):
    """Put dropout into residual branches, and before the pooling of the head; in evaluation nothing changes.

    p       probability in each residual branch, between its last norm and its last layer with a kernel; 0 takes away
            what is there; null leaves branches as they are
    head    the same before the global average pooling; only at the site "network"
    move    take away dropout of a branch that a norm follows, and dropout behind the pooling; without it the pass does
            not act where there is any
    """

    p: Rate | None = 0.1
    head: Rate | None = None
    move: bool = False

    def __post_init__(self) -> None:
        if self.p is None and self.head is None:
            raise ValueError("neither p nor head is given, so there is nothing to place; give one of them, such as 0.1")

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, and every stage and block with a residual branch."""
        within = {path for found in residual_sums(graph) for path in graph.owners[found.node]}
        return [WHOLE, *[region.path for region in (*graph.stages, *graph.blocks) if region.path in within]]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Place, change and take away the dropout of the branches at a site, and of the head."""
        graph = draft.base
        assert graph is not None
        if site != WHOLE and site not in graph.regions:
            raise GraphError(f"no stage, block or 'network' is called {site!r}; known: {', '.join(graph.regions)}")
        if self.head is not None:
            if site != WHOLE:
                raise Decline(f"'{site}' has no head; name the site 'network', or leave `head` away")
            self._place(draft, head_place(graph), self.head)
        if self.p is not None:
            self._branches(draft, graph, site, self.p)
        draft.drop_empty_regions()
        draft.claim("exact")

    def _branches(self, draft: Draft, graph: Graph, site: str, p: float) -> None:
        sums = [found for found in residual_sums(graph) if site == WHOLE or graph.below(found.node, (site,))]
        if not sums:
            raise Decline(f"'{site}' has no residual branch")
        refused = []
        for found in sums:
            try:
                self._place(draft, branch_place(graph, found), p)
            except Decline as refusal:
                refused.append(str(refusal))
        if len(refused) == len(sums):
            raise Decline(refused[0] if len(sums) == 1 else f"no branch of '{site}' has a place: {refused[0]}")
        if refused:
            draft.note(REMARK, f"{len(refused)} of {len(sums)} residual branches stay as they are: {refused[0]}")

    def _place(self, draft: Draft, place: Place, p: float) -> None:
        """Let `p` be what is dropped at a place, and nothing where it does not belong."""
        if place.misplaced and not self.move:
            node = draft.nodes[place.misplaced[0]]
            raise Decline(
                f"{node.op} '{node.label}' (p {node.attrs['p']:g}) lies {place.wrong}; `move: true` takes it away"
            )
        for node_id in (*place.misplaced, *place.there[1 if p else 0 :]):
            draft.rewire(Port(node_id), draft.nodes[node_id].inputs[0])
            draft.remove(node_id)
        if place.there and p:
            draft.set_attrs(place.there[0], p=p)
        elif p:
            before = draft.nodes[place.reader].inputs[0]
            put_between(draft, place.region, before, place.reader, "dropout", "dropout", p=p)


@dataclass(frozen=True, slots=True)
class Place:
    """Where dropout belongs: before node `reader`. `there`: what drops there already, nearest to it first.

    `misplaced`: what drops where it does not belong, which is `wrong`, in words. `region`: that of the reader, or "".
    """

    reader: int
    there: tuple[int, ...]
    misplaced: tuple[int, ...]
    wrong: str
    region: str


def branch_place(graph: Graph, found: ResidualSum) -> Place:
    """Before the last layer with a kernel of a residual branch; Decline where a norm follows that, or there is none."""
    reader = _last_layer(graph, found)
    there = tuple(_dropping(graph, graph.nodes[reader].inputs[0]))
    early = _before_norms(graph, found)
    misplaced = tuple([n for n in early if _drops(graph.nodes[n]) and n not in there])
    return Place(reader, there, misplaced, "before a norm", found.block)


def head_place(graph: Graph) -> Place:
    """Before the global average pooling that the answer of the network is made of; Decline where there is none."""
    behind: list[int] = []
    port = graph.answers[0]
    while True:
        node = graph.nodes[port.node]
        if _pools_all(graph, port.node):
            break
        inputs = _made_of(graph, port.node)
        if len(graph.answers) > 1 or len(inputs) != 1 or keeps_statistics(graph, port.node):
            raise Decline(
                f"no global average pooling lies behind '{node.label}' ({node.op}) in the head; leave `head` away"
            )
        behind += [port.node] if _drops(node) else []
        port = inputs[0]
    there = tuple(_dropping(graph, node.inputs[0]))
    return Place(port.node, there, tuple(behind), "behind the pooling", next(iter(graph.owners[port.node]), ""))


def _last_layer(graph: Graph, found: ResidualSum) -> int:
    port = found.branch
    while port != found.stream:
        node, inputs = graph.nodes[port.node], _made_of(graph, port.node)
        if node.facts.family == "weighted":
            return port.node
        if node.facts.family == "norm":
            raise Decline(
                f"the norm '{node.label}' ends the branch of '{found.block}': it would follow dropout anywhere in it; "
                "blocks whose norms come first, such as preact_basic, have a place"
            )
        if node.facts.family not in CARRIES or len(inputs) != 1:
            raise Decline(f"the branch of '{found.block}' ends in '{node.label}' ({node.op}), not in one layer")
        port = inputs[0]
    raise Decline(f"the branch of '{found.block}' has no layer with a kernel")


def _made_of(graph: Graph, node_id: int) -> list[Port]:
    """What a node reads, without what is the same for all samples, such as a weight."""
    return [port for port in graph.nodes[node_id].inputs if port.node not in graph.independent]


def _dropping(graph: Graph, port: Port) -> Iterator[int]:
    """The nodes that drop, from a port up to the next norm, layer, or other node that is no function of one element;
    but not what others read, too."""
    node = graph.nodes[port.node]
    while node.facts.family in ("passive", "activation", "shape") and keeps_all(graph, port.node):
        if len(graph.users(port.node)) > 1:
            return
        if _drops(node):
            yield port.node
        port = node.inputs[0]
        node = graph.nodes[port.node]


def _before_norms(graph: Graph, found: ResidualSum) -> list[int]:
    """The nodes of a branch that lie before one of its norms with running statistics, in topological order."""
    branch = branch_nodes(graph, found)
    norms = {n for n in branch if graph.nodes[n].facts.family == "norm" and keeps_statistics(graph, n)}
    early: set[int] = set()
    for node_id in reversed(branch):
        if any(user in norms or user in early for user in graph.users(node_id)):
            early.add(node_id)
    return [node_id for node_id in branch if node_id in early]


def _drops(node: Node) -> bool:
    """Whether it is dropout, of elements or of channels."""
    return node.facts.drops in ("elements", "channels")


def _pools_all(graph: Graph, node_id: int) -> bool:
    """Whether a node puts out one mean of all places for each channel."""
    node = graph.nodes[node_id]
    if node.facts.averages is None or not node.facts.averages(node.attrs):
        return False
    value, out = graph.infer.types[node.inputs[0]], graph.infer.types[Port(node_id)]
    if value.channel_axis is None:
        return False
    return prod(out.shape) == value.shape[value.channel_axis] < prod(value.shape)
