"""Targets of a resource: a number, or a percentage of what is used now."""

from __future__ import annotations

from math import isfinite
from typing import Literal, TypeAlias

from nasir.options.words import scaled

Resource: TypeAlias = Literal["macs", "params", "latency"]


def amount(value: float | str, now: float) -> float:
    """The number that `value` means when `now` is used; raises ValueError for what is neither number nor percentage."""
    text = str(value).strip()
    number = scaled(text.removesuffix("%"))
    if number is None or not isfinite(number) or number <= 0.0 or isinstance(value, bool):
        raise ValueError(f"target must be a number above 0, such as 8M, or a percentage, not {value!r}; write 50%")
    if not text.endswith("%"):
        return number
    if number >= 100.0:
        raise ValueError(f"target {text} is no reduction; give less than 100%")
    return now * number / 100.0
