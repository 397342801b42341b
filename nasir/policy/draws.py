"""Random choices of policies: functions of a text that says what is drawn, so that a resumed run draws alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def _number(key: str) -> int:
    """64 random bits."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def index(key: str, size: int) -> int:
    """0 to size - 1, each as likely; `key` names the draw, such as "seed/epoch/rule"."""
    return _number(key) % size


def weighted(key: str, weights: Sequence[float]) -> int:
    """The index of one of the weights (each above 0), as likely as its share of their sum."""
    point = _number(key) / 2**64 * sum(weights)
    for number, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return number
    return len(weights) - 1  # what rounding leaves over
