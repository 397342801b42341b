"""The end of a block's residual branch: where an initializer silences or scales a new block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nasir.errors import Decline
from nasir.ir import Draft, Node, Port
from nasir.ir.op import OpDef
from nasir.ir.source import Key
from nasir.ir.types import kernel_of

ONLY_FRESH = "only init: default or copy apply"
NO_SHORTCUT = f"the block has no identity shortcut around one branch; {ONLY_FRESH}"


@dataclass(frozen=True, slots=True)
class Tails:
    """The ends of the branches of a block, the last sum's first: nodes with weights, or activations.

    `bent`: activations lie behind a sum. `kept`: all of them leave what is not negative as it is.
    """

    nodes: tuple[int, ...]
    bent: bool
    kept: bool

    def silent_is_exact(self, nonnegative: bool) -> bool:
        """Whether a block with silent branches is the identity, on a stream that is surely >= 0 or may not be."""
        return not self.bent or (self.kept and nonnegative)


def branch_tail(draft: Draft, before: Port, after: Port) -> int:
    """The end of the one residual branch between the input and the output of a block.

    Decline without an identity shortcut around one branch.
    """
    tails = branch_tails(draft, before, after)
    if len(tails.nodes) != 1:
        raise Decline(NO_SHORTCUT)
    return tails.nodes[0]


def branch_tails(draft: Draft, before: Port, after: Port) -> Tails:
    """The same for a block of several residual sums one after another, such as a transformer's."""
    tails: list[int] = []
    port, bent, kept = after, False, True
    while port != before:
        node = draft.nodes[port.node]
        if _carries(node):
            bent = bent or node.facts.activates
            kept = kept and node.facts.unchanged in ("nonnegative", "all")
            port = node.inputs[0]
            continue
        if node.facts.family != "sum" or len(node.inputs) != 2:
            raise Decline(NO_SHORTCUT)
        # the residual stream is the input of the block, or what carries on the sum before this one
        shortcuts = [other for other in node.inputs if other == before] or [
            other for other in node.inputs if _from_sum(draft, other)
        ]
        if len(shortcuts) != 1:
            raise Decline(NO_SHORTCUT)
        port = shortcuts[0]
        tails.append(stripped(draft, node.inputs[1 - node.inputs.index(port)].node))
    if not tails:
        raise Decline(NO_SHORTCUT)
    return Tails(tuple(tails), bent, kept)


def transparent(node: Node) -> bool:
    """Whether a node carries a value on as it is."""
    return node.facts.family in ("passive", "pad") and node.facts.unchanged == "all"


def _carries(node: Node) -> bool:
    """Whether a node may lie behind a sum: each channel of it for itself."""
    return transparent(node) or node.facts.activates


def _from_sum(draft: Draft, port: Port) -> bool:
    while _carries(draft.nodes[port.node]):
        port = draft.nodes[port.node].inputs[0]
    return draft.nodes[port.node].facts.family == "sum"


ZERO_KEPT = ("shape", "split", "pool")
"""Families of ops of one input that make zeros of zeros: places picked, averaged, or put in another order."""


SILENCED = ("weighted", "standardized", "norm", "scale")
"""Families of ops whose own weights can make their output zero."""


def stripped(draft: Draft, tail: int) -> int:
    """The node before the end of a branch that only picks places, averages, or multiplies by a constant."""
    while True:
        node = draft.nodes[tail]
        moves = node.facts.family in ZERO_KEPT and len(node.inputs) == 1
        if not (moves or transparent(node) or _fixed_scale(draft, tail)):
            return tail
        tail = node.inputs[0].node


def near_zero(draft: Draft, tail: int, sigma: float) -> None:
    """Let the branch start close to zero: N(0, sigma) weights and zero shifts in its last weighted node.

    Behind a ReLU the weights must not be zero: its derivative there is 0 and the block would never learn.
    """
    for node_id, slot, shifts in parameters(draft, tail):
        if shifts:
            draft.fill(node_id, slot, "zeros")
        else:
            draft.fill(node_id, slot, "normal", std=sigma)


def parameters(draft: Draft, tail: int) -> list[tuple[int, str, bool]]:
    """(node, weight, whether it only shifts) of what makes the end of a new branch zero when it is zero.

    Of an activation that keeps zero those of the node before it, and of a learned shift its own, too. Decline for a
    node that has no such weights, and for weights of nodes that were there before.
    """
    found = end_weights(draft, tail, lambda facts: facts.activates and facts.unchanged is not None, ONLY_FRESH)
    common = [holder for holder, _, _ in found if draft.base is not None and holder in draft.base.nodes]
    if common:
        label = draft.nodes[common[0]].label
        raise Decline(f"the branch ends in '{label}', which others use, too; {ONLY_FRESH}")
    return found


def end_weights(draft: Draft, tail: int, bends: Callable[[OpDef], bool], remedy: str) -> list[tuple[int, str, bool]]:
    """(node, weight, whether it only shifts) of the weights that the end of a branch is proportional to, all together.

    `bends`: the nonlinearities that one may lie behind. Decline, with the remedy, for a node that has no such weights.
    """
    node = draft.nodes[tail]
    if bends(node.facts):
        tail = node.inputs[0].node
        node = draft.nodes[tail]
    if node.facts.family == "shift" and draft.slots(tail):
        shifts = [(tail, name, True) for name, slot in draft.slots(tail).items() if slot.kind == "param"]
        return [*shifts, *end_weights(draft, stripped(draft, node.inputs[0].node), bends, remedy)]
    if node.facts.family == "scale" and _starts_silent(draft, before := stripped(draft, node.inputs[0].node)):
        tail, node = before, draft.nodes[before]  # with a scale of zero, too, neither would ever learn
    holders = [tail] if node.facts.family in SILENCED else []
    if node.facts.family == "product":  # by a weight, as the scale that a layer learns, else by a gate
        factors = [stripped(draft, port.node) for port in node.inputs]
        learned = [factor for factor in factors if draft.nodes[factor].facts.family == "weight"]
        # one factor is enough, and with both at zero neither would get a gradient
        holders = (learned or [factor for factor in factors if draft.nodes[factor].facts.family in SILENCED])[:1]
    found = [
        (holder, name, "bias" in slot.tags)
        for holder in holders
        for name, slot in draft.slots(holder).items()
        if slot.kind == "param" and not (slot.is_kernel and draft.nodes[holder].facts.family == "standardized")
    ]
    if all(shifts for _, _, shifts in found):  # a standardized kernel without a gain is never zero
        found = []
    if not found and node.facts.family == "opaque":
        raise Decline(
            f"the branch ends in '{node.label}', and no rule says which weights of {node.attrs['runs']} make it zero; "
            f"{remedy}"
        )
    if not found:
        raise Decline(f"the branch ends in '{node.label}' ({node.op}), which has no weights to set; {remedy}")
    return found


def _starts_silent(draft: Draft, node_id: int) -> bool:
    """Whether the kernel of a new node starts at zero."""
    kernel = kernel_of(draft.slots(node_id))
    rule = None if kernel is None else draft.origins.fills.get(Key(node_id, kernel))
    return rule is not None and rule.rule == "zeros"


def _fixed_scale(draft: Draft, node_id: int) -> bool:
    """Whether a node only multiplies by a constant: zero stays zero through it."""
    if draft.nodes[node_id].facts.family != "scale" or draft.slots(node_id):
        return False
    return all(key.node != node_id for key in draft.ties)  # else it borrows the number from another node
