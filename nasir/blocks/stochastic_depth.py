"""Stochastic depth of residual blocks: whole branches are dropped while training (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, TypeAlias

from annotated_types import MinLen

from nasir.blocks.make import Maker
from nasir.ir import Draft, Port
from nasir.ir.structure import Structure
from nasir.options.ranges import Rate

StochasticDepth: TypeAlias = Rate | Annotated[Mapping[Literal["linear"], Rate], MinLen(1)]
"""The option `stochastic_depth` of a block: a probability, or `{linear: p}`, which grows with depth up to p."""

OPTION = "stochastic_depth"


def stochastic(make: Maker, y: Port, rate: StochasticDepth, name: str = "stochastic_depth") -> Port:
    """The end of a branch, dropped at random for each sample; as it is where the probability is 0.

    Of `{linear: p}` every block has p until `space_by_depth` is told to place it.
    """
    p = rate["linear"] if isinstance(rate, Mapping) else rate
    return make.node("stochastic_depth", y, name, p=float(p)) if p else y


def space_by_depth(draft: Draft, only: Collection[str] | None = None) -> None:
    """Give blocks with `stochastic_depth: {linear: p}` the probability l / L * p (`only` those of these paths).

    A block is the l-th on the longest way through the network to it; L is the largest l of all blocks, with the option
    or without it.
    """
    linear = {path: p for path, p in _linear(draft).items() if only is None or path in only}
    if not linear:
        return
    structure = Structure(draft.nodes, tuple(draft.outputs), draft.regions, draft.minted)
    depths = _depths(structure)
    for path, largest in linear.items():
        for node_id in structure.members(path):
            if draft.nodes[node_id].facts.drops == "samples":
                draft.set_attrs(node_id, p=largest * depths[path] / max(depths.values()))


def _linear(draft: Draft) -> dict[str, float]:
    """The largest probability of each block that asks for the linear rule."""
    found = {}
    for path, region in draft.regions.items():
        options = (region.template or {}).get("options")
        rate = options.get(OPTION) if region.kind == "block" and isinstance(options, Mapping) else None
        if isinstance(rate, Mapping):
            found[path] = float(rate["linear"])
    return found


def _depths(structure: Structure) -> dict[str, int]:
    """Of every block the number of blocks on the longest way to it, with itself."""
    blocks = {path for path, region in structure.regions.items() if region.kind == "block"}
    home = {n: next((path for path in paths if path in blocks), None) for n, paths in structure.owners.items()}
    passed: dict[int, int] = {}
    for node_id in structure.order:
        block = home[node_id]
        before = [port.node for port in structure.nodes[node_id].inputs]
        ways = [passed[n] + (block is not None and home[n] != block) for n in before]
        passed[node_id] = max(ways, default=int(block is not None))
    return {path: max(passed[n] for n in structure.members(path)) for path in blocks}
