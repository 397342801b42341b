"""Means, sums and extremes over axes."""

from __future__ import annotations

from nasir.importing.rules.place import Place, Typed, axis_of, rule
from nasir.ir import ValueType

NAMES = ("mean", "sum", "amax", "amin")


@rule(*[f"{home}.{name}" for home in ("torch", "torch.Tensor") for name in NAMES])
def _reduce(place: Place, x: int, value: ValueType) -> Typed | None:
    """Over axes of each sample: with the batch axis it is one number for all of them, which has no op."""
    how = place.call.operation.rpartition(".")[2]
    given, keep = place.given(1, "dim", place.call.kwargs.get("axis")), place.given(2, "keepdim", False)
    if type(keep) is not bool or place.call.kwargs.get("dtype") is not None or len(place.call.args) > 3:
        return None
    listed = given if isinstance(given, tuple | list) else (given,)
    axes = [axis_of(axis, value) for axis in listed]
    if not axes or any(axis is None for axis in axes):
        return None
    return _typed(x, value, how, sorted({axis for axis in axes if axis is not None}), keep)


def _typed(x: int, value: ValueType, how: str, axes: list[int], keep: bool) -> Typed:
    """Means over the places of an image or a sequence have ops of their own."""
    if how == "mean" and value.plain and not keep:
        if value.is_image and axes == [1, 2]:
            return Typed("global_avg_pool", (x,), {})
        if value.is_sequence and axes == [0]:
            return Typed("mean_tokens", (x,), {})
    return Typed("reduce", (x,), {"how": how, "axes": axes, "keep": keep})
