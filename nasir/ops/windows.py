"""Windows that slide along the axes beside the channels: of a signal (C, L), an image (C, H, W), a volume (C, T, H, W).

An attribute of a window is one number for all of these axes, or one for each.
"""

from __future__ import annotations

from functools import lru_cache

from nasir.ir.infer import At
from nasir.ir.op import PerAxis, per_axis
from nasir.ir.space import Axis, atoms_of, pin
from nasir.ir.types import SlotAxis, ValueType

KINDS = {1: "a signal (channels, length)", 2: "an image (channels, height, width)"}
KINDS[3] = "a volume (channels, time, height, width)"


def has_places(x: ValueType, rank: int | None = None) -> bool:
    """Whether a value has its channels first and `rank` axes (None: one to three) behind them.

    Two axes of which neither can be resized may be a signal as well as tokens.
    """
    count = len(x.axes) - 1
    if not 1 <= count <= 3 or rank not in (None, count):
        return False
    return x.channel_axis == 0 or (count == 1 and not any(atom.resizable for atom in atoms_of(x.axes[1])))


def places(at: At, x: ValueType, rank: int | None = None) -> tuple[Axis, tuple[int, ...]]:
    """(channels, sizes of the axes behind them) of an input as `has_places` wants it, or a TypeRuleError.

    Nothing may resize these axes afterwards.
    """
    if not has_places(x, rank):
        wanted = KINDS[rank] if rank else "a signal, an image or a volume, its channels first"
        at.fail(f"needs {wanted}, got {at.shape(x)} from {at.source(0, x.channels)}")
    for axis in x.axes[1:]:
        if axis.__class__ is not int:
            pin(axis, f"{at.node.op} '{at.label}' slides a window along it")
    return x.axes[0], x.shape[1:]


def over_places(x: ValueType, channels: Axis, sizes: tuple[int, ...]) -> ValueType:
    """What is made of x over other channels and so many places."""
    return x.over((channels, *sizes), 0)


@lru_cache(4096)
def window_axes(kernel: PerAxis, rank: int) -> tuple[SlotAxis, ...]:
    """The axes of a weight that run over the places of a window."""
    return tuple([SlotAxis(size, "fixed") for size in per_axis(kernel, rank, "kernel")])


def each(at: At, rank: int, **given: PerAxis) -> tuple[tuple[int, ...], ...]:
    """Attributes as one number for each of so many axes; TypeRuleError where one holds another number of them."""
    try:
        return tuple([per_axis(value, rank, name) for name, value in given.items()])
    except ValueError as problem:
        at.fail(str(problem))


def slid(
    at: At,
    sizes: tuple[int, ...],
    kernel: PerAxis,
    stride: PerAxis,
    padding: PerAxis,
    dilation: PerAxis = 1,
    end_padding: PerAxis = 0,
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """How many places a window has along axes of these sizes; TypeRuleError when it does not fit.

    `end_padding` comes on top of `padding` at the end of an axis. `ceil_mode`: a last window may hang over the end, as
    long as it starts inside of the axis or the padding before it.
    """
    try:
        return _slid(sizes, kernel, stride, padding, dilation, end_padding, ceil_mode)
    except ValueError as problem:
        at.fail(str(problem))


@lru_cache(4096)
def _slid(
    sizes: tuple[int, ...],
    kernel: PerAxis,
    stride: PerAxis,
    padding: PerAxis,
    dilation: PerAxis,
    end_padding: PerAxis,
    ceil_mode: bool,
) -> tuple[int, ...]:
    rank = len(sizes)
    if 0 in per_axis(stride, rank, "stride"):
        raise ValueError(f"stride {stride} must be at least 1 along every axis")
    out = []
    given = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "end_padding": end_padding}
    for length, window, hop, pad, step, more in zip(
        sizes, *[per_axis(value, rank, name) for name, value in given.items()], strict=True
    ):
        room = length + 2 * pad + more - step * (window - 1) - 1
        count = (room + (hop - 1 if ceil_mode else 0)) // hop + 1
        if ceil_mode and (count - 1) * hop >= length + pad:
            count -= 1
        out.append(count)
    if min(out) < 1:
        raise ValueError(
            f"an input of {times(sizes)} is too small for kernel {kernel}, stride {stride}, padding {padding}"
            f"{'' if dilation == 1 else f', dilation {dilation}'}: "
            "use a smaller kernel or stride, or fewer downsampling steps before it"
        )
    return tuple(out)


def times(sizes: tuple[int, ...]) -> str:
    """Sizes for messages: 8x6."""
    return "x".join(map(str, sizes))
