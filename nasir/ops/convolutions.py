"""Convolutions and transposed ones over signals, images and volumes. Slots and default values are torch's."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Literal, TypeAlias

from nasir.ir.infer import At
from nasir.ir.op import Pads, PerAxis, Rule, Sizes, op, per_axis
from nasir.ir.space import Axis, Prod
from nasir.ir.types import JSON, Role, ValueType
from nasir.ops.weighted import BIAS, DECAY, KAIMING, bias_fill
from nasir.ops.windows import each, over_places, places, slid, times, window_axes
from nasir.options.ranges import Count

PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
NAMES = {1: "signals", 2: "images", 3: "volumes"}


def macs(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    """Each output is a sum over a window of the channels of its group."""
    kernel = per_axis(attrs["kernel"], len(out.shape) - 1)
    groups: int = attrs["groups"]
    return inputs[0].shape[0] // groups * prod(kernel) * prod(out.shape)


def _transposed_macs(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    """Each input is multiplied by a window for each output channel of its group."""
    kernel = per_axis(attrs["kernel"], len(out.shape) - 1)
    groups: int = attrs["groups"]
    return out.shape[0] // groups * prod(kernel) * prod(inputs[0].shape)


def _carries_on(attrs: Mapping[str, JSON]) -> bool:
    """No zeros are added at the borders."""
    return bool(attrs["padding_mode"] != "zeros" or attrs["padding"] == attrs["end_padding"] == 0)


def _convolution(rank: int) -> Rule:
    def convolution(
        at: At,
        x: ValueType,
        out: Count,
        kernel: Sizes,
        stride: Sizes = 1,
        padding: Pads = 0,
        dilation: Sizes = 1,
        groups: Count = 1,
        bias: bool = False,
        end_padding: Pads = 0,
        padding_mode: PaddingMode = "zeros",
    ) -> ValueType:
        channels, sizes = places(at, x, rank)
        made = slid(at, sizes, kernel, stride, padding, dilation, end_padding)
        if padding_mode != "zeros":  # rare, and inference of a large network is made of this function
            before, more = per_axis(padding, rank), per_axis(end_padding, rank)
            check_padding(at, padding_mode, sizes, before, tuple(map(sum, zip(before, more, strict=True))))
        written, read = _sides(at, channels, x.shape[0], out, groups)
        at.slot("weight", ((written, "write"), (read, "read"), *window_axes(kernel, rank)), KAIMING, tags=DECAY)
        if bias:
            fan_in = x.shape[0] // groups * prod(per_axis(kernel, rank))
            at.slot("bias", ((written, "write"),), bias_fill(fan_in), tags=BIAS)
        return over_places(x, written, made)

    convolution.__doc__ = f"""{rank}-D convolution of {NAMES[rank]} to `out` channels, without a bias by default.

    `groups` = input channels is depthwise. `end_padding`: places added at the end of each axis on top of `padding`, as
    torch's padding="same" has them for even kernels. `padding_mode` says what the places hold that are added.
    """
    register = op(
        f"conv{rank}d",
        family="weighted",
        channels="groups",
        even=_carries_on,
        macs=macs,
        unordered=reflected,
        later=("end_padding", "padding_mode"),
    )
    return register(convolution)


def reflected(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str] | None:
    if attrs["padding_mode"] != "reflect":
        return None
    return "pads by reflection", "use `padding_mode: replicate`"


def check_padding(at: At, mode: str, sizes: tuple[int, ...], before: PerAxis, after: PerAxis) -> None:
    """TypeRuleError where an axis has too few places to be padded with at each end; `after` may be the larger one."""
    if mode not in ("reflect", "circular"):
        return
    for size, *ends in zip(sizes, per_axis(before, len(sizes)), per_axis(after, len(sizes)), strict=True):
        most = size - 1 if mode == "reflect" else size
        if max(ends) > most:
            at.fail(f"{mode} padding adds at most {most} to an axis of {size}, not {max(ends)}")


def _sides(at: At, channels: Axis, size: int, out: int, groups: int) -> tuple[Axis, Axis]:
    """(written, read) spaces: in = Prod(G, I), out = Prod(G, O); depthwise: G is the whole input space."""
    if groups == 1:
        return at.fresh(out, "out"), channels
    if size % groups or out % groups:
        at.fail(f"groups {groups} must divide both the {size} input and the {out} output channels")
    if groups == size:
        at.mirror("groups", channels)
        if out == size:
            at.mirror("out", channels)
            return channels, 1
        written: Axis = Prod((channels, at.fresh(out // groups)))
        at.mirror("out", written)
        return written, 1
    group = at.fresh(groups, "groups")
    read = at.fresh(size // groups)
    at.same(channels, Prod((group, read)), "channels", (0, 0))
    written = Prod((group, at.fresh(out // groups)))
    at.mirror("out", written)
    return written, read


conv1d = _convolution(1)
conv2d = _convolution(2)
conv3d = _convolution(3)


def _transposed(rank: int) -> Rule:
    def transposed(
        at: At,
        x: ValueType,
        out: Count,
        kernel: Sizes,
        stride: Sizes = 1,
        padding: Pads = 0,
        dilation: Sizes = 1,
        groups: Count = 1,
        bias: bool = False,
        output_padding: Pads = 0,
    ) -> ValueType:
        channels, sizes = places(at, x, rank)
        given = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": output_padding}
        window, *others = each(at, rank, kernel=kernel, **given)
        made = []
        for size, width, hop, pad, step, more in zip(sizes, window, *others, strict=True):
            if more >= max(hop, step):
                at.fail(f"output_padding {output_padding} must be less than stride {stride} or dilation {dilation}")
            made.append((size - 1) * hop - 2 * pad + step * (width - 1) + more + 1)
        if min(made) < 1:
            at.fail(f"padding {padding} takes away all that an input of {times(sizes)} gives with kernel {kernel}")
        written, read = _sides(at, channels, x.shape[0], out, groups)
        apart, sides = _reading_first(written, read, channels, groups)
        at.slot("weight", (*sides, *window_axes(kernel, rank)), KAIMING, tags=DECAY, groups=apart)
        if bias:
            at.slot("bias", ((written, "write"),), bias_fill(out // groups * prod(window)), tags=BIAS)
        return over_places(x, written, tuple(made))

    transposed.__doc__ = f"""Transposed {rank}-D convolution of {NAMES[rank]} to `out` channels; no bias by default.

    It is the gradient of a convolution with these attributes with respect to its input; at the end of each axis lie
    `output_padding` more places. The kernel is [input channels, output channels of a group, ...].
    """
    name = f"conv_transpose{rank}d"
    return op(name, family="weighted", channels="groups", macs=_transposed_macs)(transposed)


def _reading_first(
    written: Axis, read: Axis, channels: Axis, groups: int
) -> tuple[Axis, tuple[tuple[Axis, Role], tuple[Axis, Role]]]:
    """(groups, the first two axes of a kernel that lies [inputs of all groups, outputs of one, ...])."""
    if groups == 1:
        return 1, ((read, "read"), (written, "write"))
    if written is channels:  # depthwise
        return 1, ((channels, "write"), (1, "read"))
    assert isinstance(written, Prod)
    group, outputs = written.parts
    inputs = channels if read == 1 else Prod((group, read))
    return group, ((inputs, "read"), (outputs, "write"))


conv_transpose1d = _transposed(1)
conv_transpose2d = _transposed(2)
conv_transpose3d = _transposed(3)
