"""Numbers in another type."""

from __future__ import annotations

from nasir.importing.recording import Symbol
from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType
from nasir.ir.types import FLOAT

BY_NAME = {"torch.Tensor.float": "float32", "torch.Tensor.double": "float64"}


@rule(*BY_NAME)
def _named(place: Place, x: int, value: ValueType) -> Typed | None:
    odd = len(place.call.args) > 1 or place.call.kwargs.keys() - {"memory_format"}
    return None if odd else _cast(place, x, value, BY_NAME[place.call.operation])


@rule("torch.Tensor.to")
def _to(place: Place, x: int, value: ValueType) -> Typed | None:
    """To a type alone; to a device, or as another tensor, is something else."""
    wanted = place.given(1, "dtype", None)
    if not isinstance(wanted, Symbol) or len(place.call.args) > 2 or place.call.kwargs.keys() - {"dtype"}:
        return None
    return _cast(place, x, value, wanted.name.removeprefix("torch."))


def _cast(place: Place, x: int, value: ValueType, dtype: str) -> Typed | None:
    """From and to the floating-point type that the network computes in, or float32."""
    if value.dtype != FLOAT or any(result.dtype != FLOAT for result in place.results):
        return None
    return Typed("cast", (x,), {"dtype": dtype})
