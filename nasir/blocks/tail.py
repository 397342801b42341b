"""The end of a block's residual branch: where an initializer silences or scales a new block."""

from __future__ import annotations

from nasir.errors import Decline
from nasir.ir import Draft, Port

NO_SHORTCUT = "the block has no identity shortcut around one branch; only init: default or copy apply"
TRANSPARENT = ("identity", "dropout", "pad_channels")  # carry the branch's value on without weights of their own


def branch_tail(draft: Draft, before: Port, after: Port) -> tuple[int, bool]:
    """(last weighted or rectifying node of the residual branch, whether a ReLU follows the sum).

    `before` and `after` are input and output of the block; Decline without an identity shortcut around one branch.
    """
    tails, relu = branch_tails(draft, before, after)
    if len(tails) != 1:
        raise Decline(NO_SHORTCUT)
    return tails[0], relu


def branch_tails(draft: Draft, before: Port, after: Port) -> tuple[tuple[int, ...], bool]:
    """The same for a block of several residual sums one after another, such as a transformer's; last sum first."""
    tails: list[int] = []
    port, relu = after, False
    while port != before:
        node = draft.nodes[port.node]
        if node.op in ("relu", *TRANSPARENT):
            relu = relu or node.op == "relu"
            port = node.inputs[0]
            continue
        if node.op != "add" or len(node.inputs) != 2:
            raise Decline(NO_SHORTCUT)
        # the stream is the input of the block, or the sum before this one
        streams = [other for other in node.inputs if other == before] or [
            other for other in node.inputs if draft.nodes[other.node].op in ("add", "relu")
        ]
        if len(streams) != 1:
            raise Decline(NO_SHORTCUT)
        port = streams[0]
        tails.append(_stripped(draft, node.inputs[1 - node.inputs.index(port)].node))
    if not tails:
        raise Decline(NO_SHORTCUT)
    return tuple(tails), relu


def _stripped(draft: Draft, tail: int) -> int:
    while draft.nodes[tail].op in TRANSPARENT or _fixed_scale(draft, tail):
        tail = draft.nodes[tail].inputs[0].node
    return tail


def near_zero(draft: Draft, tail: int, sigma: float) -> None:
    """Let the branch start close to zero: N(0, sigma) weights and zero shifts in its last weighted node.

    Behind a ReLU the weights must not be zero: its derivative there is 0 and the block would never learn.
    """
    if draft.nodes[tail].op == "relu":
        tail = draft.nodes[tail].inputs[0].node
    for slot in parameters(draft, tail):
        if slot == "weight":
            draft.fill(tail, slot, "normal", std=sigma)
        else:
            draft.fill(tail, slot, "zeros")


def parameters(draft: Draft, node_id: int) -> list[str]:
    """Names of the parameters of a weighted node, none for a ReLU; Decline for any other node."""
    node = draft.nodes[node_id]
    names = {
        "conv2d": ["weight", "bias"] if node.attrs.get("bias") else ["weight"],
        "linear": ["weight", "bias"] if node.attrs.get("bias") else ["weight"],
        "scale": ["weight"] if node.attrs.get("learnable") else [],
        "relu": [],
    }.get(node.op, ["weight", "bias"] if node.op.endswith("_norm") else None)
    if names is None or (not names and node.op != "relu"):
        raise Decline(f"the branch ends in '{node.label}' ({node.op}), which has no weights to set")
    return names


def _fixed_scale(draft: Draft, node_id: int) -> bool:
    """Whether a node only multiplies by a constant: zero stays zero through it."""
    node = draft.nodes[node_id]
    return node.op == "scale" and not node.attrs["learnable"]
