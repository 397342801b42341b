"""A pass with options of every kind, registered for the tests of the spec only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest

from nasir.registry import passes


@dataclass(frozen=True)
class Trial:
    """Change something, for the tests.

    Further lines are not part of a schema's description.
    """

    init: Literal["zero", "gaussian"] = "zero"
    count: int = 1
    std: float = 1.0
    exact: bool = False
    widths: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    limit: int | None = None
    start: Literal["mean"] | float = "mean"
    template: Mapping[str, Any] | None = None
    note: Annotated[str, "free text"] = ""
    seen: int = field(default=0, init=False)
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")


@dataclass(frozen=True)
class Needy:
    """A pass that cannot do without its option."""

    fraction: float


@pytest.fixture(autouse=True, scope="session")
def trial_passes() -> None:
    passes.register("try-this")(Trial)
    passes.register("try-needy")(Needy)
