"""Numbers of things in words: `1 trial`, `20 trials`."""

from __future__ import annotations

__all__ = ["counted"]

GROUPED = 10_000  # numbers from here on have their thousands set apart


def counted(number: float, noun: str) -> str:
    """The number with its noun, given in the singular: `1 epoch`, `0 epochs`, `2600 epochs`, `12,000 epochs`."""
    shown = f"{number:,}" if number >= GROUPED else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"
