"""`insert-router`: each sample chooses which blocks of a stage it runs through (after Dotzel et al. 2024).

Their Radial Networks route tokens through the layers of a transformer; the form for stages of residual blocks is our
own reading. See docs/routing.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Lt, MinLen

from nasir.branching import copy_nodes
from nasir.errors import Decline, GraphError
from nasir.ir import Draft, Graph, Port
from nasir.ir.regions import relative
from nasir.ir.source import Blob, Key
from nasir.options.ranges import Count, Positive
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass

Action = Literal["skip", "reuse", "exit"]


@register("insert-router")
@dataclass(frozen=True)
class InsertRouter(Pass):
    """Put a small router in front of each block of a stage that keeps its shape: for each sample it decides whether the
    block is run. Exact in evaluation: at first all samples run through all blocks.

    actions      what else a sample can do at a block: skip it; reuse the block before it, which is run once more in its
                 place; or exit, which skips all that follows in the stage
    hidden       units of the hidden layer of each router, which reads the channel means of what the block reads
    train        straight-through: in training each sample goes one way, with the gradient of the mixture of all; soft:
                 it goes on with the mixture. In evaluation it always goes one way
    noise        gumbel: random numbers are added to the scores in training, so that all ways are tried
    temperature  scores are divided by it
    start        the share of each block, and of going on, at first
    """

    actions: Annotated[tuple[Action, ...], MinLen(1)] = ("skip",)
    hidden: Count = 16
    train: Literal["straight-through", "soft"] = "straight-through"
    noise: Literal["none", "gumbel"] = "none"
    temperature: Positive = 1.0
    start: Annotated[float, Gt(0), Lt(1)] = 0.9

    def __post_init__(self) -> None:
        if len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions: {', '.join(self.actions)} holds one twice; name each once")
        ways = max(2, 1 + len({"skip", "reuse"}.intersection(self.actions)))
        if self.start <= 1 / ways:
            raise ValueError(
                f"start: {self.start:g} is not the largest of {ways} shares, and samples would not run through the "
                f"blocks at first; give more than {1 / ways:.3g}"
            )

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage with a block that can be skipped."""
        return [stage.path for stage in graph.stages if steps_of(graph, stage.path)]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Add the routers; what read a block reads its route."""
        graph = draft.base
        assert graph is not None
        if site not in graph.regions or graph.regions[site].kind != "stage":
            raise GraphError(f"no stage {site!r}; known: {', '.join(stage.path for stage in graph.stages)}")
        steps = steps_of(graph, site)
        if not steps:
            raise Decline(f"the last block of '{site}' changes the shape of its input, so that no block can be skipped")
        routed = [path for path in steps if _is_routed(graph, path)]
        if routed:
            raise Decline(f"block '{routed[0]}' has a router already")
        streams: list[Port] = []
        stream, before = graph.boundary(steps[0])[0], None
        for path in steps:
            streams.append(stream)
            stream = self._with_router(draft, graph, path, before, stream)
            before = path
        if "exit" in self.actions:
            self._with_exits(draft, graph, site, steps, streams, stream)
        draft.claim("exact")

    def _with_router(self, draft: Draft, graph: Graph, path: str, before: str | None, stream: Port) -> Port:
        """The route around a block, whose ways are the block, its input, and the block before it."""
        end = Port(graph.boundary(path)[1])
        ways = [end]
        if "skip" in self.actions:
            ways.append(stream)
        if "reuse" in self.actions and before is not None:
            ways.append(_again(draft, graph, before, f"{path}.again", stream))
            draft.join(path, f"{path}.again")
        if len(ways) == 1:
            return end
        readers = [*draft.nodes]
        shares = self._shares(draft, stream, f"{path}.router", len(ways))
        route = draft.add("route", (shares, *ways), f"{path}.route")
        _read_instead(draft, end, route, readers)
        draft.join(path, f"{path}.router")
        draft.join(path, f"{path}.route")
        return route

    def _with_exits(
        self, draft: Draft, graph: Graph, stage: str, steps: list[str], streams: list[Port], end: Port
    ) -> None:
        """Routes behind the stage: before each block a sample may leave with what the stage has come to."""
        readers = [*draft.nodes]
        merged = end
        for path, stream in zip(reversed(steps), reversed(streams), strict=True):
            label = f"{stage}.exit_{relative(path, stage).replace('.', '_')}"
            shares = self._shares(draft, stream, label, 2)
            merged = draft.add("route", (shares, merged, stream), f"{label}.route")
            draft.join(stage, label)
        _read_instead(draft, end, merged, readers)

    def _shares(self, draft: Draft, stream: Port, label: str, ways: int) -> Port:
        """A router: the shares of so many ways, `start` for the first, whatever it reads."""
        x, value = stream, draft.value(stream)
        if value.is_image:
            x = draft.add("global_avg_pool", x, f"{label}.pool")
        elif value.is_sequence:
            x = draft.add("mean_tokens", x, f"{label}.pool")
        elif len(value.axes) != 1:
            raise Decline(f"what '{draft.nodes[stream.node].label}' puts out is no image, vector or tokens to route")
        x = draft.add("linear", x, f"{label}.hidden", out=self.hidden)
        x = draft.add("relu", x, f"{label}.relu")
        scores = draft.add("linear", x, f"{label}.scores", out=ways)
        draft.fill(scores.node, "weight", "zeros")
        first = np.zeros(ways)
        first[0] = self.temperature * log(self.start * (ways - 1) / (1 - self.start))
        draft.source(scores.node, "bias", Blob(draft.blob(first), first.shape))
        return draft.add(
            "gate", scores, f"{label}.gate", train=self.train, noise=self.noise, temperature=self.temperature
        )


def steps_of(graph: Graph, stage: str) -> list[str]:
    """The blocks at the end of a stage that keep the shape of what they read, in order: any of them can be skipped."""
    steps: list[str] = []
    for block in reversed(graph.blocks_of(stage)):
        entry, end = graph.boundary(block.path)
        types = graph.infer.types
        if types[entry].shape != types[Port(end)].shape or (steps and graph.boundary(steps[0])[0] != Port(end)):
            break
        steps.insert(0, block.path)
    return steps


def _is_routed(graph: Graph, path: str) -> bool:
    return any(graph.nodes[node_id].facts.family == "route" for node_id in graph.members(path))


def _again(draft: Draft, graph: Graph, block: str, path: str, stream: Port) -> Port:
    """A block run once more on `stream`, with the weights and statistics that it has."""
    entry, end = graph.boundary(block)
    nodes = graph.members(block)
    made, ports = copy_nodes(
        draft, graph, nodes, lambda label: f"{path}.{relative(label, block)}", entries={entry: stream}
    )
    for node_id in nodes:
        for slot, (owner, _) in graph.weights(node_id).items():
            draft.tie(Key(made[node_id], slot), owner)
    return ports[Port(end)]


def _read_instead(draft: Draft, old: Port, new: Port, readers: Iterable[int]) -> None:
    """Let `readers`, and the outputs of the network, read `new` in the place of `old`."""
    draft.rewire(old, new, only=readers)
    draft.outputs = [new if port == old else port for port in draft.outputs]
