"""`branch_scale`: what a block multiplies a residual branch by before it adds it to the stream.

A template keeps the option as it was written, such as the rule `1/n`; the network keeps the number that it was at the
time, in a node at the end of the branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

from annotated_types import MinLen

from nasir.analysis.branch_scales import RULES, Rule
from nasir.analysis.residuals import residual_depth
from nasir.blocks.make import Maker
from nasir.errors import TypeRuleError
from nasir.ir import JSON, Draft, Port, Region
from nasir.options import parameters_of
from nasir.registry import blocks

OPTION = "branch_scale"

BranchScale: TypeAlias = Literal[Rule, "skipinit"] | float | Annotated[Mapping[Literal["skipinit"], float], MinLen(1)]
"""A rule by the number of residual sums of the network; a number; or one that is learned (De & Smith 2020), `skipinit`
from 0, `{skipinit: a}` from a."""


def scale_attrs(scale: BranchScale, n: int) -> dict[str, float | bool]:
    """Attributes of the node `scale` that multiplies by it in a network of n residual sums, at least 1."""
    if isinstance(scale, Mapping):
        return {"value": float(scale["skipinit"]), "learnable": True}
    if scale == "skipinit":
        return {"value": 0.0, "learnable": True}
    return {"value": RULES[scale](n) if isinstance(scale, str) else float(scale), "learnable": False}


def scaled(make: Maker, y: Port, scale: BranchScale | None, name: str = "scale") -> Port:
    """The end of a residual branch, scaled; without a scale `y` itself.

    Raises TypeRuleError for a rule in a network of no residual sums.
    """
    if scale is None:
        return y
    rule = named_rule(scale)
    if rule is not None and make.sums is None:
        port = make.node("scale", y, name, learnable=False)
        make.unsettled[port.node] = rule
        return port
    if rule is not None and make.sums == 0:
        raise TypeRuleError(
            f"block '{make.path}': branch_scale {rule}, and the network has no residual sum; give a number"
        )
    return make.node("scale", y, name, **scale_attrs(scale, make.sums or 0))


def settle_scales(make: Maker) -> None:
    """Put in the numbers of the rules of a block that is added to a network, now that its residual sums are known.

    Raises TypeRuleError for a draft of no network, whose sums nobody has counted.
    """
    if not make.unsettled:
        return
    draft = make.draft
    if draft.base is None:
        rule = next(iter(make.unsettled.values()))
        raise TypeRuleError(
            f"block '{make.path}': branch_scale {rule} asks for the number of residual sums of the network; "
            "give build_block `sums=`"
        )
    n = residual_depth(draft.base) + len(make.unsettled)
    for node_id, rule in make.unsettled.items():
        draft.set_attrs(node_id, **scale_attrs(rule, n))


def remember(draft: Draft, path: str, scale: BranchScale) -> None:
    """Let the template of a stage or block, if it has one that takes the option, scale the branches of new blocks."""
    region = draft.regions[path]
    template = region.template
    if template is not None and takes_scale(template):
        options = {**(template.get("options") or {}), OPTION: scale}
        draft.regions[path] = replace(region, template={**template, "options": options})


def takes_scale(template: Mapping[str, JSON]) -> bool:
    """Whether blocks of a template have the option `branch_scale`."""
    block = template.get("block")
    if isinstance(block, Mapping):
        return bool(block.get("shortcut", "identity") != "none")
    return block in blocks.names() and OPTION in parameters_of(blocks.get(block), 3)[0]


def named_rule(scale: object) -> Rule | None:
    """The rule that a scale is; None for a number and what is no scale."""
    return next((rule for rule in RULES if rule == scale), None)


def rule_of(region: Region) -> Rule | None:
    """The rule that the template of a block, or of a stage, names for the scale of its branches."""
    return named_rule(((region.template or {}).get("options") or {}).get(OPTION))
