"""Which nodes have no deterministic gradient on CUDA, as the definitions of their ops say."""

from __future__ import annotations

import pytest

from nasir.analysis.determinism import unordered
from nasir.ir import Draft, Graph
from nasir.ir.infer import At
from nasir.ir.op import PerAxis, loaded, op, op_named
from nasir.ir.types import Fill, ValueType
from nasir.ops.pools import even_windows
from nasir.registry import ops
from nasir.testing import shipped_cases


def pooled(side: tuple[int, int], size: PerAxis, before: bool = True) -> Graph:
    """An adaptive pool behind a convolution, or right behind the input."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, *side])
    x = draft.add("conv2d", x, "conv", out=4, kernel=3, padding=1) if before else x
    x = draft.add("adaptive_avg_pool", x, "pool", size=size)
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=2))
    return draft.commit()


@pytest.mark.parametrize(
    ("side", "size", "windows"),
    [
        ((8, 8), 4, (2, 2)),
        ((8, 6), (4, 2), (2, 3)),
        ((7, 7), 7, (1, 1)),
        ((7, 5), 1, (7, 5)),
        ((8, 8), 3, None),
        ((8, 6), 4, None),  # one side divides, the other does not
        ((6, 8), 4, None),
        ((3, 3), 6, None),  # larger than the input: windows overlap
    ],
)
def test_windows_are_even_where_the_sizes_divide(
    side: tuple[int, int], size: PerAxis, windows: tuple[int, int] | None
) -> None:
    assert even_windows(ValueType((3, *side)), size) == windows
    problems = list(unordered(pooled(side, size)))
    assert bool(problems) is (windows is None)


def test_what_is_wrong_names_node_and_sizes_and_the_remedy_would_help() -> None:
    graph = pooled((9, 8), (5, 3))
    (problem,) = unordered(graph)
    assert graph.nodes[problem.node].label == "pool"
    assert "adaptive_avg_pool 'pool' pools 9x8 to 5x3 by windows that differ" in problem.text
    assert problem.remedy.startswith("use a size that divides 9x8, such as [3, 2], or set `deterministic: false`")
    assert not list(unordered(pooled((9, 8), (3, 2))))


def test_what_has_no_weight_before_it_has_no_gradient() -> None:
    assert not list(unordered(pooled((8, 8), 3, before=False)))


def test_a_third_party_op_may_say_so_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_objects", dict(ops._objects))

    @op("scattered", unordered=lambda attrs, inputs, out: ("adds up at random", "drop it") if attrs["n"] else None)
    def scattered(at: At, x: ValueType, n: int = 0) -> ValueType:
        """A weight of its own is enough: nothing lies before it."""
        at.slot("weight", ((x.channels, "along"),), Fill("ones"))
        return x

    monkeypatch.setitem(loaded, "scattered", ops.get("scattered"))  # so that it is forgotten again
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    x = draft.add("scattered", x, "fine")
    draft.output(draft.add("scattered", x, "odd", n=1))
    (problem,) = unordered(draft.commit())
    assert problem.text.startswith("scattered 'odd' adds up at random, and CUDA has no deterministic gradient")
    assert problem.remedy.startswith("drop it, or set")


def test_no_other_op_that_ships_says_so() -> None:
    said = {name for name in shipped_cases() if op_named(name).unordered is not None}
    windows = {"avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "conv1d", "conv2d", "conv3d", "pad", "interpolate"}
    windows |= {"ws_conv2d", "lp_pool", "bicubic"}
    assert said == windows | {"local_response_norm"}
