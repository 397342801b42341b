"""What a choice can be: alternatives by id, whole numbers or numbers; the names and limits are those of Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | float | str | None
"""Of a choice: a number, the scalar that was chosen, or the id of a mapping or list."""


@dataclass(frozen=True, slots=True)
class Options:
    """Alternatives by id, in the order written: scalars stand for themselves."""

    ids: tuple[Value, ...]

    kind = "categorical"

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.ids)

    def accept(self, value: Any) -> Value:
        """The id that equals `value`; raises ValueError for anything else."""
        for known in self.ids:
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return known
        raise ValueError(f"one of {', '.join(map(shown, self.ids))}")

    def at(self, number: int) -> Value:
        """The value of that number, from 0."""
        return self.ids[number]

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, "ids": list(self.ids)}

    def __str__(self) -> str:
        return " | ".join(map(shown, self.ids))


@dataclass(frozen=True, slots=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included, every `step`; `log`: sampled evenly by their logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    kind = "int"

    @property
    def size(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def accept(self, value: Any) -> int:
        """`value` if it is one of these; raises ValueError for anything else."""
        fine = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        if not fine or (value - self.low) % self.step:
            raise ValueError(f"a whole number, {_range(self.low, self.high, self.step if self.step > 1 else None)}")
        return int(value)

    def at(self, number: int) -> int:
        """The value of that number, from 0, rising."""
        return self.low + number * self.step

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, "low": self.low, "high": self.high, "step": self.step, "log": self.log}

    def __str__(self) -> str:
        step = f" step {self.step}" if self.step > 1 else ""
        return f"int {self.low}..{self.high}{step}{' log' if self.log else ''}"


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Numbers from `low` to `high`, both included; with `step` only low, low + step, ..., high."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    kind = "float"

    @property
    def size(self) -> int | None:
        """How many values there are, None for a continuum."""
        return None if self.step is None else int(_exact(self.high, self.low) / Decimal(str(self.step))) + 1

    def accept(self, value: Any) -> float:
        """`value` if it is one of these, without the rounding error of low + k * step; raises ValueError otherwise."""
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        if fine and self.step is None and self.low <= value <= self.high:
            return float(value)
        if fine and self.step is not None and self.size is not None:
            number = round((value - self.low) / self.step) if abs(value) < 2**63 else -1
            if 0 <= number < self.size and abs(self.at(number) - value) <= 1e-9 * max(abs(value), self.step):
                return self.at(number)
        raise ValueError(f"a number, {_range(self.low, self.high, self.step)}")

    def at(self, number: int) -> float:
        """The value of that number, from 0, rising; only with a `step`."""
        return float(Decimal(str(self.low)) + number * Decimal(str(self.step)))

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {"kind": self.kind, "low": self.low, "high": self.high, "step": self.step, "log": self.log}

    def __str__(self) -> str:
        step = f" step {shown(self.step)}" if self.step is not None else ""
        return f"float {shown(self.low)}..{shown(self.high)}{step}{' log' if self.log else ''}"


Domain: TypeAlias = Options | IntRange | FloatRange


def values_of(domain: Domain) -> Iterator[Value]:
    """Every value of a finite domain, in order; raises ValueError for a continuum."""
    if domain.size is None:
        raise ValueError(f"{domain} has no end of values")
    yield from map(domain.at, range(domain.size))


def domain_of(data: dict[str, Any]) -> Domain:
    """The domain that `data()` came from."""
    if data["kind"] == Options.kind:
        return Options(tuple(data["ids"]))
    made = IntRange if data["kind"] == IntRange.kind else FloatRange
    return made(data["low"], data["high"], data["step"], data["log"])


def divides(low: float, high: float, step: float) -> bool:
    """Whether `high` is one of low, low + step, ..., in decimal arithmetic as written."""
    return _exact(high, low) % Decimal(str(step)) == 0


def last_step(low: float, high: float, step: float) -> float:
    """The last of low, low + step, ... that is not above `high`."""
    return float(Decimal(str(low)) + _exact(high, low) // Decimal(str(step)) * Decimal(str(step)))


def _exact(high: float, low: float) -> Decimal:
    return Decimal(str(high)) - Decimal(str(low))


def _range(low: float, high: float, step: float | None) -> str:
    return f"{shown(low)} to {shown(high)}" + (f" in steps of {shown(step)}" if step is not None else "")


def shown(value: Value) -> str:
    """A value as a spec would write it; 1.0 as 1."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")
