"""`Maker`: adds labelled nodes to a draft, all below one path and all by one initializer."""

from __future__ import annotations

from collections.abc import Iterable

from nasir.analysis.branch_scales import Rule
from nasir.blocks.init import init_rules, starts
from nasir.errors import TypeRuleError
from nasir.ir import JSON, Draft, Port
from nasir.ir.space import size_of

SHORT = {
    "conv2d": "conv",
    "batch_norm": "bn",
    "group_norm": "gn",
    "layer_norm": "ln",
    "max_pool": "maxpool",
    "avg_pool": "avgpool",
    "adaptive_avg_pool": "avgpool",
    "global_avg_pool": "avgpool",
    "mean_tokens": "avgpool",
    "position_embedding": "pos",
    "self_attention": "attention",
}
"""What nodes of an op are called in labels, where it is not the op's name: torchvision's words."""


class Maker:
    """Labels are `path.name`, or just `name` for an empty path; `init` is a name of `INITS`, else UnknownName.

    `sums`: the residual sums that the network will have, None where they are counted later; `unsettled`: nodes whose
    scale waits for that, with their rules (`nasir.blocks.scales`).
    """

    def __init__(self, draft: Draft, path: str = "", init: str = "default", sums: int | None = None) -> None:
        self.draft = draft
        self.path = path
        self.init = init
        self.sums = sums
        self.unsettled: dict[int, Rule] = {}
        self.rules = init_rules(init)
        self.used: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last that each word was given

    def begin_by(self, init: str) -> None:
        """Let what is made from now on, and later blocks like it, begin by another initializer; UnknownName."""
        self.init, self.rules = init, init_rules(init)

    def node(self, op: str, inputs: Port | Iterable[Port], name: str | None = None, /, **attrs: JSON) -> Port:
        """A new node; without a name it is numbered: conv1, bn1, relu1, conv2. Raises TypeRuleError."""
        name = name or self.numbered(op)
        if name in self.used:
            raise TypeRuleError(f"two nodes would be labelled '{self.label(name)}': give one of them another label")
        self.used.add(name)
        port = self.draft.add(op, inputs, self.label(name), **attrs)
        for slot, rule in starts(self.init, self.draft.slots(port.node)).items() if self.rules else ():
            self.draft.fill(port.node, slot, rule.rule, **rule.args)
        return port

    def label(self, name: str) -> str:
        """The label of a node or region of this name."""
        return f"{self.path}.{name}" if self.path else name

    def numbered(self, op: str) -> str:
        """The first of conv1, conv2, ... that is free."""
        word = SHORT.get(op, op)
        number = self._numbers.get(word, 1)
        while f"{word}{number}" in self.used:
            number += 1
        self._numbers[word] = number
        return f"{word}{number}"

    def shape(self, port: Port) -> tuple[int, ...]:
        """(C, H, W), (C,) or (T, C); raises TypeRuleError where an op refuses its input."""
        return self.draft.shape(port)

    def channels(self, port: Port) -> int:
        """Size of the channel axis."""
        return size_of(self.draft.value(port).channels)

    # -- what blocks are made of

    def conv(
        self,
        x: Port,
        out: int,
        name: str | None = None,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> Port:
        """A convolution whose default padding keeps the size at stride 1 (kernel // 2)."""
        pad = kernel // 2 if padding is None else padding
        return self.node(
            "conv2d", x, name, out=out, kernel=kernel, stride=stride, padding=pad, groups=groups, bias=bias
        )

    def norm(self, x: Port, name: str | None = None) -> Port:
        """A batch norm."""
        return self.node("batch_norm", x, name)

    def relu(self, x: Port, name: str | None = None) -> Port:
        """A ReLU."""
        return self.node("relu", x, name)
