"""What flows along an edge (`ValueType`) and what a node owns (`Slot`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from nasir.ir.space import Axis, size_of

JSON: TypeAlias = Any  # null, bool, int, float, str, list, dict: the borders (spec, journal) check it
Kind: TypeAlias = Literal["param", "buffer"]
Role: TypeAlias = Literal["write", "read", "along", "fixed"]


class Port(NamedTuple):
    """One output of one node."""

    node: int
    output: int = 0


Border: TypeAlias = tuple[dict[Port, None], dict[Port, None]]  # (ports a region reads, ports of it that are read)


def channel_axis(axes: int) -> int:
    """Number of the channel axis of a value with so many axes, without the batch axis: last for tokens (T, C)."""
    return 1 if axes == 2 else 0


class ValueType:
    """The axes of a value without the batch axis: (C, H, W) for an image, (C,) for a vector, (T, C) for tokens."""

    __slots__ = ("axes", "shape")

    def __init__(self, axes: tuple[Axis, ...]) -> None:
        self.axes = axes
        self.shape: tuple[int, ...] = tuple([axis if axis.__class__ is int else axis.size for axis in axes])  # type: ignore[union-attr]

    @property
    def channel_axis(self) -> int:
        """Number of the channel axis: the last one of tokens, else the first."""
        return channel_axis(len(self.axes))

    @property
    def channels(self) -> Axis:
        return self.axes[channel_axis(len(self.axes))]

    def with_channels(self, channels: Axis) -> ValueType:
        """The same value over other channels."""
        number = channel_axis(len(self.axes))
        return ValueType((*self.axes[:number], channels, *self.axes[number + 1 :]))

    def __repr__(self) -> str:
        return f"ValueType{self.shape}"


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
    """A weight array of a node. `tags` ("decay", "bias", "norm") drive optimizer groups.

    A *kernel* is a parameter with an axis that the op writes and one that it reads; it is a convolution's where it has
    axes of fixed size (a window) too. Initializers and penalties go by that, never by the op.
    """

    axes: tuple[SlotAxis, ...]
    init: Fill
    kind: Kind = "param"
    tags: frozenset[str] = frozenset()
    dtype: Literal["float32", "int64"] = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([size_of(axis.space) for axis in self.axes])

    @property
    def size(self) -> int:
        """Number of entries."""
        total = 1
        for axis in self.axes:
            total *= size_of(axis.space)
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
