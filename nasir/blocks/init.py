"""Initializers of whole networks: for which weights of which ops the default of the op is replaced."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

from nasir.errors import UnknownName
from nasir.ir import Draft, Fill, Graph
from nasir.ir.regions import closest

HE = Fill("kaiming_normal", {"mode": "fan_out"})
GLOROT = Fill("xavier_uniform")
ZEROS = Fill("zeros")

INITS: Mapping[str, Mapping[tuple[str, str], Fill]] = {
    "default": {},  # torch's: uniform with a = sqrt(5) for convolutions and linear layers, norms (1, 0)
    "he_normal": {("conv2d", "weight"): HE},  # He et al. 2015, as torchvision's ResNets
    "he_normal_in": {("conv2d", "weight"): Fill("kaiming_normal"), ("linear", "bias"): ZEROS},  # its DenseNets
    "glorot_uniform": {  # Glorot & Bengio 2010, as Keras and so ResBuilder: biases start at 0
        ("conv2d", "weight"): GLOROT,
        ("conv2d", "bias"): ZEROS,
        ("linear", "weight"): GLOROT,
        ("linear", "bias"): ZEROS,
    },
    "vit": {  # as torchvision's vision transformers; theirs also starts the classifier at 0
        ("conv2d", "weight"): Fill("kaiming_normal", {"gain": sqrt(0.5)}),
        ("conv2d", "bias"): ZEROS,
        ("linear", "weight"): GLOROT,
        ("linear", "bias"): ZEROS,
    },
}
"""By name: {(op, weight): rule}; what is not listed keeps the default of its op."""


def init_rules(init: str) -> Mapping[tuple[str, str], Fill]:
    """{(op, weight): rule} of a name; raises UnknownName."""
    if init not in INITS:
        raise UnknownName(f"unknown initializer {init!r}: {closest(init, INITS)}")
    return INITS[init]


def renew(draft: Draft, init: str) -> None:
    """Let every weight start anew, by the rules of `init` and else by the default of its op; raises UnknownName."""
    rules = init_rules(init)
    graph = draft.commit()
    for node_id, slots in graph.infer.slots.items():
        for name, slot in slots.items():
            rule = rules.get((graph.nodes[node_id].op, name), slot.init)
            draft.fill(node_id, name, rule.rule, **rule.args)


def made_with(graph: Graph, node_id: int) -> str:
    """The initializer that a node was made with, by the template of its region, or of any other region."""
    paths = (*graph.owners[node_id], *graph.regions)
    templates = [graph.regions[path].template for path in paths]
    return next((str(template.get("init", "default")) for template in templates if template is not None), "default")
