"""Generated networks on tokens, and a mixture of all kinds: what a property test of passes should hold on.

Transformers with heads of every size, projections apart or in one, class tokens, means and flattened tokens;
convolutional networks that also split into parallel branches and average them. Equal seeds give equal graphs.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TYPE_CHECKING

from nasir.ir import Graph, Port
from nasir.testing.graphs import STEPS, GraphMaker

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def random_transformer(seed: int, blocks: int = 2, without: Collection[str] = ()) -> Graph:
    """A small vision transformer with `blocks` encoder blocks, regions of the stage "encoder".

    `without` names ops to avoid, such as `MIXING`; honoured for activations and norms. The channels of q and k are one
    space for each attention: silent ones can be removed exactly, but every other resize changes the function, so
    `mixed` is set there.
    """
    return _TokenMaker(random.Random(seed), frozenset(without)).transformer(blocks)


def varied_graph(seed: int, steps: int = 6, blocks: int = 2, without: Collection[str] = ()) -> Graph:
    """A convolutional network with branches and all that `random_graph` has, or, one time in three, a transformer."""
    rng = random.Random(seed)
    if rng.random() < 1 / 3:
        return _TokenMaker(rng, frozenset(without)).transformer(blocks)
    return GraphMaker(rng, frozenset(without), (*STEPS, _branches, _depthwise)).make(steps, blocks)


def varied_graphs(steps: int = 6, blocks: int = 2, without: Collection[str] = ()) -> SearchStrategy[Graph]:
    """`varied_graph` as a hypothesis strategy (needs hypothesis); shrinks towards fewer steps."""
    from hypothesis import strategies

    return strategies.builds(
        lambda seed, n: varied_graph(seed, n, blocks, without),
        strategies.integers(0, 2**32 - 1),
        strategies.integers(0, steps),
    )


def _branches(maker: GraphMaker, x: Port) -> Port:
    """Two or three parallel branches and their mean."""
    out, count = maker.rng.choice((2, 4, 5)), maker.rng.choice((2, 3))
    inner = [maker.add("relu", maker.norm(maker.conv(x, maker.rng.choice((2, 3, 4)), 1))) for _ in range(count)]
    return maker.add("mean", [maker.norm(maker.conv(y, out, 3)) for y in inner])


def _depthwise(maker: GraphMaker, x: Port) -> Port:
    """A depthwise and a pointwise convolution."""
    channels = maker.shape(x)[0]
    y = maker.norm(maker.conv(x, channels * maker.rng.choice((1, 1, 2)), 3, groups=channels))
    return maker.conv(maker.add("relu", y), maker.rng.choice((3, 4)), 1)


class _TokenMaker(GraphMaker):
    """A transformer under construction."""

    def transformer(self, blocks: int) -> Graph:
        rng = self.rng
        image = self.draft.add("input", (), "image", shape=[rng.choice((1, 2, 3)), 4, 6])
        if rng.random() < 0.5:
            image = self.add("relu", self.norm(self.conv(image, rng.choice((3, 4)))))
        channels = rng.choice((4, 6, 8))
        x = self.add("tokens", self.add("conv2d", image, "patches", out=channels, kernel=2, stride=2, bias=True))
        classified = rng.random() < 0.5
        if classified:
            x = self.add("class_token", x)
        if rng.random() < 0.8:
            x = self.add("position_embedding", x)
        self.draft.region("encoder", "stage")
        for block in range(blocks):
            x = self.block(x, f"encoder.{block}")
        if rng.random() < 0.4:
            x = self.cut(x)
        x = self.layer_norm(x)
        if classified:
            x = self.add("select_token", x)
        else:
            x = self.add(rng.choice(("mean_tokens", "flatten")), x)
        self.draft.output(self.add("linear", x, "classifier", out=3))
        return self.draft.commit()

    def layer_norm(self, x: Port, label: str | None = None) -> Port:
        return x if "layer_norm" in self.without else self.add("layer_norm", x, label)

    def block(self, x: Port, path: str) -> Port:
        """Attention and a two-layer network, each around a shortcut; the heads need not fill the channels."""
        rng, channels = self.rng, self.shape(x)[1]
        heads, matched, values = rng.choice((1, 2, 3)), rng.choice((1, 2, 3)), rng.choice((1, 2, 4))
        y, sizes = self.layer_norm(x, f"{path}.ln_1"), [heads * matched, heads * matched, heads * values]
        if rng.random() < 0.7:
            y = self.add("linear", y, f"{path}.in_proj", out=sum(sizes), bias=rng.random() < 0.7)
        else:
            parts = [self.add("linear", y, f"{path}.{n}", out=size) for n, size in zip("qkv", sizes, strict=True)]
            y = self.add("concat", parts, f"{path}.qkv")
        scale = matched**-0.5
        y = self.add("self_attention", y, f"{path}.core", heads=heads, head_dim=matched, scale=scale)
        y = self.add("linear", y, f"{path}.out_proj", out=channels)
        x = self.add("add", [x, y], f"{path}.add_1")
        y = self.add("linear", self.layer_norm(x, f"{path}.ln_2"), f"{path}.mlp.0", out=rng.choice((3, 5, 8)))
        activations = [op for op in ("gelu", "relu", "silu", "hardswish") if op not in self.without]
        y = self.add(rng.choice(activations), y, f"{path}.mlp.1")
        y = self.add("linear", y, f"{path}.mlp.3", out=channels, bias=rng.random() < 0.5)
        self.draft.region(path, "block")
        return self.add("add", [x, y], f"{path}.add_2")

    def cut(self, x: Port) -> Port:
        """The channels in two parts, one of them activated, joined the other way round."""
        channels = self.shape(x)[1]
        first = self.rng.randint(1, channels - 1)
        parts = self.add("split", x, sizes=[first, channels - first])
        return self.add("concat", [Port(parts.node, 1), self.add("gelu", parts)])
