"""Ops of imported networks that nasir has no rule for: they run as they are, and pin what they touch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from annotated_types import doc

from nasir.ir.infer import MOST_UNITS, At
from nasir.ir.op import Taken, op
from nasir.ir.space import Axis, pin
from nasir.ir.types import FLOAT, JSON, DType, Fill, Role, ValueType
from nasir.ops import constants as known
from nasir.options.ranges import Whole

Shape = tuple[Whole, ...]


@op("parameter", family="weight", constant=known.held, later=("start", "stored"))
def parameter(
    at: At,
    shape: Shape,
    dtype: DType = FLOAT,
    learned: bool = True,
    start: Annotated[float, doc("what entries of new units begin with")] = 0.0,
    stored: Annotated[bool, doc("it is in the state_dict of the network")] = True,
) -> ValueType:
    """A weight that a function uses, the same for all samples. Not `learned`: a buffer, or a constant.

    Its axes run over the spaces of what it is added to or multiplied with, which only a learned one can follow.
    """
    axes = tuple([_units(at, size, number) if dtype == FLOAT else size for number, size in enumerate(shape)])
    for axis in axes if not learned else ():
        pin(axis, f"it meets '{at.label}', whose numbers are not learned")
    along: list[tuple[Axis, Role]] = [(axis, "fixed" if isinstance(axis, int) else "along") for axis in axes]
    fill = Fill("constant", {"value": start}) if start else Fill("zeros")
    at.slot("value", tuple(along), fill, "param" if learned else "buffer", dtype=dtype, stored=stored)
    return ValueType(axes, None, dtype, 0)


def _units(at: At, size: int, number: int) -> Axis:
    """An axis of a weight: a space, unless it has one entry, or more than any space."""
    return at.fresh(size, "shape", number) if 1 < size <= MOST_UNITS else size


def _counted(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    counted = attrs["macs"]
    return counted if isinstance(counted, int) else 0


@op(
    "opaque",
    family="opaque",
    takes=get_args(Taken),
    random=True,
    macs=_counted,
    later=("macs", "passing", "sized_by", "unread"),
)
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
    sized_by: Annotated[Whole | None, doc("number of the input whose first axis tells how large the batch is")] = None,
    passing: Annotated[tuple[str, ...], doc("those of `buffers` that are in no state_dict")] = (),
    unread: Annotated[tuple[Whole, ...], doc("numbers of the inputs of which only type and device matter")] = (),
    macs: Annotated[Whole | None, doc("multiply-accumulates of one sample; none: unknown, counts as 0")] = None,
) -> tuple[ValueType, ...]:
    """A call of a function or module that has no rule: nothing that runs over its inputs or outputs can be resized."""
    for number, value in enumerate(x):
        for axis in value.axes if number not in unread else ():
            pin(axis, f"'{at.label}' runs {runs}, which has no rule of how it can be resized")
    for name, shape, dtype in zip(weights, weight_shapes, weight_dtypes, strict=True):
        kind = "buffer" if name in buffers else "param"
        fixed: tuple[tuple[Axis, Role], ...] = tuple([(size, "fixed") for size in shape])
        at.slot(name, fixed, Fill("zeros"), kind, dtype=dtype, stored=name not in passing)
    like = {value.shape: value.channel_axis for value in reversed(x)}  # as it mostly is where a shape stays
    facts = zip(shapes, dtypes, rows, strict=True)
    return tuple([ValueType(shape, like.get(tuple(shape)), dtype, batch) for shape, dtype, batch in facts])
