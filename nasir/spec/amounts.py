"""Numbers with units in a `search:` section: `40M`, `2 hours`, `4 GB`; constraints such as `macs <= 40M`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from nasir.options import suggestion
from nasir.options.words import NUMBER, POWERS, not_scaled, scaled
from nasir.spec.fields import fault

_SPAN = re.compile(rf"{NUMBER}\s*(second|minute|hour|day)s?")
_BYTES = re.compile(rf"{NUMBER}\s*([kKMGT]i?)?B")
_CONSTRAINT = re.compile(r"([\w.]+)\s*(<=|>=|==|=|<|>|≤|≥)\s*(.+)")
_REVERSED = re.compile(r"([^<>=]+?)\s*([<>])=?\s*([A-Za-z_][\w.]*)(?:\s*([<>])=?\s*([^<>=]+))?")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def _scaled(value: Any) -> Any:
    """`40M` as 40 million; numbers pass unchanged."""
    if not isinstance(value, str):
        return value
    number = scaled(value)
    if number is None:
        raise fault(*not_scaled(value))
    return number


def _in_seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _SPAN.fullmatch(value.strip())
    if match is None:
        raise fault(f"expected a duration, found {value!r}", "write `90 seconds`, `30 minutes`, `2 hours` or `1 day`")
    return float(match[1]) * _SECONDS[match[2]]


def _in_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _BYTES.fullmatch(value.strip())
    if match is None:
        raise fault(f"expected a size, found {value!r}", "write `500 MB`, `4 GB` or `4 GiB`")
    unit = match[2] or ""
    size = float(match[1]) * (1024 if unit.endswith("i") else 1000) ** POWERS[unit.rstrip("i")]
    if not math.isfinite(size):
        raise fault(f"{value!r:.60} is too large", "give a size that a disk can hold")
    return int(size)


def _schema(example: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "examples": [example]}]})


Amount = Annotated[float, Field(gt=0), BeforeValidator(_scaled), _schema("40M")]
"""A number above 0, with K, M, G or T for thousands."""
Seconds = Annotated[float, Field(gt=0), BeforeValidator(_in_seconds), _schema("2 hours")]
"""A duration: seconds, or with a unit."""
Bytes = Annotated[int, Field(ge=0), BeforeValidator(_in_bytes), _schema("4 GB")]
"""A size: bytes, or with a unit (GB is 10^9, GiB 2^30)."""

OBJECTIVES = (
    "val.accuracy",
    "val.loss",
    "train.accuracy",
    "train.loss",
    "macs",
    "params",
    "latency_ms",
    "epochs",
    "cpu_seconds",
)
"""What a search can aim at: of the network at the end of a trial, or of its training (epochs, cpu_seconds)."""
COUNTED = ("macs", "params")
"""Those that are counted on the network alone."""
MEASURED = ("latency_ms", "cpu_seconds")
"""Those that come out differently each time."""


def checked_metric(name: Any) -> Any:
    """A name of `OBJECTIVES`; raises the fault to report otherwise."""
    if not isinstance(name, str) or name in OBJECTIVES:
        return name
    if name.startswith("test."):
        text = f"{name} is measured once, at the end, and would be spoiled by choosing with it"
        raise fault(text, f"use {name.replace('test.', 'val.', 1)}")
    raise fault(f"unknown metric {name!r}", suggestion(name, OBJECTIVES))


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound that the result of a trial has to keep; `text` is as it was written."""

    metric: str
    upper: bool
    bound: float
    text: str

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, as a fraction of it (of 1 for the bound 0); kept if at most 0.

        Fractions, so that constraints on millions and on fractions weigh the same where a sampler adds them up.
        """
        beyond = value - self.bound if self.upper else self.bound - value
        return beyond / abs(self.bound) if self.bound else beyond

    def __str__(self) -> str:
        return self.text


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        raise fault(f"expected a constraint, found {value!r}", "write `macs <= 40M`")
    match = _CONSTRAINT.fullmatch(value.strip())
    if match is None:
        raise fault(f"expected a constraint, found {value!r}", "write `macs <= 40M`")
    metric, sign, number = match.groups()
    _check_order(value.strip())
    checked_metric(metric)
    if sign not in ("<=", ">="):
        remedy = {"<": "<=", "≤": "<=", ">": ">=", "≥": ">="}.get(sign)
        raise fault(f"a constraint cannot use {sign}", f"write {remedy}" if remedy else "write <= or >=")
    try:
        bound = _scaled(number)
    except Exception:
        raise fault(f"{number!r} is not a number", f"write for example `{_example(metric)}`") from None
    if metric.endswith("accuracy") and not 0 <= bound <= 1:
        raise fault(f"an accuracy is a fraction, 0 to 1, and never {number}", f"write `{_example(metric)}` for 80 %")
    if not math.isfinite(bound):
        raise fault(f"{number} is too large", "give a number that a computer can hold")
    return Constraint(metric, sign == "<=", bound, value.strip())


def _check_order(text: str) -> None:
    """Raise the fault of a constraint that begins with its number, with the remedy of turning it round."""
    match = _REVERSED.fullmatch(text)
    if match is None or match[1] in OBJECTIVES or match[3] not in OBJECTIVES:
        return
    number, sign, metric, upper, second = match.groups()
    turned = f"`{metric} {'>' if sign == '<' else '<'}= {number}`"
    if upper:
        raise fault("bounds on both sides are two constraints", f"write {turned} and `{metric} {upper}= {second}`")
    raise fault("a constraint begins with its metric", f"write {turned}")


def _example(metric: str) -> str:
    fraction = metric.endswith("accuracy")
    return f"{metric} >= 0.8" if fraction else f"{metric} <= {'40M' if metric in COUNTED else '2.5'}"


ConstraintText = Annotated[
    Constraint,
    BeforeValidator(_parsed),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["macs <= 40M"], "pattern": r"^\s*[\w.]+\s*(<=|>=)\s*\S+\s*$"}),
]
"""`METRIC <= NUMBER` or `METRIC >= NUMBER`."""
