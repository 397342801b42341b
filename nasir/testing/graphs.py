"""Generated networks: small, typed by construction, and rich in what makes transfers hard.

They hold residual stages, concatenations that meet sums at other boundaries, grouped and depthwise convolutions,
splits, option-A shortcuts and flatten -> linear. Equal seeds give equal graphs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

from nasir.errors import TypeRuleError
from nasir.ir import Draft, Graph, Port
from nasir.transfer import Key

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Step = Callable[["GraphMaker", Port], Port]


MIXING = frozenset({"group_norm", "layer_norm", "softmax"})  # normalize over channels: no resize is exact
STIRRING = frozenset({"sigmoid"})  # turn 0 into something else: a silent unit has an effect after them


def random_graph(seed: int, steps: int = 8, blocks: int = 2, without: Collection[str] = ()) -> Graph:
    """A network of about 20 + 3 * `steps` nodes from images to a vector.

    `blocks` residual blocks form a stage "s1". `without` names ops to avoid, such as `MIXING`; honoured for
    activations, norms and "mul".
    """
    return GraphMaker(random.Random(seed), frozenset(without)).make(steps, blocks)


def random_graphs(steps: int = 8, blocks: int = 2, without: Collection[str] = ()) -> SearchStrategy[Graph]:
    """`random_graph` as a hypothesis strategy (needs hypothesis); shrinks towards fewer steps."""
    from hypothesis import strategies

    return strategies.builds(
        lambda seed, n: random_graph(seed, n, blocks, without),
        strategies.integers(0, 2**32 - 1),
        strategies.integers(0, steps),
    )


def with_ties(graph: Graph) -> Graph:
    """The graph with every second one of its layers sharing the weights of the last one like it, where that can be."""
    last: dict[object, int] = {}
    for node_id in graph.order:
        slots = graph.infer.slots[node_id]
        kind = (graph.nodes[node_id].op, tuple([(name, slot.shape) for name, slot in slots.items()]))
        owner = last.pop(kind, None) if slots else None
        if owner is None:
            last[kind] = node_id
            continue
        draft = graph.draft()
        for name in slots:
            draft.tie(Key(node_id, name), Key(owner, name))
        with suppress(TypeRuleError):  # their spaces cannot be made one
            graph = draft.commit()
    return graph


class GraphMaker:
    """One network under construction; `pool` holds the image values that later steps may read, `kinds` the steps."""

    def __init__(self, rng: random.Random, without: frozenset[str], kinds: Sequence[Step] | None = None) -> None:
        self.rng = rng
        self.kinds = STEPS if kinds is None else kinds
        self.draft = Draft()
        self.pool: list[Port] = []
        self.without = without
        self.count = 0

    def make(self, steps: int, blocks: int) -> Graph:
        rng = self.rng
        size = rng.choice((4, 5, 6))
        image = self.draft.add("input", (), "image", shape=[rng.choice((1, 2, 3)), size, size])
        x = self.draft.add("relu", self.norm(self.conv(image, rng.choice((4, 6, 8)))), "stem.relu")
        if blocks:
            x = self.stage(x, blocks)
        self.pool = [x]
        for _ in range(steps):
            step = rng.choice(self.kinds)
            self.pool.append(step(self, rng.choice(self.pool)))
        self.draft.output(self.head())
        return self.draft.commit()

    def name(self, op: str) -> str:
        self.count += 1
        return f"{op}{self.count}"

    def shape(self, x: Port) -> tuple[int, ...]:
        return self.draft.shape(x)

    def add(self, op: str, x: Port | list[Port], label: str | None = None, **attrs: object) -> Port:
        return self.draft.add(op, x, label or self.name(op), **attrs)

    def conv(self, x: Port, out: int, kernel: int = 3, label: str | None = None, **attrs: object) -> Port:
        bias = self.rng.random() < 0.5
        return self.add("conv2d", x, label, out=out, kernel=kernel, padding=kernel // 2, bias=bias, **attrs)

    def norm(self, x: Port, label: str | None = None) -> Port:
        return self.add("batch_norm", x, label)

    def stage(self, x: Port, blocks: int) -> Port:
        """Residual blocks of one width, each a region of the stage "s1"."""
        width = self.shape(x)[0]
        self.draft.region("s1", "stage")
        for block in range(blocks):
            path = f"s1.{block}"
            inner = self.rng.choice((3, 4, width))
            y = self.norm(self.conv(x, inner, label=f"{path}.conv1"), f"{path}.bn1")
            y = self.conv(self.add("relu", y, f"{path}.relu1"), width, label=f"{path}.conv2")
            y = self.add("add", [x, self.norm(y, f"{path}.bn2")], f"{path}.add")
            x = self.add("relu", y, f"{path}.relu2")
            self.draft.region(path, "block")
        return x

    def like(self, x: Port) -> Port:
        """A value of the shape of `x`: one from the pool, or a 1x1 convolution of a value of its size."""
        shape = self.shape(x)
        near = [other for other in self.pool if self.shape(other)[1:] == shape[1:]] or [x]
        other = self.rng.choice(near)
        return other if self.shape(other) == shape else self.conv(other, shape[0], 1)

    def head(self) -> Port:
        """A vector over everything that nothing reads yet, then one or two linear layers."""
        read = {port for node in self.draft.nodes.values() for port in node.inputs}
        ends = [port for port in dict.fromkeys(self.pool) if port not in read]
        vectors = [self.vector(end) for end in ends]
        x = vectors[0] if len(vectors) == 1 else self.add("concat", vectors)
        if "layer_norm" not in self.without and self.rng.random() < 0.3:
            x = self.add("layer_norm", x)
        if self.rng.random() < 0.5:
            x = self.add("relu", self.norm(self.add("linear", x, out=5)))
        return self.add("linear", x, "classifier", out=3)

    def vector(self, x: Port) -> Port:
        chance = self.rng.random()
        if chance < 0.2:
            channels, *size = self.shape(x)
            return self.add("flatten", self.add("reshape", x, shape=[channels, prod(size)]))
        if chance < 0.5:
            return self.add("flatten", x)
        return self.add("global_avg_pool", x)


def _conv(maker: GraphMaker, x: Port) -> Port:
    out = maker.rng.choice((3, 4, 6))
    return maker.add("relu", maker.norm(maker.conv(x, out, maker.rng.choice((1, 3)))))


def _grouped(maker: GraphMaker, x: Port) -> Port:
    size = maker.shape(x)[0]
    groups = maker.rng.choice([n for n in range(1, size + 1) if size % n == 0])
    return maker.conv(x, groups * maker.rng.choice((1, 2)), 3, groups=groups)


def _add(maker: GraphMaker, x: Port) -> Port:
    return maker.add(maker.rng.choice(("add", "mean")), [x, maker.like(x)])


def _mul(maker: GraphMaker, x: Port) -> Port:
    if "mul" in maker.without:
        return _add(maker, x)
    gate = "silu" if "sigmoid" in maker.without else "sigmoid"
    return maker.add("mul", [x, maker.add(gate, maker.like(x))])


def _concat(maker: GraphMaker, x: Port) -> Port:
    return maker.add("concat", [x, maker.like(x)])


def _cut_sum(maker: GraphMaker, x: Port) -> Port:
    """Two concatenations of equal size with boundaries at other places, added: their atoms are cut."""
    a, b, c = (maker.rng.randint(1, 4) for _ in range(3))
    left = maker.add("concat", [maker.conv(x, a + b, 1), maker.conv(x, c, 1)])
    right = maker.add("concat", [maker.conv(x, a, 1), maker.conv(x, b + c, 1)])
    return maker.add("add", [left, right])


def _split(maker: GraphMaker, x: Port) -> Port:
    size = maker.shape(x)[0]
    if size < 2:
        return _conv(maker, x)
    first = maker.rng.randint(1, size - 1)
    parts = maker.add("split", x, sizes=[first, size - first])
    maker.pool.append(maker.add("gelu", Port(parts.node, 1)))
    return maker.add("silu", parts)


def _slice(maker: GraphMaker, x: Port) -> Port:
    size = maker.shape(x)[0]
    start = maker.rng.randint(0, size - 1)
    return maker.add("slice", x, start=start, stop=maker.rng.randint(start + 1, size))


def _shortcut(maker: GraphMaker, x: Port) -> Port:
    """Option A: subsample and pad, added to a convolution."""
    before, after = maker.rng.randint(0, 2), maker.rng.randint(0, 2)
    y = maker.add("pad_channels", maker.add("subsample", x), before=before, after=after)
    out = maker.shape(y)[0]
    return maker.add("add", [maker.norm(maker.conv(x, out, 3, stride=2)), y])


def _pool(maker: GraphMaker, x: Port) -> Port:
    if maker.rng.random() < 0.3:
        return maker.add("adaptive_avg_pool", x, size=[2, 1])
    if min(maker.shape(x)[1:]) < 2:
        return maker.add("identity", x)
    return maker.add(maker.rng.choice(("max_pool", "avg_pool")), x, kernel=2)


def _activation(maker: GraphMaker, x: Port) -> Port:
    ops = ("relu", "gelu", "silu", "sigmoid", "hardswish", "identity")
    return maker.add(maker.rng.choice([op for op in ops if op not in maker.without]), x)


def _regularize(maker: GraphMaker, x: Port) -> Port:
    return maker.add("dropout", maker.add("scale", x, value=0.5, learnable=maker.rng.random() < 0.5), p=0.2)


def _mix(maker: GraphMaker, x: Port) -> Port:
    ops = [op for op in ("group_norm", "group_norm", "softmax") if op not in maker.without]
    op = maker.rng.choice(ops or ["batch_norm"])
    if op != "group_norm":
        return maker.add(op, x)
    size = maker.shape(x)[0]
    return maker.add("group_norm", x, groups=maker.rng.choice([n for n in range(1, size + 1) if size % n == 0]))


STEPS: tuple[Step, ...] = (
    _conv,
    _conv,
    _grouped,
    _add,
    _mul,
    _concat,
    _cut_sum,
    _split,
    _slice,
    _shortcut,
    _pool,
    _activation,
    _regularize,
    _mix,
)
