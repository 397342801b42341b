"""What flows along an edge (`ValueType`) and what a node owns (`Slot`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

from nasir.ir.space import Axis, Prod, size_of

JSON: TypeAlias = Any  # null, bool, int, float, str, list, dict: the borders (spec, journal) check it
Kind: TypeAlias = Literal["param", "buffer"]
Role: TypeAlias = Literal["write", "read", "along", "fixed"]
Mode: TypeAlias = Literal["eval", "train"]
DType: TypeAlias = Literal[
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "complex64",
    "complex128",
]
"""What numbers an array holds. Of a value, "float32" is whatever floating-point type the network computes in."""
WIDTH: Mapping[str, int] = {
    **{"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2},
    **{"complex64": 8, "complex128": 16},
    **{"int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1},
}
"""Bytes of one number."""
FLOAT: DType = "float32"


class Port(NamedTuple):
    """One output of one node."""

    node: int
    output: int = 0


Border: TypeAlias = tuple[dict[Port, None], dict[Port, None]]  # (ports a region reads, ports of it that are read)


def usual_channel_axis(axes: int) -> int:
    """Which of so many axes, the batch not counted, holds the channels unless a type says otherwise: the last one of
    two, which are tokens (T, C), else the first."""
    return 1 if axes == 2 else 0


class ValueType:
    """The axes of a value without the batch axis: (C, H, W) for an image, (C,) for a vector, (T, C) for tokens.

    `channel_axis` is the number of the axis that holds the channels; None: the usual one (`usual_channel_axis`).
    `dtype`: what numbers it holds. `batch`: rows of the batch axis for one sample, more than one where windows of a
    sample lie one after another in it; 0: the value has no batch axis, and is the same for all samples.

    A rule makes its output from its input (`over`, `with_channels`), so that all of this goes on.
    """

    __slots__ = ("axes", "batch", "channel_axis", "dtype", "plain", "shape")

    def __init__(
        self, axes: tuple[Axis, ...], channel_axis: int | None = None, dtype: DType = FLOAT, batch: int = 1
    ) -> None:
        self.axes = axes
        self.shape: tuple[int, ...] = tuple([axis if axis.__class__ is int else axis.size for axis in axes])  # type: ignore[union-attr]
        self.channel_axis: int = (1 if len(axes) == 2 else 0) if channel_axis is None else channel_axis
        self.dtype: DType = dtype
        self.batch = batch
        self.plain = batch == 1 and dtype == FLOAT  # what every op takes

    @property
    def channels(self) -> Axis:
        """The axis that holds the channels; 1 for one number."""
        return self.axes[self.channel_axis] if self.axes else 1

    @property
    def is_image(self) -> bool:
        """Whether it is (C, H, W)."""
        return len(self.axes) == 3 and self.channel_axis == 0

    @property
    def is_sequence(self) -> bool:
        """Whether it is (T, C): tokens."""
        return len(self.axes) == 2 and self.channel_axis == 1

    @property
    def channels_last(self) -> bool:
        """Whether the channels are the last axis: of a vector, of tokens, of (H, W, C)."""
        return self.channel_axis == len(self.axes) - 1

    @property
    def channel_dim(self) -> int:
        """Number of the channel axis in an array of this type, the batch axis counted where there is one."""
        return self.dim(self.channel_axis)

    def dim(self, axis: int | None) -> int:
        """Number of an axis in an array of this type, the batch axis counted where there is one; None: the channels."""
        return (self.channel_axis if axis is None else axis) + (1 if self.batch else 0)

    @property
    def entries(self) -> int:
        """Numbers for one sample; of a value without a batch axis, all of them."""
        return prod(self.shape) * max(self.batch, 1)

    @property
    def bytes(self) -> int:
        """Bytes for one sample."""
        return self.entries * WIDTH[self.dtype]

    def over(self, axes: tuple[Axis, ...], channel_axis: int | None = None) -> ValueType:
        """A value like it over other axes; its channels are the axis they were where it has as many axes, else the
        usual one, unless `channel_axis` says which."""
        if channel_axis is None and len(axes) == len(self.axes):
            channel_axis = self.channel_axis
        return ValueType(axes, channel_axis, self.dtype, self.batch)

    def with_channels(self, channels: Axis) -> ValueType:
        """The same value over other channels."""
        return self.with_axis(self.channel_axis, channels)

    def with_axis(self, number: int, axis: Axis) -> ValueType:
        """The same value with another axis in the place of one of its own."""
        axes = (*self.axes[:number], axis, *self.axes[number + 1 :])
        return ValueType(axes, self.channel_axis, self.dtype, self.batch)

    def __repr__(self) -> str:
        usual = usual_channel_axis(len(self.axes))
        more = [
            *([f"channels on axis {self.channel_axis + 1}"] if self.channel_axis != usual else []),
            *([self.dtype] if self.dtype != FLOAT else []),
            *([f"{self.batch} rows a sample" if self.batch else "no batch axis"] if self.batch != 1 else []),
        ]
        return f"ValueType{self.shape}" + (f" ({', '.join(more)})" if more else "")


@dataclass(frozen=True, slots=True)
class Fill:
    """A named initializer and its numbers; see `nasir.transfer.fill` for the rules."""

    rule: str
    args: Mapping[str, JSON] = field(default_factory=dict)


class SlotAxis(NamedTuple):
    """One axis of a weight array: over which space, and whether the op writes, reads or runs along it."""

    space: Axis
    role: Role


class Slot(NamedTuple):
    """A weight array of a node. `tags` ("decay", "bias", "norm") drive optimizer groups. `stored`: it has a name in the
    state_dict of the network; constants and buffers that are not persistent have none.

    A *kernel* is a parameter with an axis that the op writes and one that it reads; it is a convolution's where it has
    axes of fixed size (a window) too. Initializers and penalties go by that, never by the op.

    `groups`: of a kernel along whose read axis the inputs of several groups lie one group after another, as of a
    transposed convolution, these groups: nothing is summed over them. (Other kernels have them along what they write.)
    """

    axes: tuple[SlotAxis, ...]
    init: Fill
    kind: Kind = "param"
    tags: frozenset[str] = frozenset()
    dtype: DType = FLOAT
    stored: bool = True
    groups: Axis = 1

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([size_of(axis.space) for axis in self.axes])

    @property
    def size(self) -> int:
        """Number of entries."""
        total = 1
        for space, _ in self.axes:
            total *= space if space.__class__ is int else space.size  # type: ignore[union-attr]
        return total

    @property
    def is_kernel(self) -> bool:
        """Whether it maps what the op reads to what it writes."""
        if len(self.axes) < 2 or self.kind != "param":
            return False
        roles = [axis[1] for axis in self.axes]
        return "write" in roles and "read" in roles

    @property
    def is_convolution(self) -> bool:
        """Whether it is a kernel over a window."""
        return self.is_kernel and any(axis.role == "fixed" for axis in self.axes)

    def axis(self, role: Role) -> int:
        """Number of the first axis of that role; ValueError where there is none."""
        return [axis[1] for axis in self.axes].index(role)

    def written(self, number: int) -> Axis:
        """What of an axis are units whose values the array gives, scales or shifts: all, its groups, or nothing (1)."""
        space, role = self.axes[number]
        return space if role in ("write", "along") else self.groups if role == "read" else 1

    @property
    def sides(self) -> tuple[Axis, list[Axis]]:
        """Of a kernel: what it writes, groups included, and its other axes, groups left out."""
        written = self.axes[self.axis("write")].space
        others = [space for space, role in self.axes if role != "write"]
        if not isinstance(self.groups, int) or self.groups != 1:
            number = others.index(self.axes[self.axis("read")].space)
            read = others[number]
            others[number] = read.parts[1] if isinstance(read, Prod) and read is not self.groups else 1
            written = Prod((self.groups, written))
        return written, others


def kernel_of(slots: Mapping[str, Slot]) -> str | None:
    """Name of the (first) kernel among the weights of a node."""
    return next((name for name, slot in slots.items() if slot.is_kernel), None)


def bias_of(slots: Mapping[str, Slot]) -> str | None:
    """Name of the weight that a node adds to what its kernel gives, or that a norm adds."""
    return next((name for name, slot in slots.items() if slot.kind == "param" and "bias" in slot.tags), None)


def gain_of(slots: Mapping[str, Slot]) -> str | None:
    """Name of the weight that a norm multiplies by."""
    return next(
        (name for name, s in slots.items() if s.kind == "param" and "norm" in s.tags and "bias" not in s.tags), None
    )
