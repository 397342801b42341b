"""Channels and places in another order, and values several times."""

from __future__ import annotations

from collections.abc import Sequence

from nasir.importing.recording import Tree
from nasir.importing.rules.place import Place, Typed, axis_of, rule
from nasir.ir import ValueType


def _shuffle(op: str, attr: str, module: str, word: str) -> None:
    """A rule of a module, whose `word` is the attribute, and of the function of the same name as the op."""

    @rule(module, *[f"{home}.{op}" for home in ("torch", "torch.nn.functional")])
    def take(place: Place, x: int, value: ValueType) -> Typed | None:
        number = place.call.attributes.get(word, place.given(1, word, None))
        return Typed(op, (x,), {attr: number}) if value.is_image and type(number) is int else None


_shuffle("channel_shuffle", "groups", "torch.nn.modules.channelshuffle.ChannelShuffle", "groups")
_shuffle("pixel_shuffle", "factor", "torch.nn.modules.pixelshuffle.PixelShuffle", "upscale_factor")
_shuffle("pixel_unshuffle", "factor", "torch.nn.modules.pixelshuffle.PixelUnshuffle", "downscale_factor")


@rule("torch.roll", "torch.Tensor.roll")
def _roll(place: Place, x: int, value: ValueType) -> Typed | None:
    shifts, dims = _listed(place.given(1, "shifts", None)), _listed(place.given(2, "dims", None))
    axes = [axis_of(axis, value) for axis in dims]
    if not all(type(shift) is int for shift in shifts) or None in axes or len(axes) != len(shifts):
        return None
    return Typed("roll", (x,), {"shifts": shifts, "axes": axes})


@rule("torch.Tensor.repeat", "torch.tile", "torch.Tensor.tile")
def _repeat(place: Place, x: int, value: ValueType) -> Typed | None:
    """The result tells how often, where no axis is new and the batch stays as it is."""
    return _repeated(place, x, value)


@rule("torch.Tensor.expand", "torch.broadcast_to", "torch.Tensor.broadcast_to")
def _expand(place: Place, x: int, value: ValueType) -> Typed | None:
    return _repeated(place, x, value)


def _repeated(place: Place, x: int, value: ValueType, each: bool = False) -> Typed | None:
    (made,) = place.results
    if made.batch != value.batch or len(made.shape) != len(value.shape):
        return None
    counts = [after // before for before, after in zip(value.shape, made.shape, strict=True)]
    return Typed("repeat", (x,), {"counts": counts, "each": each})


@rule("torch.repeat_interleave", "torch.Tensor.repeat_interleave")
def _beside(place: Place, x: int, value: ValueType) -> Typed | None:
    count, axis = place.given(1, "repeats", None), axis_of(place.given(2, "dim", None), value)
    return None if type(count) is not int or axis is None else _repeated(place, x, value, each=True)


def _listed(value: Tree) -> Sequence[Tree]:
    return value if isinstance(value, tuple | list) else [value]
