"""Spaces: unification, refinement, pins and positions."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from nasir.ir import Atom, Cat, Index, Prod, atoms_of, positions
from nasir.ir.space import Space, pin, resolve, size_after, size_of
from nasir.ir.unify import SpaceMismatch, split, unify

_sources = itertools.count()


def atom(size: int) -> Atom:
    made = Atom(size, next(_sources))
    made.name = f"a{made.source}"
    return made


def sizes(space: Space) -> list[int]:
    return [part.size for part in atoms_of(space)]


def test_unified_atoms_are_one_and_the_older_stays() -> None:
    old, new = atom(4), atom(4)
    unify(new, old, "add")
    assert resolve(new) is old and resolve(old) is old
    assert list(atoms_of(new)) == [old]


def test_unifying_other_sizes_is_refused() -> None:
    with pytest.raises(SpaceMismatch):
        unify(atom(4), atom(5), "add")
    with pytest.raises(SpaceMismatch):
        unify(Cat((atom(4), atom(1))), Prod((atom(2), 2)), "add")


def test_concatenations_are_cut_at_common_boundaries() -> None:
    left, right = Cat((atom(4), atom(4))), Cat((atom(3), atom(2), atom(3)))
    unify(left, right, "add")
    assert sizes(left) == sizes(right) == [3, 1, 1, 3]
    assert list(atoms_of(left)) == list(atoms_of(right))
    assert all(part.resizable for part in atoms_of(left))


def test_a_space_that_occurs_twice_is_cut_alike_at_both_places() -> None:
    twice = atom(4)
    left, right = Cat((twice, twice)), Cat((atom(3), atom(2), atom(3)))
    unify(left, right, "add")
    assert sizes(twice) == [1, 2, 1]
    assert list(atoms_of(left)) == list(atoms_of(right)) == [*atoms_of(twice)] * 2


def test_an_atom_takes_the_structure_of_what_it_meets() -> None:
    whole, left, right = atom(5), atom(2), atom(3)
    unify(whole, Cat((left, right)), "add")
    assert list(atoms_of(whole)) == [left, right]
    block, group = atom(6), Prod((atom(2), atom(3)))
    unify(block, group, "conv2d")
    resolved = resolve(block)
    assert isinstance(resolved, Prod) and resolved.parts == group.parts


def test_products_unify_factor_by_factor() -> None:
    a, b = Prod((atom(2), atom(3))), Prod((atom(2), atom(3)))
    unify(a, b, "add")
    assert list(atoms_of(a)) == list(atoms_of(b))


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (Prod((atom(2), atom(3))), Prod((atom(3), atom(2)))),
        lambda: (Prod((atom(2), atom(3))), Cat((atom(4), atom(2)))),
        lambda: (6, atom(6)),
    ],
)
def test_what_no_space_expresses_is_pinned_with_the_reason(pair: object) -> None:
    left, right = pair()  # type: ignore[operator]
    unify(left, right, "add 'sum3'")
    pinned = [*atoms_of(left), *atoms_of(right)]
    assert pinned and all(part.pin and "add 'sum3'" in part.pin for part in pinned)
    assert not any(part.resizable for part in pinned)


def test_a_space_cannot_become_part_of_itself() -> None:
    a, unit = atom(4), atom(1)
    unify(a, Prod((a, 1)), "reshape")
    assert resolve(a) is a and a.resizable
    b = atom(2)
    unify(Cat((b, unit)), Cat((unit, b)), "add")
    assert size_of(b) == 2


def test_pins_and_mixing_follow_links_and_cuts() -> None:
    a, b, c = atom(4), atom(4), atom(4)
    pin(a, "first")
    pin(a, "second")
    assert a.pin == "first"
    b.mixed = "norm"
    unify(a, b, "add")
    unify(c, b, "add")
    (only,) = set([*atoms_of(a), *atoms_of(b), *atoms_of(c)])
    assert only.pin == "first" and only.mixed == "norm"
    head, tail = atoms_of(split(only, 1))
    assert (head.size, tail.size) == (1, 3)
    assert head.pin == tail.pin == "first" and head.mixed == tail.mixed == "norm"


def test_factors_of_one_vanish_and_constants_merge() -> None:
    a = atom(3)
    assert resolve(Prod((a, 1, 1))) is a
    assert resolve(Prod((1, 1))) == 1
    nested = resolve(Prod((a, Prod((2, 3)))))
    assert isinstance(nested, Prod) and nested.parts == (a, 6)


def test_positions_of_untouched_axes_are_none() -> None:
    a, b = atom(3), atom(2)
    assert positions(Cat((a, b)), {}) is None
    assert positions(7, {a: np.array([0])}) is None
    assert positions(b, {a: np.array([0])}) is None


def test_positions_of_a_concatenation_shift_by_the_old_sizes() -> None:
    a, b = atom(3), atom(2)
    index = positions(Cat((a, b)), {a: np.array([2, -1]), b: np.array([1, 1])})
    assert index is not None and index.tolist() == [2, -1, 4, 4]


def test_positions_of_a_product_are_row_major_with_old_strides() -> None:
    a, b = atom(2), atom(3)
    index = positions(Prod((a, b, 2)), {b: np.array([2, -1]), a: np.array([1, 0, 1])})
    assert index is not None
    rows = [[10, 11, -1, -1], [4, 5, -1, -1], [10, 11, -1, -1]]
    assert index.tolist() == [value for row in rows for value in row]


def enumerated(space: Space | int, units: dict[Atom, list[int]], stamp: dict[Atom, int]) -> list[tuple[int, ...]]:
    """Every unit of a space as a tuple of (atom stamp, unit) digits: what positions must follow."""
    if isinstance(space, int):
        return [(n,) for n in range(space)]
    if isinstance(space, Atom):
        return [(stamp[space], n) for n in units[space]]
    if isinstance(space, Cat):
        return [
            (part_number, *unit)
            for part_number, part in enumerate(space.parts)
            for unit in enumerated(part, units, stamp)
        ]
    product: list[tuple[int, ...]] = [()]
    for factor in space.parts:
        product = [(*head, *unit) for head in product for unit in enumerated(factor, units, stamp)]
    return product


@pytest.mark.parametrize("seed", range(40))
def test_positions_agree_with_enumeration(seed: int) -> None:
    rng = random.Random(seed)
    atoms = [atom(rng.randint(1, 3)) for _ in range(3)]
    cat = Cat(tuple(rng.choice(atoms) for _ in range(2)))
    space = rng.choice([cat, Prod((rng.choice(atoms), 2, rng.choice(atoms))), Prod((cat, 3)), Prod((2, cat))])
    stamp = {a: n for n, a in enumerate(atoms)}
    take: dict[Atom, Index] = {
        a: np.array([rng.randrange(a.size) for _ in range(rng.randint(1, 4))]) for a in atoms if rng.random() < 0.7
    }
    old = enumerated(space, {a: list(range(a.size)) for a in atoms}, stamp)
    new = enumerated(space, {a: take[a].tolist() if a in take else list(range(a.size)) for a in atoms}, stamp)
    taken = positions(space, take)
    index = list(range(space.size)) if taken is None else taken.tolist()
    assert [old[n] for n in index] == new
    assert size_after(space, take) == len(new)
