"""The one executor of transfer plans, over any array namespace: numpy here, torch tensors in the backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from nasir.errors import PlanError
from nasir.ir.graph import Graph
from nasir.ir.types import Fill
from nasir.transfer.fill import CONSTANT, Array, Stream, fill, stream
from nasir.transfer.plan import TransferPlan
from nasir.transfer.source import Blob, Key, Source, Stack, Take


class Arrays(Protocol):
    """The few array operations a transfer needs; arrays stay on their device."""

    def gather(self, array: Any, axis: int, index: Array) -> Any: ...
    def scale(self, array: Any, axis: int, gain: Array) -> Any: ...
    def overwrite(self, array: Any, axis: int, where: Array, values: Any) -> Any:
        """Replace the positions `where` along `axis` by those of `values` (an array of the same shape)."""

    def add(self, array: Any, values: Any) -> Any: ...
    def concat(self, arrays: list[Any], axis: int) -> Any: ...
    def host(self, array: Array, dtype: str, like: Any | None) -> Any:
        """A numpy array as an array of this namespace, on the device and in the dtype of `like`."""

    def mean(self, array: Any) -> Any: ...
    def spread(self, array: Any) -> float: ...
    def filled(self, array: Any, shape: tuple[int, ...], value: Any) -> Any:
        """An array like `array` of `shape` filled with one value."""


class NumpyArrays:
    """`Arrays` over numpy."""

    def gather(self, array: Array, axis: int, index: Array) -> Array:
        return np.take(array, index, axis=axis)

    def scale(self, array: Array, axis: int, gain: Array) -> Array:
        shape = [1] * array.ndim
        shape[axis] = -1
        scaled: Array = array * gain.astype(array.dtype).reshape(shape)
        return scaled

    def overwrite(self, array: Array, axis: int, where: Array, values: Array) -> Array:
        chosen = (slice(None),) * axis + (where,)
        array[chosen] = values[chosen]
        return array

    def add(self, array: Array, values: Array) -> Array:
        return array + values

    def concat(self, arrays: list[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis=axis)

    def host(self, array: Array, dtype: str, like: Array | None) -> Array:
        return array.astype(like.dtype if like is not None else dtype, copy=False)

    def mean(self, array: Array) -> Any:
        return array.mean()

    def spread(self, array: Array) -> float:
        return float(array.std())

    def filled(self, array: Array, shape: tuple[int, ...], value: Any) -> Array:
        return np.full(shape, value, dtype=array.dtype)


def execute(
    plan: TransferPlan,
    new: Graph,
    fetch: Callable[[Key], Any],
    arrays: Arrays,
    *,
    seed: int,
    ordinal: int,
    blobs: Mapping[str, Array] | None = None,
) -> dict[Key, Any]:
    """The arrays of `new` that are not kept. `fetch` gives an array of the old network; none is modified."""
    results: dict[Key, Any] = {}
    for key, source in plan.sources.items():
        slot = new.infer.slots[key.node][key.slot]
        worker = _Worker(fetch, arrays, partial(stream, seed, ordinal, *key), blobs or {}, slot.dtype)
        results[key] = worker.make(source, slot.shape)
    return results


def execute_moment(source: Source, fetch: Callable[[Key], Any], arrays: Arrays, shape: tuple[int, ...]) -> Any:
    """One optimizer moment, by the source that `moment_source` derived."""
    worker = _Worker(fetch, arrays, partial(stream, 0, 0, 0, "moment"), {}, "float32")
    return worker.make(source, shape)


class _Worker:
    """Builds one array from its source."""

    def __init__(
        self,
        fetch: Callable[[Key], Any],
        arrays: Arrays,
        open_stream: Callable[[], Stream],
        blobs: Mapping[str, Array],
        dtype: str,
    ) -> None:
        self.fetch = fetch
        self.arrays = arrays
        self.open_stream = open_stream
        self.blobs = blobs
        self.dtype = dtype

    @cached_property
    def rng(self) -> Stream:
        """The array's random stream, opened when something random is drawn: most fills are constants."""
        return self.open_stream()

    def filled(self, rule: Fill, shape: tuple[int, ...]) -> Array:
        return fill(rule, shape, None if rule.rule in CONSTANT else self.rng)

    def make(self, source: Source, shape: tuple[int, ...]) -> Any:
        if isinstance(source, Fill):
            return self.arrays.host(self.filled(source, shape), self.dtype, None)
        if isinstance(source, Blob):
            if source.digest not in self.blobs:
                raise PlanError(f"array {source.digest[:12]} is not at hand: pass it in `blobs`")
            return self.arrays.host(self.blobs[source.digest], self.dtype, None)
        if isinstance(source, Stack):
            return self.arrays.concat([self.make(part, shape) for part in source.parts], source.axis)
        return self._take(source)

    def _take(self, source: Take) -> Any:
        old = self.fetch(source.key)
        new = old
        for axis, take in enumerate(source.axes):
            if take is None:
                continue
            new = self.arrays.gather(new, axis, np.maximum(take.index, 0))
            if take.gain is not None:
                new = self.arrays.scale(new, axis, take.gain)
        if new is old:  # a whole copy must not share memory with its source
            new = self.arrays.add(old, self.arrays.filled(old, (), 0))
        if source.noise:
            new = self._perturb(source, old, new)
        # the last axis first, so that the first axis decides where several have holes
        for axis, take in reversed(list(enumerate(source.axes))):
            if take is not None and bool((take.index < 0).any()):
                new = self._fill_holes(take.fill, old, new, axis, take.index < 0)
        return new

    def _fill_holes(self, rule: Fill | None, old: Any, new: Any, axis: int, where: Array) -> Any:
        shape = tuple(new.shape)
        if rule is None:
            raise PlanError("a hole without an initializer; verify() the plan first")
        if rule.rule == "mean":
            values = self.arrays.filled(new, shape, self.arrays.mean(old))
        else:
            values = self.arrays.host(self.filled(rule, shape), self.dtype, new)
        return self.arrays.overwrite(new, axis, np.flatnonzero(where), values)

    def _perturb(self, source: Take, old: Any, new: Any) -> Any:
        """Noise on replicated entries only: equal replicas would never separate under SGD."""
        shape = tuple(new.shape)
        mask = np.zeros(shape, dtype=np.float32)
        for axis, take in enumerate(source.axes):
            if take is None:
                continue
            counts = np.bincount(take.index[take.index >= 0], minlength=1)
            replica = (take.index >= 0) & (counts[np.maximum(take.index, 0)] > 1)
            view = [1] * len(shape)
            view[axis] = -1
            mask = np.maximum(mask, replica.reshape(view).astype(np.float32))
        values = self.rng.standard_normal(shape, dtype=np.float32) * mask
        values *= np.float32(source.noise * self.arrays.spread(old))
        return self.arrays.add(new, self.arrays.host(values, self.dtype, new))
