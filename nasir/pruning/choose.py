"""How many units each space loses: by a fraction, by a threshold, or until a real cost is met."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.analysis.sizing import Sizing
from nasir.errors import Decline, NasirError
from nasir.ir.graph import Graph
from nasir.pruning.score import Scores
from nasir.pruning.spaces import Resizable
from nasir.pruning.target import amount
from nasir.rewriting.evidence import Evidence

Counts: TypeAlias = NDArray[np.int64]
Fits: TypeAlias = Callable[[Counts], bool]
Ranking: TypeAlias = Literal["local", "global"]


@dataclass(frozen=True)
class Queue:
    """All units of several spaces in the order in which they go; the first p of them gone is one candidate."""

    spaces: Sequence[Resizable]
    owner: NDArray[np.int64]  # number of the space of each unit, in the order of going
    keys: NDArray[np.float64]  # ascending
    sizes: Counts

    @staticmethod
    def of(spaces: Sequence[Resizable], scores: Sequence[Scores], ranking: Ranking) -> Queue:
        """`global`: lowest score first, whatever its space; `local`: every space loses the same fraction."""
        sizes = np.array([space.atom.size for space in spaces], dtype=np.int64)
        if ranking == "global":
            keys = np.concatenate([np.sort(values) for values in scores])
        else:
            keys = np.concatenate([np.arange(1, size + 1) / size for size in sizes.tolist()])
        owner = np.repeat(np.arange(len(sizes)), sizes)
        order = np.argsort(keys, kind="stable")
        return Queue(spaces, owner[order], keys[order], sizes)

    def kept(self, gone: int) -> Counts:
        """Units that each space keeps once the first `gone` left, floors and steps respected."""
        return self.rounded(self.sizes - np.bincount(self.owner[:gone], minlength=len(self.sizes)))

    def rounded(self, kept: Counts) -> Counts:
        """The smallest allowed sizes of at least `kept`."""
        pairs = zip(self.spaces, kept.tolist(), strict=True)
        return np.array([space.allowed(size) for space, size in pairs], dtype=np.int64)


def by_fraction(queue: Queue, fraction: float, ranking: Ranking) -> Counts:
    """Sizes after at most `fraction` of the units went: of each space (local), or of all together (global)."""
    if ranking == "local":
        return queue.rounded(queue.sizes - np.floor(fraction * queue.sizes + 1e-9).astype(np.int64))
    total = int(queue.sizes.sum())
    most = int(fraction * total + 1e-9)
    gone = last(lambda p: total - int(queue.kept(p).sum()) <= most, total)
    return queue.kept(gone)


def by_threshold(queue: Queue, scores: Sequence[Scores], threshold: float) -> Counts:
    """Sizes after every unit went whose score is `threshold` or lower."""
    return queue.rounded(np.array([int((values > threshold).sum()) for values in scores], dtype=np.int64))


def last(good: Callable[[int], bool], most: int) -> int:
    """The largest p <= most that is `good`, for a property that holds up to some p; 0 is taken to be good."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def until(queue: Queue, fits: Fits) -> Counts | None:
    """The sizes after the fewest units went for which `fits` holds; None when it does not hold for any."""
    total = len(queue.owner)
    if not fits(queue.kept(total)):
        return None
    return queue.kept(last(lambda p: not fits(queue.kept(p)), total - 1) + 1)


def filled(queue: Queue, kept: Counts, fits: Callable[[int, int], bool], accept: Callable[[int, int], None]) -> Counts:
    """Give units back, the best first, one step of one space at a time, as long as it still `fits`.

    `fits(n, size)` asks about space n at another size, `accept` makes it so. Afterwards no single step fits any more,
    as costs only rise with sizes.
    """
    kept = kept.copy()
    # what a space lost last has the highest key of all it lost
    position = [np.flatnonzero(queue.owner == number) for number in range(len(kept))]

    def entry(number: int) -> tuple[float, int]:
        return -float(queue.keys[position[number][queue.sizes[number] - kept[number] - 1]]), number

    heap = [entry(number) for number in range(len(kept)) if kept[number] < queue.sizes[number]]
    heapq.heapify(heap)
    while heap:
        _, number = heapq.heappop(heap)
        size = queue.spaces[number].above(int(kept[number]))
        if fits(number, size):
            accept(number, size)
            kept[number] = size
            if size < queue.sizes[number]:
                heapq.heappush(heap, entry(number))
    return kept


def by_cost(queue: Queue, sizing: Sizing, resource: Literal["params", "macs"], value: float | str) -> Counts:
    """The largest network in the order of `queue` that costs at most the target; raises Decline where none does."""
    atoms = [space.atom for space in queue.spaces]
    now = getattr(sizing.cost({}), resource)
    target = amount(value, now)
    if now <= target:
        raise Decline(f"the network has {now:,} {resource}, within the target of {target:,.0f}")

    def cost(kept: Counts) -> int:
        return getattr(sizing.cost(dict(zip(atoms, kept.tolist(), strict=True))), resource)  # type: ignore[no-any-return]

    kept = until(queue, lambda sizes: cost(sizes) <= target)
    if kept is None:
        least = cost(queue.kept(len(queue.owner)))
        raise Decline(f"with floors respected it still costs {least:,} {resource}, more than {target:,.0f}")
    sizing.move(dict(zip(atoms, kept.tolist(), strict=True)))

    def fits(number: int, size: int) -> bool:
        return getattr(sizing.with_size(atoms[number], size), resource) <= target  # type: ignore[no-any-return]

    return filled(queue, kept, fits, lambda number, size: sizing.move({atoms[number]: size}))


def by_latency(graph: Graph, queue: Queue, value: float | str, seen: Evidence) -> Counts:
    """The sizes of the first candidate, by bisection, that takes at most the target; each one is built and timed."""
    if seen.latency is None:
        raise NasirError("a latency target needs a clock: give the pass `model.observe(change.needs, images)`")
    clock = seen.latency
    now = clock(graph)
    target = amount(value, now)
    if now <= target:
        raise Decline(f"one batch takes {now:.3g} s, within the target of {target:.3g} s")

    def fits(kept: Counts) -> bool:
        draft = graph.draft()
        for space, size in zip(queue.spaces, kept.tolist(), strict=True):
            draft.select(space.atom, np.arange(size))
        return clock(draft.commit()) <= target

    counts = until(queue, fits)
    if counts is None:
        raise Decline(f"with floors respected one batch still takes more than {target:.3g} s")
    return counts
