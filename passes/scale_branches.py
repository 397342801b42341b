"""`scale-branches`: residual branches multiplied by a number, x + scale * f(x), in networks that exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nasir.analysis.branch_scales import RULES
from nasir.analysis.residuals import ResidualSum, residual_depth, residual_sums
from nasir.blocks.end_scales import EndScale, base_of, drop_end_scale, end_scale, multiply, set_end_scale
from nasir.blocks.scales import BranchScale, named_rule, remember, scale_attrs
from nasir.counted import counted
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.options.ranges import Whole
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import REMARK, WHOLE, Pass


@register("scale-branches")
@dataclass(frozen=True)
class ScaleBranches(Pass):
    """Scale the residual branches of a network, a stage or a block.

    n counts the residual sums on the longest way through the network. What is inserted becomes an option of the
    templates there, by which new blocks are built.

    to             1/n, 1/sqrt(n) or fischer by the n of now; a number; skipinit (a number that is learned, from 0) or
                   {skipinit: its first value}; present: what the branch is scaled by already
    how            insert: by a node at the end of the branch, in place of the constants that are there; fold: by the
                   last weights of the branch, whose constants go into them, too
    keep_function  with insert: divide the last weights by what the scale changes
    scaled_for     with fold and a rule: the n that the weights are scaled for already, 0: for none
    """

    to: BranchScale | Literal["present"]
    how: Literal["insert", "fold"] = "insert"
    keep_function: bool = False
    scaled_for: Whole = 0

    def __post_init__(self) -> None:
        if self.how == "fold" and scale_attrs(self._or_one(), 1)["learnable"]:
            raise ValueError("to: a number that is learned cannot be folded into weights; use how: insert")
        if self.how == "fold" and self.keep_function:
            raise ValueError("keep_function: folding keeps the function with `to: present` alone; leave it away")
        if self.how == "insert" and self.to == "present":
            raise ValueError("to: present leaves all as it is with how: insert; use how: fold, or another scale")
        if self.scaled_for and (self.how == "insert" or named_rule(self.to) is None):
            raise ValueError(
                "scaled_for: only weights that a rule is folded into are scaled for a number; leave it away"
            )
        if self.keep_function and scale_attrs(self._or_one(), 1)["value"] == 0.0:
            raise ValueError("keep_function: no weights make up for a scale of 0; use another `to`")

    def _or_one(self) -> BranchScale:
        return 1.0 if self.to == "present" else self.to

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, and every stage and block with a residual sum."""
        held = {path for item in residual_sums(graph) for path in graph.owners[item.node]}
        return [WHOLE, *(path for path in graph.regions if path in held)] if held else []

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Scale every branch of the site; Decline where one cannot be."""
        graph = base_of(draft)
        chosen = [item for item in residual_sums(graph) if site == WHOLE or site in graph.owners[item.node]]
        if not chosen:
            raise Decline(f"no residual sum lies in '{site}'")
        n = residual_depth(graph)
        attrs = scale_attrs(self._or_one(), n)
        kept = [self._scale(draft, item, attrs) for item in chosen]
        draft.claim("exact" if all(kept) else "no")
        if self.how == "insert":
            for path in graph.regions:
                if site in (WHOLE, path) or site in graph.around(path):
                    remember(draft, path, self._or_one())
        if self.to != "present":
            scale = f"{attrs['value']:.4g}, n = {n}" if named_rule(self.to) else f"{attrs['value']:.4g}"
            draft.note(REMARK, f"{counted(len(chosen), 'residual sum')}, branch scale {scale}")

    def _scale(self, draft: Draft, item: ResidualSum, attrs: dict[str, Any]) -> bool:
        """Scale one branch; whether its function stays what it was."""
        end = end_scale(base_of(draft), item)
        if self.how == "fold":
            return self._fold(draft, item, end, attrs["value"])
        if attrs["learnable"] and base_of(draft).is_frozen(item.node):
            raise Decline(f"block '{item.block}' is frozen, so that no scale of it learns; unfreeze it")
        # initializers draw in float32
        value = float(np.float32(attrs["value"])) if attrs["learnable"] else attrs["value"]
        if self.keep_function and end.factor != value:
            multiply(draft, item, end.factor / value)
        set_end_scale(draft, base_of(draft), item, end, **attrs)
        return self.keep_function or end.factor == value

    def _fold(self, draft: Draft, item: ResidualSum, end: EndScale, value: float) -> bool:
        if self.scaled_for and end.nodes:
            raise Decline(
                f"block '{item.block}' is scaled by {end.factor:.4g} behind its weights, so these are not scaled for "
                f"{self.scaled_for} residual sums; leave scaled_for away"
            )
        rule = named_rule(self.to)
        gain = end.factor if self.to == "present" else value
        if rule is not None and self.scaled_for:
            gain = value / RULES[rule](self.scaled_for)
        if gain != 1.0:
            multiply(draft, item, gain)
        drop_end_scale(draft, end)
        return gain == (1.0 if self.scaled_for else end.factor)
