"""The one executor of transfer plans, over any array namespace: numpy here, torch tensors in the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator

from nasir.errors import PlanError
from nasir.ir.graph import Graph
from nasir.ir.source import AxisTake, Blob, Key, Source, Stack, Sum, Take, keys_of
from nasir.ir.types import Fill
from nasir.transfer.fill import CONSTANT, PIECE, Array, fill, random_stream
from nasir.transfer.plan import TransferPlan


class Arrays(Protocol):
    """The few array operations a transfer needs; arrays stay on their device."""

    def take(self, array: Any, index: Sequence[Array | None], out: Any | None) -> Any:
        """The positions `index[axis]` along every axis (None: all of them) as one new array, or into `out`.

        The memory layout is that of `array`; nothing else of the result's size is allocated.
        """

    def scale(self, array: Any, axis: int, gain: Array) -> None:
        """Multiply in place along `axis`."""

    def overwrite(self, array: Any, axis: int, where: Array, values: Any) -> None:
        """Replace the positions `where` along `axis` by `values`: one number, or an array of their shape."""

    def add(self, array: Any, start: int, values: Array) -> None:
        """Add numbers to the rows from `start` on, in place."""

    def empty(self, like: Any, shape: tuple[int, ...]) -> Any: ...
    def part(self, array: Any, axis: int, start: int, size: int) -> Any:
        """A view of positions start <= i < start + size along `axis`."""

    def assign(self, array: Any, values: Any) -> None: ...
    def host(self, array: Array, dtype: str, like: Any | None) -> Any:
        """A numpy array as an array of this namespace, on the device and in the dtype of `like`."""

    def mean(self, array: Any) -> Any: ...
    def total(self, arrays: Sequence[Any], gain: float, out: Any | None) -> Any:
        """`gain` times the elementwise sum of several arrays of one shape, as a new array or in `out`."""

    def spread(self, array: Any) -> float: ...


class NumpyArrays:
    """`Arrays` over numpy."""

    def take(self, array: Array, index: Sequence[Array | None], out: Array | None) -> Array:
        ranges = [np.arange(size) if i is None else i for i, size in zip(index, array.shape, strict=True)]
        new: Array = array[np.ix_(*ranges)] if ranges else array.copy()
        if out is None:
            return new
        out[...] = new
        return out

    def scale(self, array: Array, axis: int, gain: Array) -> None:
        shape = [1] * array.ndim
        shape[axis] = -1
        array *= gain.astype(array.dtype).reshape(shape)

    def overwrite(self, array: Array, axis: int, where: Array, values: Array) -> None:
        array[(slice(None),) * axis + (where,)] = values

    def add(self, array: Array, start: int, values: Array) -> None:
        array[start : start + len(values)] += values

    def empty(self, like: Array, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, like.dtype)

    def part(self, array: Array, axis: int, start: int, size: int) -> Array:
        return array[(slice(None),) * axis + (slice(start, start + size),)]

    def assign(self, array: Array, values: Array) -> None:
        array[...] = values

    def host(self, array: Array, dtype: str, like: Array | None) -> Array:
        if like is not None:
            return array.astype(like.dtype, copy=False)
        # a literal array may be more exact than float32
        return array if array.dtype == np.float64 and dtype == "float32" else array.astype(dtype, copy=False)

    def mean(self, array: Array) -> Any:
        return array.mean()

    def total(self, arrays: Sequence[Array], gain: float, out: Array | None) -> Array:
        total = np.asarray(np.sum(arrays, axis=0, dtype=np.float64) * gain).astype(arrays[0].dtype)
        if out is None:
            return total
        out[...] = total
        return out

    def spread(self, array: Array) -> float:
        return float(array.std())


def execute(
    plan: TransferPlan,
    new: Graph,
    fetch: Callable[[Key], Any],
    arrays: Arrays,
    *,
    seed: int,
    ordinal: int,
    blobs: Mapping[str, Array] | None = None,
    averaged: bool = False,
) -> dict[Key, Any]:
    """The arrays of `new` that are not kept. `fetch` gives an array of the old network; none is modified.

    `averaged`: those are moving averages of the weights, and so are the results.
    """
    results: dict[Key, Any] = {}
    indices = _Indices()
    for key, source in plan.sources.items():
        slot = new.infer.slots[key.node][key.slot]
        stream = partial(random_stream, seed, ordinal, *key)
        worker = _Worker(indices, fetch, arrays, stream, blobs or {}, slot.dtype, averaged)
        results[key] = worker.make(source, slot.shape)
    return results


def execute_moment(source: Source, fetch: Callable[[Key], Any], arrays: Arrays, shape: tuple[int, ...]) -> Any:
    """One optimizer moment, by the source that `moment_source` derived."""
    worker = _Worker(_Indices(), fetch, arrays, partial(random_stream, 0, 0, 0, "moment"), {}, "float32")
    return worker.make(source, shape)


class _Indices:
    """Indices without their holes, computed once: all arrays along a space share one."""

    def __init__(self) -> None:
        self._known: dict[
            int, tuple[Array, Array]
        ] = {}  # by id; the index itself is kept, so that no other gets its id

    def clean(self, index: Array) -> Array:
        """The index with 0 for holes; the very same array where it has none."""
        known = self._known.get(id(index))
        if known is None:
            holes = bool((index < 0).any())
            known = self._known[id(index)] = (index, np.maximum(index, 0) if holes else index)
        return known[1]


class _Worker:
    """Builds one array from its source."""

    def __init__(
        self,
        indices: _Indices,
        fetch: Callable[[Key], Any],
        arrays: Arrays,
        open_stream: Callable[[], Generator],
        blobs: Mapping[str, Array],
        dtype: str,
        averaged: bool = False,
    ) -> None:
        self.indices = indices
        self.fetch = fetch
        self.arrays = arrays
        self.open_stream = open_stream
        self.blobs = blobs
        self.dtype = dtype
        self.averaged = averaged

    @cached_property
    def rng(self) -> Generator:
        """The array's random stream, opened when something random is drawn: most fills are constants."""
        return self.open_stream()

    def filled(self, rule: Fill, shape: tuple[int, ...], whole: tuple[int, ...] | None = None) -> Array:
        return fill(rule, shape, None if rule.rule in CONSTANT else self.rng, whole)

    def make(self, source: Source, shape: tuple[int, ...]) -> Any:
        """The array of a source; `shape` is that of the weight."""
        if isinstance(source, Fill):
            return self.arrays.host(self.filled(source, shape), self.dtype, None)
        if isinstance(source, Blob):
            return self.arrays.host(self._blob(source).copy(), self.dtype, None)  # a weight will be trained in place
        if isinstance(source, Stack):
            first = next((self.fetch(key) for key in keys_of(source)), None)
            if first is None:
                first = self.arrays.host(np.zeros(0, dtype=np.float32), self.dtype, None)
            whole = self.arrays.empty(first, self._shape(source, shape))
            self._stack(source, whole)
            return whole
        if isinstance(source, Sum):
            return self._sum(source, shape, None)
        return self._take(source, None)

    def _blob(self, source: Blob) -> Array:
        digest = source.averaged if self.averaged and source.averaged is not None else source.digest
        if digest not in self.blobs:
            raise PlanError(f"array {digest[:12]} is not at hand: pass it in `blobs`")
        return self.blobs[digest]

    def _sum(self, source: Sum, shape: tuple[int, ...], out: Any | None) -> Any:
        return self.arrays.total([self.make(part, shape) for part in source.parts], source.gain, out)

    def _shape(self, source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a source that is part of a weight of the shape `shape`."""
        if isinstance(source, Blob):
            return source.shape
        if isinstance(source, Stack):
            parts = [self._shape(part, shape) for part in source.parts]
            joined = list(parts[0])
            joined[source.axis] = sum(part[source.axis] for part in parts)
            return tuple(joined)
        if isinstance(source, Sum):
            return self._shape(source.parts[0], shape)
        if isinstance(source, Take):
            old = self.fetch(source.key).shape
            return tuple([n if t is None else len(t.index) for n, t in zip(old, source.axes, strict=True)])
        return shape

    def _stack(self, source: Stack, out: Any) -> None:
        """Write every part straight into its place, so that no part is allocated in addition to the whole."""
        start = 0
        for part in source.parts:
            size = self._shape(part, tuple(out.shape))[source.axis]
            place = self.arrays.part(out, source.axis, start, size)
            start += size
            if isinstance(part, Stack):
                self._stack(part, place)
            elif isinstance(part, Take):
                self._take(part, place)
            elif isinstance(part, Sum):
                self._sum(part, self._shape(part, tuple(out.shape)), place)
            elif isinstance(part, Blob):
                self.arrays.assign(place, self.arrays.host(self._blob(part), self.dtype, out))
            else:
                raise PlanError("a part of a Stack needs a shape of its own; verify() the plan first")

    def _take(self, source: Take, out: Any | None) -> Any:
        old = self.fetch(source.key)
        clean = [None if t is None else self.indices.clean(t.index) for t in source.axes]
        new = self.arrays.take(old, clean, out)
        for axis, take in enumerate(source.axes):
            gain = None if take is None else self._gain(take)
            if gain is not None:
                self.arrays.scale(new, axis, gain)
        if source.noise:
            self._perturb(source, old, new)
        # the last axis first, so that the first axis decides where several have holes
        for axis, take in reversed(list(enumerate(source.axes))):
            if take is not None and clean[axis] is not take.index:
                self._fill_holes(take, old, new, axis)
        if source.shift is not None:
            self.arrays.add(new, 0, self._blob(source.shift))
        return new

    def _gain(self, take: AxisTake) -> Array | None:
        return take.averaged if self.averaged and take.averaged is not None else take.gain

    def _fill_holes(self, take: AxisTake, old: Any, new: Any, axis: int) -> None:
        rule, holes = take.fill, np.flatnonzero(take.index < 0)
        if rule is None:
            raise PlanError("a hole without an initializer; verify() the plan first")
        if rule.rule == "mean":
            self.arrays.overwrite(new, axis, holes, self.arrays.mean(old))
        elif rule.rule == "zeros":
            self.arrays.overwrite(new, axis, holes, 0.0)
        else:
            whole = tuple(new.shape)
            shape = (*whole[:axis], len(holes), *whole[axis + 1 :])
            if rule.rule == "dirac":  # its values lie where the holes lie
                values = np.take(self.filled(rule, whole), holes, axis)
            else:
                values = self.filled(rule, shape, whole)
            if take.twin is not None:
                values = np.take(values, np.searchsorted(holes, take.twin.of[holes]), axis)
                values *= take.twin.sign[holes].astype(values.dtype).reshape([-1] + [1] * (values.ndim - axis - 1))
            self.arrays.overwrite(new, axis, holes, self.arrays.host(values, self.dtype, new))

    def _perturb(self, source: Take, old: Any, new: Any) -> None:
        """Noise on replicated entries only: equal replicas would never separate under SGD."""
        shape = tuple(new.shape)
        masks = [np.zeros((1,) * len(shape), dtype=bool)] * len(shape)
        for axis, take in enumerate(source.axes):
            if take is None:
                continue
            counts = np.bincount(take.index[take.index >= 0], minlength=1)
            replica = (take.index >= 0) & (counts[np.maximum(take.index, 0)] > 1)
            masks[axis] = replica.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        scale = np.float32(source.noise * self.arrays.spread(old))
        rows = max(1, PIECE // max(1, prod(shape[1:])))
        for start in range(0, shape[0], rows):  # in pieces: the stream gives the same numbers, without a second array
            size = min(rows, shape[0] - start)
            values = self.rng.standard_normal((size, *shape[1:]), dtype=np.float32)
            first = masks[0] if len(masks[0]) == 1 else masks[0][start : start + size]
            mask = first
            for other in masks[1:]:
                mask = mask | other
            values *= mask * scale
            self.arrays.add(new, start, values)
