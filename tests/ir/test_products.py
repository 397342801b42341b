"""Atoms cut into products: what a reshape makes of axes, and products that meet others."""

from __future__ import annotations

import itertools
import random
from math import prod

import numpy as np
import pytest

from nasir.errors import TypeRuleError
from nasir.ir import Atom, Cat, Draft, Graph, Prod, atoms_of, positions
from nasir.ir.space import Axis, Space, resolve, size_of
from nasir.ir.unify import refine, regroup, unify

_sources = itertools.count()


def atom(size: int) -> Atom:
    return Atom(size, next(_sources))


def kept(axes: list[Axis], rng: random.Random) -> dict[Atom, np.ndarray]:
    """Some units of each atom that can be resized."""
    found = {part for axis in axes for part in atoms_of(axis) if part.resizable}
    return {
        part: np.sort(rng.sample(range(part.size), rng.randint(1, part.size)))
        for part in sorted(found, key=lambda part: part.source)
    }


def along(axis: Axis, take: dict[Atom, np.ndarray]) -> list[int]:
    index = positions(axis, take)
    return list(range(size_of(axis))) if index is None else index.tolist()


def test_an_atom_is_cut_into_runs() -> None:
    a = atom(6)
    a.pin, a.mixed = "it is read", "norm"
    product = refine(a, 2)
    assert [*atoms_of(a)] == [*product.parts] and [size_of(part) for part in product.parts] == [2, 3]
    assert all(part.pin == "it is read" and part.mixed == "norm" for part in atoms_of(a))
    assert [size_of(part) for part in refine(atom(6), 3, fixed=True).parts] == [3, 2]


@pytest.mark.parametrize(
    ("axes", "sizes", "wanted"),
    [
        ([12, 5], [3, 4, 5], [[3], [4], [5]]),
        ([6, 4, 4], [6, 16], [[6], [16]]),
        ([6, 4], [2, 12], [[2], [3, 4]]),
        ([6, 4], [1, 6, 1, 4], [[1], [6], [1], [4]]),
        ([1, 6, 1], [6], [[1, 6]]),
        ([2, 3, 4], [24], [[2, 12]]),
    ],
)
def test_factors_are_dealt_out_from_the_left(axes: list[int], sizes: list[int], wanted: list[list[int]]) -> None:
    made = regroup([atom(axes[0]), *axes[1:]], sizes, "reshape 'r'")
    assert [size_of(axis) for axis in made] == sizes
    flat = [[size_of(f) for f in axis.parts] if isinstance(axis, Prod) else [size_of(axis)] for axis in made]
    assert flat == wanted


def test_parts_of_equal_size_are_a_product_of_which_the_parts_are_one_space() -> None:
    a, b = atom(4), atom(4)
    outer, inner = regroup([Cat((a, b))], [2, 4], "reshape 'r'")
    assert outer == 2 and resolve(a) is resolve(b) is resolve(inner)
    c = Cat((atom(2), atom(1), atom(3)))
    made = regroup([c], [2, 3], "reshape 'r'")
    assert made[0] == 2 and [part.size for part in atoms_of(made[1])] == [2, 1]
    assert len(set(atoms_of(c))) == 2


def test_what_does_not_divide_is_pinned_and_only_that() -> None:
    a, b, c = atom(4), atom(6), atom(5)
    made = regroup([a, b, c], [6, 4, 5], "reshape 'r'")
    assert made[:2] == [6, 4] and made[2] is c and c.resizable
    assert all("reshape 'r' lays it out as (6, 4, 5)" in str(part.pin) for part in (a, b))


def test_single_units_stay_resizable_where_there_is_an_axis_for_them() -> None:
    one, four = atom(1), atom(4)
    assert regroup([one, four], [1, 4], "r") == [one, four]
    other = atom(1)
    (whole,) = regroup([four, other], [4], "r")
    assert set(atoms_of(whole)) == {four, other} and other.resizable
    alone = atom(1)
    assert regroup([alone], [], "r") == [] and not alone.resizable


def test_products_are_cut_at_common_boundaries() -> None:
    a, b, c = atom(6), atom(4), atom(2)
    unify(Prod((a, b)), Prod((c, atom(12))), "add")
    assert [part.size for part in atoms_of(Prod((a, b)))] == [2, 3, 4] and resolve(c) in set(atoms_of(a))
    whole = atom(6)
    halves = Cat((atom(12), atom(12)))
    unify(Prod((whole, 4)), halves, "split")
    assert [part.size for part in atoms_of(whole)] == [3] and {*atoms_of(whole)} < {*atoms_of(halves)}
    unify(Prod((atom(3), atom(1))), Prod((atom(1), atom(3), 1)), "add")


def test_units_of_what_was_unified_or_regrouped_move_alike() -> None:
    """Whatever units stay: the positions along both are the same."""
    rng = random.Random(0)
    free = 0
    for _ in range(400):
        pool = [atom(rng.choice((1, 2, 3, 4, 6))) for _ in range(3)]

        def space(depth: int, pool: list[Atom] = pool) -> Space:
            if depth == 0 or rng.random() < 0.3:
                return rng.choice(pool)
            if rng.random() < 0.5:
                return Cat(tuple([space(depth - 1) for _ in range(rng.randint(1, 3))]))
            return Prod((space(depth - 1), rng.choice((2, space(depth - 1)))))

        axes: list[Axis] = [space(2) for _ in range(rng.randint(1, 3))]
        total = prod(size_of(axis) for axis in axes)
        sizes = []
        while total > 1:
            size = rng.choice([n for n in range(2, total + 1) if total % n == 0][:6])
            sizes.append(size)
            total //= size
        made = regroup(axes, sizes, "reshape")
        assert [size_of(axis) for axis in made] == sizes
        other = space(2)
        if size_of(other) == size_of(axes[0]):
            unify(axes[0], other, "add")
        take = kept([*axes, *made, other], rng)
        free += bool(take)
        assert along(Prod(tuple(axes)), take) == along(Prod(tuple(made)), take)
        if size_of(other) == size_of(axes[0]):
            assert along(axes[0], take) == along(other, take)
    assert free > 100


def reshaping(shape: list[int], **attrs: object) -> Graph:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 4, 4]), "conv", out=8, kernel=1)
    draft.output(draft.add("reshape", x, "rows", shape=shape, **attrs))
    return draft.commit()


@pytest.mark.parametrize(
    ("shape", "attrs", "text"),
    [
        ([8, 15], {}, r"cannot reshape \(8, 4, 4\) \(128 elements\) to \(8, 15\) \(120\)"),
        ([8, 16], {"channel_axis": 2}, "channel_axis must be from 0 to 1, not 2"),
        ([8, 16], {"rows": 2}, r"\(128 elements\) to \(8, 16\) \(256\)"),
    ],
)
def test_reshapes_that_cannot_be_are_refused(shape: list[int], attrs: dict[str, object], text: str) -> None:
    with pytest.raises(TypeRuleError, match=f"reshape 'rows': .*{text}"):
        reshaping(shape, **attrs)


def test_channels_that_become_a_part_of_the_batch_are_pinned() -> None:
    graph = reshaping([4, 4], rows=8)
    (value,) = [graph.infer.types[port] for port in graph.outputs]
    assert (value.shape, value.batch) == ((4, 4), 8)
    assert "reshape 'rows' makes it a part of the batch" in [atom.pin for atom in graph.infer.spaces]


def test_a_single_unit_stays_resizable_through_a_reshape_and_numbers_alone_are_a_number() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 2, 2]), "conv", out=1, kernel=1)
    x = draft.add("flatten", draft.add("reshape", x, "rows", shape=[1, 4]), "flat")
    y = draft.add(
        "flatten", draft.add("select", draft.add("input", (), "y", shape=[3, 2, 2]), "one", axis=0), "numbers"
    )
    draft.output(draft.add("linear", draft.add("concat", (x, y), "both"), "fc", out=2))
    graph = draft.commit()
    assert [atom.name for atom in graph.infer.spaces if atom.resizable] == ["conv"]
    wider = graph.draft()
    wider.select(next(atom for atom in graph.infer.spaces if atom.name == "conv"), [0, -1])
    after = wider.commit()
    assert after.nodes[after.find("rows")].attrs["shape"] == (2, 4)
    assert after.infer.slots[after.find("fc")]["weight"].shape == (2, 12)
