"""Sequences and mappings that only grow, and incremental folds over them.

Each version is immutable. The next one shares all it has in common with the version before and costs the same however
long that is; several versions may follow one, as when a run goes back to a checkpoint. A fold over a version is
remembered, so that folding the next one takes the new items only; its value is that of a fold from scratch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeVar, overload

__all__ = ["GrowingMap", "GrowingSequence", "State", "fold"]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class State(Protocol):
    """What a fold computes: an immutable value, hashable at the start, that says what follows it.

    `after` is a function of the state and the item alone.
    """

    def after(self, item: Any, /) -> Self: ...


S = TypeVar("S", bound=State)


def fold(items: Iterable[Any], start: S) -> S:
    """`start.after(first).after(second)...`; of a `GrowingSequence` only what was not yet folded from such a start.

    An exception of `after` passes through, again at every call.
    """
    if isinstance(items, GrowingSequence):
        return items._fold(start)
    state = start
    for item in items:
        state = state.after(item)
    return state


class _Part(Generic[T]):
    """What versions that follow one another share: their items from `first` on, behind the version `before`."""

    __slots__ = ("before", "first", "folds", "items")

    def __init__(self, before: GrowingSequence[T] | None, items: list[T]) -> None:
        self.before = before
        self.first = 0 if before is None else len(before)
        self.items = items
        self.folds: dict[Any, tuple[int, Any]] = {}  # start -> (items folded of the whole sequence, state)


class GrowingSequence(Sequence[T]):
    """One version of a sequence that grows at its end. Equal to a tuple of the same items.

    A slice from the beginning is a version too; other slices are tuples.
    """

    __slots__ = ("_length", "_part")

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._part: _Part[T] = _Part(None, list(items))
        self._length = len(self._part.items)

    @classmethod
    def _version(cls, part: _Part[T], length: int) -> Self:
        made = cls.__new__(cls)
        made._part, made._length = part, length
        return made

    def grown(self, item: T) -> Self:
        """The version with one more item."""
        part = self._part
        if part.first + len(part.items) != self._length:  # another version went on from here
            part = _Part(self, [])
        part.items.append(item)
        return self._version(part, self._length + 1)

    def upto(self, count: int) -> Self:
        """The version of the first `count` items, 0 to all."""
        version: GrowingSequence[T] = self
        while version._part.before is not None and version._part.first >= count:
            version = version._part.before
        return self._version(version._part, count)

    def _fold(self, start: S) -> S:
        later: list[GrowingSequence[T]] = []
        version: GrowingSequence[T] = self
        done, state = 0, start
        while True:
            known = version._part.folds.get(start)
            if known is not None and known[0] <= version._length:
                done, state = known
                break
            if version._part.before is None:
                break
            later.append(version)
            version = version._part.before
        for known_to in (version, *reversed(later)):
            part = known_to._part
            for item in part.items[done - part.first : known_to._length - part.first]:
                state = state.after(item)
            done = known_to._length
            if start not in part.folds or part.folds[start][0] < done:
                part.folds[start] = done, state
        return state

    def _between(self, start: int, stop: int) -> list[T]:
        pieces: list[list[T]] = []
        version: GrowingSequence[T] | None = self
        while version is not None and start < stop:
            part = version._part
            if part.first < stop:
                pieces.append(part.items[max(start - part.first, 0) : stop - part.first])
                stop = part.first
            version = part.before
        return [item for piece in reversed(pieces) for item in piece]

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._length)
            if step != 1:
                return tuple(self)[index]
            return self.upto(max(stop, 0)) if start == 0 else tuple(self._between(start, stop))
        place = index + self._length if index < 0 else index
        if not 0 <= place < self._length:
            raise IndexError(f"no item {index} among {self._length}")
        part = self._part
        while place < part.first:
            assert part.before is not None  # `first` is 0 without
            part = part.before._part
        return part.items[place - part.first]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return iter(self._between(0, self._length))

    def __reversed__(self) -> Iterator[T]:
        version: GrowingSequence[T] | None = self
        while version is not None:
            part = version._part
            for place in range(version._length - part.first - 1, -1, -1):
                yield part.items[place]
            version = part.before

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GrowingSequence | tuple):
            return NotImplemented
        return len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"GrowingSequence({list(self)!r})"


class GrowingMap(Mapping[K, V]):
    """One version of a mapping whose keys are each set once, in order."""

    __slots__ = ("_length", "_shared")

    def __init__(self) -> None:
        self._shared: dict[K, tuple[int, V]] = {}  # by key: how many were there before it, and its value
        self._length = 0

    def grown(self, key: K, value: V) -> Self:
        """The version that has `key` too; a key that is there keeps its value."""
        if key in self:
            return self
        made = type(self).__new__(type(self))
        shared = self._shared
        if len(shared) != self._length:  # another version went on from here
            shared = dict(islice(shared.items(), self._length))
        shared[key] = self._length, value
        made._shared, made._length = shared, self._length + 1
        return made

    def __getitem__(self, key: K) -> V:
        before, value = self._shared[key]
        if before >= self._length:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[K]:
        return islice(self._shared, self._length)

    def __len__(self) -> int:
        return self._length

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        return f"GrowingMap({dict(self)!r})"
