"""Initializers of whole networks: for which weights the default of their op is replaced, by the roles of their axes."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Literal, TypeAlias

from nasir.errors import UnknownName
from nasir.ir import Fill, Graph, Slot
from nasir.ir.regions import closest

HE = Fill("kaiming_normal", {"mode": "fan_out"})
GLOROT = Fill("xavier_uniform")
ZEROS = Fill("zeros")
FIXUP = "fixup"

Part: TypeAlias = Literal["convolution", "convolution bias", "dense", "dense bias"]
"""Kernels over a window and their biases, and all other kernels and theirs."""

INITS: Mapping[str, Mapping[Part, Fill]] = {
    "default": {},  # torch's: uniform with a = sqrt(5) for convolutions and linear layers, norms (1, 0)
    "he_normal": {"convolution": HE},  # He et al. 2015, as torchvision's ResNets
    "he_normal_in": {"convolution": Fill("kaiming_normal"), "dense bias": ZEROS},  # its DenseNets
    "glorot_uniform": {  # Glorot & Bengio 2010, as Keras and so ResBuilder: biases start at 0
        "convolution": GLOROT,
        "convolution bias": ZEROS,
        "dense": GLOROT,
        "dense bias": ZEROS,
    },
    "vit": {  # as torchvision's vision transformers; theirs also starts the classifier at 0
        "convolution": Fill("kaiming_normal", {"gain": sqrt(0.5)}),
        "convolution bias": ZEROS,
        "dense": GLOROT,
        "dense bias": ZEROS,
    },
    FIXUP: {},  # goes by the place of a layer (`nasir.blocks.starts`)
}
"""By name: {part: rule}; what is not listed keeps the default of its op."""


def init_rules(init: str) -> Mapping[Part, Fill]:
    """{part: rule} of a name; raises UnknownName."""
    if init not in INITS:
        raise UnknownName(f"unknown initializer {init!r}; {closest(init, INITS)}")
    return INITS[init]


def starts(init: str, slots: Mapping[str, Slot]) -> dict[str, Fill]:
    """{weight: rule} for those weights of a node that `init` starts otherwise than by default; raises UnknownName."""
    rules = init_rules(init)
    kernels = [slot for slot in slots.values() if slot.is_kernel] if rules else []
    if not kernels:
        return {}
    fills = {}
    for name, slot in slots.items():
        part: Part
        if slot.is_kernel:
            part = "convolution" if slot.is_convolution else "dense"
        elif slot.kind == "param" and "bias" in slot.tags:
            part = "convolution bias" if any(kernel.is_convolution for kernel in kernels) else "dense bias"
        else:
            continue
        if part in rules:
            fills[name] = oriented(rules[part], slot)
    return fills


def oriented(rule: Fill, slot: Slot) -> Fill:
    """The rule for a kernel that lies as [read, written, ...]: rules count fans as of [written, read, ...]."""
    if rule.rule != "kaiming_normal" or slot.axis("write") < slot.axis("read"):
        return rule
    turned = "fan_in" if rule.args.get("mode") == "fan_out" else "fan_out"
    return Fill(rule.rule, {**rule.args, "mode": turned})


def own_init(graph: Graph, node_id: int) -> str | None:
    """The initializer that the template of the innermost region of a node names, if there is one."""
    templates = [graph.regions[path].template for path in graph.owners[node_id]]
    return next((str(template["init"]) for template in templates if template is not None and "init" in template), None)


def made_with(graph: Graph, node_id: int) -> str:
    """The initializer that a node was made with, by the template of its region, or of any other region."""
    paths = (*graph.owners[node_id], *graph.regions)
    templates = [graph.regions[path].template for path in paths]
    return next((str(template.get("init", "default")) for template in templates if template is not None), "default")
