"""`remove-norms`: batch norms folded into the layers before them, and scalars that let the rest train without norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from nasir.analysis.residuals import residual_sums
from nasir.blocks.branch_ends import append_scale, fixup_scalars
from nasir.blocks.options import checked
from nasir.blocks.scales import remember
from nasir.counted import counted
from nasir.errors import Decline, TypeRuleError
from nasir.ir import Draft, Graph
from nasir.registry import blocks, register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.norm_folding import fold_into, is_fixed_map, layer_before, normalizes, replace_by_affine
from nasir.rewriting.rewrite import REMARK, WHOLE, Pass


@register("remove-norms")
@dataclass(frozen=True)
class RemoveNorms(Pass):
    """Remove the norms of the network, of a region, or one, as they work in evaluation: by running statistics.

    The convolution or linear layer before a norm takes its scale and shift, exactly in evaluation. Training is another
    function from then on: what was normalized by the numbers of each batch is no longer.
    rest    norms that no layer can take (behind a sum, or where others read what they read): affine puts a learned
            scale and shift per channel in their place, exactly; keep leaves them. Norms that always measure what they
            are given, such as layer norms, stay
    form    none; skipinit: a learned number at the end of each branch (De & Smith 2020); fixup: that, and numbers added
            before each layer and activation of each branch and behind it (Zhang, Dauphin & Ma 2019), all from 0
    start   the learned factor: 1 keeps the function, 0 makes each block start as its shortcut
    """

    rest: Literal["affine", "keep"] = "affine"
    form: Literal["none", "skipinit", "fixup"] = "none"
    start: float = 1.0

    needs = (Need("weights"),)
    shrinks = True

    def __post_init__(self) -> None:
        if self.form == "none" and self.start != 1.0:
            raise ValueError(f"start is {self.start}, and form: none has no factor; give form: skipinit or fixup")

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, every region, and every norm with running statistics."""
        norms = [graph.nodes[n].label for n in graph.order if is_fixed_map(graph, n)]
        return [WHOLE, *graph.regions, *norms]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Fold, replace, and add scalars; later blocks are without norms, too."""
        graph = draft.base
        assert graph is not None
        places = [n for n in graph.order if site == WHOLE or graph.below(n, (site,))]
        stay: dict[str, str] = {}
        gone: set[int] = set()
        for norm in places:
            if is_fixed_map(graph, norm):
                layer = layer_before(graph, norm)
                if isinstance(layer, int):
                    fold_into(draft, graph, norm, layer, seen)
                elif self.rest == "affine" and normalizes(graph.nodes[norm]):
                    replace_by_affine(draft, graph, norm, seen)
                else:
                    stay[graph.nodes[norm].label] = layer
                    continue
                gone.add(norm)
            elif normalizes(graph.nodes[norm]):
                stay[graph.nodes[norm].label] = "it has no running statistics"
        ends = self._add_scalars(draft, graph, site, set(places))
        if not gone and not ends:
            reasons = "; ".join([f"'{label}': {why}" for label, why in list(stay.items())[:3]])
            raise Decline(f"'{site}' has no norm that can go" + (f" ({reasons})" if reasons else ""))
        self._renew_templates(draft, graph, gone | ends)
        if stay:
            label, why = next(iter(stay.items()))
            number = "1 norm stays" if len(stay) == 1 else f"{counted(len(stay), 'norm')} stay"
            draft.note(REMARK, f"{number}, such as '{label}': {why}")
        draft.claim("exact" if self.start == 1.0 or not ends else "no")

    def _add_scalars(self, draft: Draft, graph: Graph, site: str, places: set[int]) -> set[int]:
        """The sums whose branches got learned numbers."""
        if self.form == "none":
            return set()
        sums = [item for item in residual_sums(graph) if item.node in places]
        if not sums:
            raise Decline(f"form: {self.form} acts on the branches of blocks, and '{site}' has no residual sum")
        add = fixup_scalars if self.form == "fixup" else append_scale
        return {item.node for item in sums if add(draft, graph, item, self.start)}

    def _renew_templates(self, draft: Draft, graph: Graph, changed: set[int]) -> None:
        """Let later blocks be without norms where none is left: by their template, else as copies of a neighbour."""
        norms = {node_id for node_id, node in draft.nodes.items() if normalizes(node)}
        for path in {path for node in changed for path in graph.owners[node]}:
            region = draft.regions.get(path)
            if region is None or region.template is None or not norms.isdisjoint(graph.members(path)):
                continue
            template = None if self.form == "fixup" else _without_norms(region.template)
            draft.regions[path] = replace(region, template=template)
            if self.form == "skipinit":
                remember(draft, path, "skipinit")


def _without_norms(template: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The template with `norm: none`, None where its block has no such option."""
    block, options = template["block"], {**(template.get("options") or {}), "norm": "none"}
    if not isinstance(block, str) or block not in blocks.names():
        return None
    try:
        checked(blocks.get(block), options, block, skip=3)
    except TypeRuleError:
        return None
    return {**template, "options": options}
