"""The data sets that are made, or come with a package: `synthetic` and `digits`, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasir.datasets.options import read_options
from nasir.errors import DataError

_Array = np.ndarray[Any, Any]
DIGITS = tuple(str(digit) for digit in range(10))
DIGITS_SHAPE = (1, 8, 8)


def digits_arrays() -> tuple[_Array, _Array]:
    """The images of scikit-learn, uint8 [1797, 1, 8, 8], and their labels, int64."""
    from sklearn.datasets import load_digits  # a heavy import that only this data set needs

    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, *DIGITS_SHAPE) * (255 / 16)).astype(np.uint8), labels.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Noisy copies of one random pattern per class: images, or vectors of `features`; see the options of the set."""

    classes: int
    size: int
    channels: int
    train: int
    test: int
    seed: int
    features: int

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Synthetic:
        """What the options ask for; DataError where they are wrong."""
        defaults = {"classes": 4, "size": 8, "channels": 1, "train": 256, "test": 64, "seed": 0, "features": 0}
        chosen = read_options("synthetic", options, defaults)
        for name, value in chosen.items():
            if value < (0 if name in ("seed", "features", "test") else 1):
                raise DataError(f"data set 'synthetic': option {name!r} is {value}; give a positive whole number")
        return cls(**chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.features,) if self.features else (self.channels, self.size, self.size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"class{label}" for label in range(self.classes))

    def labels(self, count: int) -> _Array:
        """Those of so many examples, int64."""
        return np.arange(count, dtype=np.int64) % self.classes

    def values(self) -> tuple[_Array, _Array]:
        """The training and the test part: uint8 [N, C, H, W], or float32 [N, D]."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, 77))))
        patterns = random.standard_normal((self.classes, *self.shape)).astype(np.float32)
        if not self.features:
            # averaging neighbours makes patterns that survive a crop by a few pixels
            patterns = patterns + np.roll(patterns, 1, 2) + np.roll(patterns, 1, 3) + np.roll(patterns, (1, 1), (2, 3))
            patterns *= 0.5
        parts: list[_Array] = []
        for count in (self.train, self.test):
            noise = 0.5 * random.standard_normal((count, *self.shape)).astype(np.float32)
            values = patterns[self.labels(count)] + noise
            parts.append(values if self.features else np.clip(np.rint(128 + 40 * values), 0, 255).astype(np.uint8))
        return parts[0], parts[1]
