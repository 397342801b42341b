"""Ops of imported networks that nasir has no rule for: they run as they are, and pin what they touch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import Taken, op
from nasir.ir.space import pin
from nasir.ir.types import FLOAT, JSON, DType, Fill, ValueType
from nasir.options.ranges import Whole

Shape = tuple[Whole, ...]


@op("parameter", family="weight")
def parameter(at: At, shape: Shape, dtype: DType = FLOAT, learned: bool = True) -> ValueType:
    """A weight that a function uses, the same for all samples. Not `learned`: a buffer, or a constant."""
    axes = tuple([(size, "fixed") for size in shape])
    at.slot("value", axes, Fill("zeros"), "param" if learned else "buffer", dtype=dtype)  # type: ignore[arg-type]
    return ValueType(shape, None, dtype, 0)


def _counted(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    counted = attrs["macs"]
    return counted if isinstance(counted, int) else 0


@op("opaque", family="opaque", takes=get_args(Taken), random=True, macs=_counted, later=("macs",))
def opaque(
    at: At,
    *x: ValueType,
    call: Annotated[str, doc("what is called and how, as JSON (`nasir.importing.data`)")],
    runs: Annotated[str, doc("name of the function or class, for people")],
    shapes: Annotated[tuple[Shape, ...], doc("of the outputs, without the batch axis")],
    dtypes: Annotated[tuple[DType, ...], doc("of the outputs")],
    rows: Annotated[tuple[Whole, ...], doc("of the batch for each sample; 0: the same for all samples")],
    live: Annotated[bool, doc("it is a module, which only the process has that imported it")] = False,
    weights: Annotated[tuple[str, ...], doc("names of the parameters and buffers that it holds")] = (),
    weight_shapes: tuple[Shape, ...] = (),
    weight_dtypes: tuple[DType, ...] = (),
    buffers: Annotated[tuple[str, ...], doc("those of `weights` that are not learned")] = (),
    macs: Annotated[Whole | None, doc("multiply-accumulates of one sample; none: unknown, counts as 0")] = None,
) -> tuple[ValueType, ...]:
    """A call of a function or module that has no rule: nothing that runs over its inputs or outputs can be resized."""
    for value in x:
        for axis in value.axes:
            pin(axis, f"'{at.label}' runs {runs}, which has no rule of how it can be resized")
    for name, shape, dtype in zip(weights, weight_shapes, weight_dtypes, strict=True):
        kind = "buffer" if name in buffers else "param"
        at.slot(name, tuple([(size, "fixed") for size in shape]), Fill("zeros"), kind, dtype=dtype)
    like = {value.shape: value.channel_axis for value in reversed(x)}  # as it mostly is where a shape stays
    facts = zip(shapes, dtypes, rows, strict=True)
    return tuple([ValueType(shape, like.get(tuple(shape)), dtype, batch) for shape, dtype, batch in facts])
