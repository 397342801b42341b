"""Random chains of ops that rearrange axes: whatever space is pruned, the rest computes what it did."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from nasir.ir import Atom, Draft, Graph, Port
from nasir.testing import (
    evaluate,
    permutation_difference,
    random_batch,
    random_weights,
    silenced,
    transferred,
    unit_axes,
)
from nasir.testing.unit_oracles import UnitAxes, largest_difference
from nasir.transfer.derive import derive

ROUNDING = 1e-12
Step = Callable[["Chain", Port], Port]


class Chain:
    """Convolutions without biases, and between them ops that rearrange what they put out."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.draft = Draft()
        x = self.add("input", (), shape=[3, 4, 4])
        for _ in range(3):
            x = self.conv(x, self.rng.choice((4, 6, 8, 12)))
            for _ in range(self.rng.randint(1, 3)):
                x = self.rng.choice(STEPS)(self, x)
        x = self.conv(x, 4)
        self.draft.output(self.add("linear", self.add("global_avg_pool", x), out=3, bias=False))

    def add(self, op: str, inputs: object, **attrs: object) -> Port:
        return self.draft.add(op, inputs, f"{op}{self.draft.minted}", **attrs)  # type: ignore[arg-type]

    def conv(self, x: Port, out: int) -> Port:
        return self.add("relu", self.add("conv2d", x, out=out, kernel=1))

    def shape(self, x: Port) -> tuple[int, ...]:
        return self.draft.shape(x)

    def factor(self, size: int) -> int:
        return self.rng.choice([n for n in range(1, size + 1) if size % n == 0])


def _shuffled(chain: Chain, x: Port) -> Port:
    (channels, *places), groups = chain.shape(x), chain.factor(chain.shape(x)[0])
    y = chain.add("reshape", x, shape=[groups, channels // groups, *places], channel_axis=1)
    return chain.add("reshape", chain.add("permute", y, order=[1, 0, 2, 3]), shape=[channels, *places])


def _halves(chain: Chain, x: Port) -> Port:
    channels = chain.shape(x)[0]
    if channels % 2:
        return x
    parts = chain.add("split", x, sizes=[channels // 2] * 2)
    second = Port(parts.node, 1)
    return chain.add("concat", (second, parts if chain.rng.random() < 0.5 else chain.add("mul", (parts, second))))


def _stacked(chain: Chain, x: Port) -> Port:
    y = chain.add("stack", (x, chain.conv(x, chain.shape(x)[0])), axis=chain.rng.choice((0, 1)))
    channels, *places = chain.shape(x)
    return chain.add("reshape", y, shape=[2 * channels, *places])


def _cut(chain: Chain, x: Port) -> Port:
    channels = chain.shape(x)[0]
    start = chain.rng.randint(0, channels - 1)
    return chain.add("slice", x, start=start, stop=chain.rng.randint(start + 1, channels))


def _summed(chain: Chain, x: Port) -> Port:
    (channels, *places), groups = chain.shape(x), chain.factor(chain.shape(x)[0])
    y = chain.add("reshape", x, shape=[groups, channels // groups, *places], channel_axis=1)
    return chain.add("reduce", y, how=chain.rng.choice(("sum", "mean", "amax")), axes=[0])


def _gated(chain: Chain, x: Port) -> Port:
    axes = chain.rng.choice(([1, 2], [0], [2]))
    return chain.add("mul", (x, chain.add("reduce", x, how="mean", axes=axes, keep=True)))


def _windowed(chain: Chain, x: Port) -> Port:
    channels, height, width = chain.shape(x)
    if height % 2 or width % 2:
        return x
    y = chain.add("reshape", x, shape=[channels, height // 2, 2, width // 2, 2])
    y = chain.add("permute", y, order=[1, 3, 2, 4, 0])
    rows = height * width // 4
    y = chain.add("reshape", y, shape=[4, channels], rows=rows)
    y = chain.add("relu", chain.add("linear", y, out=chain.rng.choice((4, 6)), bias=False))
    y = chain.add("reshape", y, shape=[height // 2, width // 2, 2, 2, chain.shape(y)[1]], channel_axis=4, rows=1)
    y = chain.add("permute", y, order=[4, 0, 2, 1, 3])
    return chain.add("reshape", y, shape=[chain.shape(y)[0], height, width])


def _repeated(chain: Chain, x: Port) -> Port:
    return chain.add("repeat", x, counts=[2, 1, 1], each=chain.rng.random() < 0.5)


def _pixels(chain: Chain, x: Port) -> Port:
    if chain.shape(x)[0] % 4:
        return chain.add("pixel_unshuffle", x, factor=2) if chain.shape(x)[1] % 2 == 0 else x
    return chain.add("pixel_shuffle", x, factor=2)


def _added(chain: Chain, x: Port) -> Port:
    """Two ways through, which lay the channels out in another order each."""
    return chain.add("add", (_shuffled(chain, x), _shuffled(chain, x)))


STEPS: tuple[Step, ...] = (_shuffled, _halves, _stacked, _cut, _summed, _gated, _windowed, _repeated, _pixels, _added)


def outputs(graph: Graph, weights: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    keys = {f"{graph.nodes[key.node].label}.{key.slot}": key for key in random_weights(graph, 0)}
    return [evaluate(graph, {keys[name]: array for name, array in weights.items()}, x)]


@pytest.mark.parametrize("seed", range(60))
def test_any_space_is_permuted_and_pruned_right(seed: int) -> None:
    graph = Chain(seed).draft.commit()
    (x,) = random_batch(graph, 1)
    stored = random_weights(graph, 2)
    weights = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in stored.items()}
    for space in [atom for atom in graph.infer.spaces if atom.resizable and atom.size > 1]:
        axes = unit_axes(graph, space)
        if is_squared(axes):
            continue
        moved = permutation_difference(lambda state: outputs(graph, dict(state), x), weights, axes)
        scale = abs(outputs(graph, weights, x)[0]).max() + 1.0
        assert moved < ROUNDING * scale, space
        assert_pruned(graph, space, weights, x)


def is_squared(axes: UnitAxes) -> bool:
    """Whether some position is of two units, as where the two factors of a product are one space."""
    labels = [each for found in axes.values() if isinstance(found, dict) for each in found.values()]
    return any(len(set(np.bincount(each[each >= 0]))) > 1 for each in labels)


def assert_pruned(graph: Graph, space: Atom, weights: dict[str, np.ndarray], x: np.ndarray) -> None:
    """Without its silent units a space gives the same numbers, but where one op makes a mean of all of them."""
    units = list(range(0, space.size, 2))
    quiet = silenced(weights, unit_axes(graph, space, ("write",)), units)
    draft = graph.draft()
    draft.select(space, np.setdiff1d(np.arange(space.size), units))
    small = draft.commit()
    keys = {key: f"{graph.nodes[key.node].label}.{key.slot}" for key in random_weights(graph, 0)}
    carried = transferred(derive(draft, small), small, {key: quiet[name] for key, name in keys.items()})
    wanted, given = outputs(graph, quiet, x), [evaluate(small, carried, x)]
    if not space.mixed:
        assert largest_difference(wanted, given) < ROUNDING * (abs(wanted[0]).max() + 1.0), space


def test_the_chains_have_spaces_of_all_kinds() -> None:
    """Products of several atoms, concatenations within them, and pins: what the laws are about."""
    graphs = [Chain(seed).draft.commit() for seed in range(60)]
    free = [atom for graph in graphs for atom in graph.infer.spaces if atom.resizable and atom.size > 1]
    pinned = {str(atom.pin).split(" '")[0] for graph in graphs for atom in graph.infer.spaces if atom.pin}
    assert sum(is_squared(unit_axes(graph, atom)) for graph in graphs for atom in graph.infer.spaces) < 10
    assert len(free) > 250 and sum(atom.mixed is None for atom in free) > 150
    assert pinned >= {"split", "pixel_shuffle", "reshape"}, pinned
