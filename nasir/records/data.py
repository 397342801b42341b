"""What a run knows of its data: the summary that its `start` record holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["PARTS", "DataSummary"]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The data of a run: how many examples each class has in each part, what they look like, what is odd.

    `counts`: examples of each class by part (`PARTS`), in the order of `classes`. `shape`: of one example, as the
    network sees it. `sizes`: [height, width] of the `smallest`, the `median` and the `largest` image as stored; empty
    where that is not known, or nothing but `shape`. `mean` and `std`: of each channel of the training part (pixels in
    0..1), which are normalized away; empty without. `skipped`: files that were left out. `warnings`: sentences.
    """

    dataset: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    shape: tuple[int, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def total(self, part: str) -> int:
        """Examples of a part."""
        return sum(self.counts.get(part, ()))

    def to_json(self) -> dict[str, Any]:
        """As JSON data; `from_json` reads it back."""
        data: dict[str, Any] = _listed(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataSummary | None:
        """What `to_json` wrote; None where it is not that (runs of before have none)."""
        try:
            return cls(
                dataset=str(data["dataset"]),
                classes=tuple(map(str, data["classes"])),
                counts={str(part): tuple(map(int, counts)) for part, counts in data["counts"].items()},
                shape=tuple(map(int, data.get("shape", ()))),
                sizes={str(name): (int(size[0]), int(size[1])) for name, size in data.get("sizes", {}).items()},
                mean=tuple(map(float, data.get("mean", ()))),
                std=tuple(map(float, data.get("std", ()))),
                skipped=tuple(map(str, data.get("skipped", ()))),
                warnings=tuple(map(str, data.get("warnings", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return None


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(entry) for key, entry in value.items()}
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value
