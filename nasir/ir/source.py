"""Where a weight array of the new graph comes from. Plain data: journaled, replayed, verified without tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.errors import PlanError
from nasir.ir.space import Index
from nasir.ir.types import Fill

Gain: TypeAlias = NDArray[np.float64]


class Key(NamedTuple):
    """A weight array: node id and slot name."""

    node: int
    slot: str


class Twin(NamedTuple):
    """For each new position the one whose filled value it takes (mostly itself), and by which factor; holes only."""

    of: Index
    sign: Gain


@dataclass(frozen=True, slots=True)
class AxisTake:
    """New positions along one axis: `index` into the old ones (-1 a hole), `gain` per position, `fill` for holes.

    `twin` ties holes together: equal or opposite values (see `Twin`). `averaged`: the gain of moving averages of the
    weight, where it is another one.
    """

    index: Index
    gain: Gain | None = None
    fill: Fill | None = None
    twin: Twin | None = None
    averaged: Gain | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """A gather with holes from the array `key` of the old graph; None along an axis takes all of it.

    `noise`: standard deviation, relative to the array's, of a perturbation on replicated entries. `shift`: a literal
    array added to the result; optimizer state follows the old array all the same.
    Holes on several axes at once are filled by the rule of the first of them.
    """

    key: Key
    axes: tuple[AxisTake | None, ...]
    noise: float = 0.0
    shift: Blob | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Several sources joined along an axis (merging branches)."""

    axis: int
    parts: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """`gain` times the elementwise sum of several sources of one shape (joining biases whose outputs were averaged)."""

    parts: tuple[Source, ...]
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Blob:
    """A literal array computed from evidence (folding, SVD), stored by the sha256 of its bytes.

    `averaged`: digest of the array of the same shape that the moving average of the weights gives; None: an array that
    no weight went into, with which the average starts.
    """

    digest: str
    shape: tuple[int, ...]
    averaged: str | None = None


Source: TypeAlias = Take | Stack | Sum | Fill | Blob


def digest_of(array: NDArray[Any]) -> str:
    """Sha256 of an array's type, shape and bytes: the name of a `Blob`."""
    head = f"{array.dtype.str}{list(array.shape)}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def keys_of(source: Source) -> Iterator[Key]:
    """The old arrays a source reads, in order, repeats included."""
    if isinstance(source, Take):
        yield source.key
    elif isinstance(source, Stack | Sum):
        for part in source.parts:
            yield from keys_of(part)


def _blobs_of(source: Source) -> Iterator[Blob]:
    if isinstance(source, Blob):
        yield source
    elif isinstance(source, Take) and source.shift is not None:
        yield source.shift
    elif isinstance(source, Stack | Sum):
        for part in source.parts:
            yield from _blobs_of(part)


def digests_of(source: Source) -> Iterator[str]:
    """The literal arrays a source reads, those for averaged weights among them."""
    for blob in _blobs_of(source):
        yield blob.digest
        if blob.averaged is not None:
            yield blob.averaged


def averages(source: Source) -> bool:
    """Whether a source gives averaged weights out of averaged ones; otherwise an average starts as the weight does."""
    return any(keys_of(source)) or any(blob.averaged is not None for blob in _blobs_of(source))


def to_json(source: Source) -> dict[str, Any]:
    """A source as JSON data; index vectors as lists, a whole axis as null."""
    if isinstance(source, Fill):
        return {"fill": source.rule, "args": dict(source.args)}
    if isinstance(source, Blob):
        averaged = {} if source.averaged is None else {"averaged": source.averaged}
        return {"blob": source.digest, "shape": list(source.shape), **averaged}
    if isinstance(source, Sum):
        return {"sum": [to_json(part) for part in source.parts], "gain": source.gain}
    if isinstance(source, Stack):
        return {"stack": [to_json(part) for part in source.parts], "axis": source.axis}
    axes = [
        None
        if axis is None
        else {
            "index": axis.index.tolist(),
            "gain": None if axis.gain is None else axis.gain.tolist(),
            "fill": None if axis.fill is None else to_json(axis.fill),
            **({} if axis.twin is None else {"twin": [axis.twin.of.tolist(), axis.twin.sign.tolist()]}),
            **({} if axis.averaged is None else {"averaged": axis.averaged.tolist()}),
        }
        for axis in source.axes
    ]
    shift = {} if source.shift is None else {"shift": to_json(source.shift)}
    return {"take": list(source.key), "axes": axes, "noise": source.noise, **shift}


def from_json(data: Mapping[str, Any]) -> Source:
    """Inverse of `to_json`; raises PlanError."""
    try:
        if "fill" in data:
            return Fill(data["fill"], data["args"])
        if "blob" in data:
            return _blob(data)
        if "sum" in data:
            return Sum(tuple([from_json(part) for part in data["sum"]]), data["gain"])
        if "stack" in data:
            return Stack(data["axis"], tuple([from_json(part) for part in data["stack"]]))
        shift = _blob(data["shift"]) if "shift" in data else None
        return Take(Key(*data["take"]), tuple([_axis(axis) for axis in data["axes"]]), data["noise"], shift)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"malformed source {data!r}: {type(error).__name__}: {error}") from None


def _blob(data: Mapping[str, Any]) -> Blob:
    return Blob(data["blob"], tuple(data["shape"]), data.get("averaged"))


def _axis(data: Mapping[str, Any] | None) -> AxisTake | None:
    if data is None:
        return None
    gain = None if data["gain"] is None else np.asarray(data["gain"], dtype=np.float64)
    fill = None if data["fill"] is None else Fill(data["fill"]["fill"], data["fill"]["args"])
    twin = None
    if "twin" in data:
        of, sign = data["twin"]
        twin = Twin(np.asarray(of, dtype=np.int64), np.asarray(sign, dtype=np.float64))
    averaged = np.asarray(data["averaged"], dtype=np.float64) if "averaged" in data else None
    return AxisTake(np.asarray(data["index"], dtype=np.int64), gain, fill, twin, averaged)
