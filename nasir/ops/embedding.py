"""Vectors that are looked up: numbers of words or places become what a network computes with."""

from __future__ import annotations

from typing import Annotated

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import FLOAT, Fill, ValueType
from nasir.ops import constants as known
from nasir.ops.weighted import DECAY
from nasir.options.ranges import Count, Whole


@op("embedding", family="embedding", channels="moves", constant=known.looked_up, takes=("integers", "unbatched"))
def embedding(
    at: At,
    x: ValueType,
    count: Annotated[Count, doc("vectors; the numbers are below it")],
    out: Annotated[Count, doc("channels of each")],
    padding: Annotated[Whole | None, doc("the number whose vector does not learn")] = None,
) -> ValueType:
    """A learned vector for each number: (T,) -> (T, C), (H, W) -> (H, W, C)."""
    if x.dtype not in ("int64", "int32"):
        at.fail(f"needs whole numbers (int64 or int32), got {x.dtype} from {at.source(0, x.channels)}")
    if padding is not None and padding >= count:
        at.fail(f"padding must be from 0 to {count - 1}, not {padding}")
    written = at.fresh(out, "out")
    at.slot("weight", ((count, "fixed"), (written, "write")), Fill("normal", {"std": 1.0}), tags=DECAY)
    return ValueType((*x.axes, written), len(x.axes), FLOAT, x.batch)
