"""Sequences that only grow: every version is a tuple in all that it does, and folds are those from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasir.growing import GrowingMap, GrowingSequence, fold


@dataclass(frozen=True)
class Digits:
    """Order matters to it."""

    value: int = 0

    def after(self, item: int) -> Self:
        return type(self)(self.value * 3 + item)


Versions = list[tuple[GrowingSequence[int], tuple[int, ...]]]


@st.composite
def versions(draw: st.DrawFn) -> Versions:
    """A tree of versions, each with the tuple it must equal; some are folded while the tree grows."""
    start = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    tree: Versions = [(GrowingSequence(start), start)]
    for item in draw(st.lists(st.integers(0, 9), max_size=30)):
        place = draw(st.sampled_from([-1, -1, -1, -2, 0]) | st.integers(0, len(tree) - 1))
        sequence, plain = tree[max(place, -len(tree))]
        if draw(st.integers(0, 3)) == 0:
            cut = draw(st.integers(0, len(plain)))
            sequence, plain = sequence.upto(cut), plain[:cut]
        if draw(st.booleans()):
            assert fold(sequence, Digits()) == reduce(Digits.after, plain, Digits())
        tree.append((sequence.grown(item), (*plain, item)))
    return tree


@given(versions())
def test_a_version_is_a_tuple_whatever_grew_from_it(tree: Versions) -> None:
    for sequence, plain in tree:
        assert sequence == plain and plain == sequence and hash(sequence) == hash(plain)
        assert len(sequence) == len(plain) and list(reversed(sequence)) == list(reversed(plain))
        for index in range(-len(plain), len(plain)):
            assert sequence[index] == plain[index]
        for index in (len(plain), -len(plain) - 1):
            with pytest.raises(IndexError, match=f"no item {index}"):
                sequence[index]


@given(versions(), st.data())
def test_slices_are_those_of_a_tuple(tree: Versions, data: st.DataObject) -> None:
    sequence, plain = data.draw(st.sampled_from(tree))
    chosen = data.draw(st.slices(len(plain) + 2))
    assert sequence[chosen] == plain[chosen]
    assert isinstance(sequence[:3], GrowingSequence)


@given(versions(), st.data())
def test_folds_are_those_from_scratch_in_any_order(tree: Versions, data: st.DataObject) -> None:
    for sequence, plain in data.draw(st.permutations(tree)):
        assert fold(sequence, Digits()) == fold(plain, Digits()) == reduce(Digits.after, plain, Digits())
        assert fold(sequence, Digits(7)) == fold(plain, Digits(7))


def test_a_fold_takes_each_item_once() -> None:
    seen = []

    @dataclass(frozen=True)
    class Watching:
        def after(self, item: int) -> Self:
            seen.append(item)
            return self

    sequence: GrowingSequence[int] = GrowingSequence()
    for item in range(50):
        sequence = sequence.grown(item)
        fold(sequence, Watching())
        fold(sequence, Watching())
    assert seen == list(range(50))
    branch = sequence.grown(50), sequence.grown(51)
    fold(branch[1], Watching())
    assert seen[50:] == [51]


def test_what_a_fold_refuses_is_refused_at_every_call_and_earlier_versions_fold_as_before() -> None:
    @dataclass(frozen=True)
    class Picky:
        count: int = 0

        def after(self, item: Any) -> Self:
            if item is None:
                raise ValueError("none")
            return type(self)(self.count + 1)

    sequence = GrowingSequence(["a", "b"])
    assert fold(sequence, Picky()).count == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="none"):
            fold(sequence.grown(None), Picky())
    assert fold(sequence, Picky()).count == 2


def test_a_long_chain_of_branches_is_folded_and_read() -> None:
    sequence: GrowingSequence[int] = GrowingSequence()
    for item in range(5000):
        sequence.grown(-1)
        sequence = sequence.grown(item)
    assert fold(sequence, Digits(1)) == fold(tuple(sequence), Digits(1))
    assert sequence == tuple(range(5000)) and sequence[0] == 0


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_a_growing_map_keeps_first_values_and_old_versions(steps: list[tuple[int, int, int]]) -> None:
    maps: list[tuple[GrowingMap[int, int], dict[int, int]]] = [(GrowingMap(), {})]
    for key, value, back in steps:
        mapping, plain = maps[max(-1 - back, -len(maps))]
        maps.append((mapping.grown(key, value), {key: value} | plain if key not in plain else plain))
        if key not in plain:
            maps[-1] = maps[-1][0], {**plain, key: value}
    for mapping, plain in maps:
        assert mapping == plain and list(mapping) == list(plain) and len(mapping) == len(plain)
        assert all((key in mapping) is (key in plain) for key in range(9))
