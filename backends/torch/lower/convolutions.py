"""How convolutions become torch: modules of torch.nn, or such behind padding that those have not."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Lowered, lowering, stamped
from nasir.backends.torch.lower.windows import widths
from nasir.ir import JSON, ValueType, per_axis

SHARED = ("kernel", "stride", "padding", "dilation", "bias")


class Padded:
    """Mixin of convolutions: places are added around the input first."""

    widths: tuple[int, ...]
    mode: str

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the padded input."""
        return super().forward(F.pad(x, self.widths, self.mode))  # type: ignore[misc, no-any-return]


class PaddedConv1d(Padded, nn.Conv1d):
    """nn.Conv1d of the padded input."""


class PaddedConv2d(Padded, nn.Conv2d):
    """nn.Conv2d of the padded input."""


class PaddedConv3d(Padded, nn.Conv3d):
    """nn.Conv3d of the padded input."""


CONVOLUTIONS: tuple[type[Any], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PADDED: tuple[type[Any], ...] = (PaddedConv1d, PaddedConv2d, PaddedConv3d)
TRANSPOSED: tuple[type[Any], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _convolution(rank: int) -> None:
    def lower(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
        proto = _like(rank, *[a[name] for name in (*SHARED, "end_padding", "padding_mode")])
        return stamped(proto, in_channels=x[0].shape[0], out_channels=a["out"], groups=a["groups"])

    lowering(f"conv{rank}d", spares=True)(lower)


@cache
def _like(
    rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, bias: bool, end_padding: Any, mode: str
) -> nn.Module:
    kernel, stride, before, dilation, more = (
        per_axis(value, rank) for value in (kernel, stride, padding, dilation, end_padding)
    )
    plain = mode == "zeros" and end_padding == 0
    # zeros at both ends alike are the convolution's own, as in torch's padding="same"
    inside = before if mode == "zeros" else 0
    options = {"stride": stride, "padding": inside, "dilation": dilation, "bias": bias}
    module: nn.Module = (CONVOLUTIONS if plain else PADDED)[rank - 1](1, 1, kernel, **options)
    if isinstance(module, Padded):
        outside = (0,) * rank if mode == "zeros" else before
        module.widths = widths(outside, tuple(map(sum, zip(outside, more, strict=True))))
        module.mode = "constant" if mode == "zeros" else mode
    return module


def _transposed(rank: int) -> None:
    def lower(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
        proto = _transposed_like(rank, *[a[name] for name in (*SHARED, "output_padding")])
        return stamped(proto, in_channels=x[0].shape[0], out_channels=a["out"], groups=a["groups"])

    lowering(f"conv_transpose{rank}d", spares=True)(lower)


@cache
def _transposed_like(
    rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, bias: bool, output_padding: Any
) -> nn.Module:
    kernel, stride, padding, dilation, more = (
        per_axis(value, rank) for value in (kernel, stride, padding, dilation, output_padding)
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": more, "bias": bias}
    module: nn.Module = TRANSPOSED[rank - 1](1, 1, kernel, **options)
    return module


for _rank in (1, 2, 3):
    _convolution(_rank)
    _transposed(_rank)
