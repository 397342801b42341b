"""Further norms: of each sample by itself, over the channels of images, by the mean square, of neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.space import pin
from nasir.ir.types import JSON, ValueType
from nasir.ops import constants as known
from nasir.ops.weighted import AFFINE, COUNTED, STATISTICS, ZEROS, Affine, Biased
from nasir.options.ranges import Count, NotNegative, Share


@op("instance_norm", family="norm", channels="alone", constant=known.normed)
def instance_norm(
    at: At,
    x: ValueType,
    eps: NotNegative = 1e-5,
    momentum: Share = 0.1,
    affine: Affine = False,
    statistics: Annotated[bool, doc("it keeps running ones, which evaluation uses")] = False,
) -> ValueType:
    """Normalization of each channel of each sample over its places (Ulyanov et al. 2016)."""
    if x.channel_axis != 0 or not 2 <= len(x.axes) <= 4:
        at.fail(f"needs channels with one to three axes behind them, got {at.shape(x)}")
    at.slots_along(x.axes[0], (AFFINE if affine else ()) + (STATISTICS if statistics else ()))
    if statistics:
        at.slots["num_batches_tracked"] = COUNTED
    return x


@op("layer_norm2d", family="norm", mixes=True)
def layer_norm2d(
    at: At, x: ValueType, eps: NotNegative = 1e-6, affine: Affine = True, bias: Biased = True
) -> ValueType:
    """Normalization of each place of an image over the channels, as ConvNeXt has it (Liu et al. 2022)."""
    channels, _, _ = at.image(x)
    at.slots_along(channels, AFFINE[: 1 + bias] if affine else ())
    return x


@op("rms_norm", family="norm", mixes=True)
def rms_norm(
    at: At,
    x: ValueType,
    eps: Annotated[NotNegative | None, doc("null: the smallest number that changes 1 in the numbers' type")] = None,
    affine: Annotated[bool, doc("it multiplies by a weight per channel")] = True,
) -> ValueType:
    """A vector, or each token, divided by the root of the mean square of its features (Zhang & Sennrich 2019)."""
    if not x.channels_last:
        at.fail(f"needs a vector or tokens, got {at.shape(x)}")
    at.slots_along(x.axes[-1], AFFINE[:1] if affine else ())
    return x


@op("response_norm", family="activation", mixes=True)
def response_norm(at: At, x: ValueType, eps: NotNegative = 1e-6) -> ValueType:
    """Global response normalization, x + weight * x * n + bias: both weights begin with 0 (Woo et al. 2023).

    n is the norm of a channel over all places, divided by the mean of such norms of all channels.
    """
    if len(x.axes) != 3:
        at.fail(f"needs an image, its channels first or last, got {at.shape(x)}")
    at.slots_along(x.channels, ((name, ZEROS, kind, tags) for name, _, kind, tags in AFFINE))
    return x


def _in_volumes(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str] | None:
    """With two axes or more behind the channels torch pools volumes."""
    if len(out.axes) < 3:
        return None
    return "averages over neighbouring channels by a pool of volumes", "use another norm"


@op("local_response_norm", family="norm", mixes=True, unordered=_in_volumes)
def local_response_norm(
    at: At,
    x: ValueType,
    size: Annotated[Count, doc("channels that are summed over, about the one that is normalized")],
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> ValueType:
    """x / (`k` + `alpha` * m) ** `beta`: m is the mean square of `size` neighbouring channels.

    Krizhevsky et al. 2012, as torch has it.
    """
    if x.channel_axis != 0 or len(x.axes) < 2:
        at.fail(f"needs channels with axes behind them, got {at.shape(x)}")
    pin(x.channels, f"{at.node.op} '{at.label}' normalizes by neighbours, so that their order matters")
    return x


@op("frozen_batch_norm", family="norm", channels="alone", constant=known.normed)
def frozen_batch_norm(at: At, x: ValueType, eps: NotNegative = 1e-5) -> ValueType:
    """Batch normalization of images by numbers that are never trained: all four are buffers."""
    channels, _, _ = at.image(x)
    at.slots_along(channels, [(name, fill, "buffer", frozenset()) for name, fill, _, _ in AFFINE + STATISTICS])
    return x
