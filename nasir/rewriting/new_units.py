"""How new units of widened spaces start, for every pass that widens.

Copies are Net2WiderNet (Chen, Goodfellow & Shlens, Net2Net, arXiv:1511.05641, section 2.2); pairs are the V V / Z -Z
scheme of variance transfer (Yuan, Savarese & Maire, arXiv:2306.12700).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Ge

from nasir.ir import Atom, Draft
from nasir.ir.graph import Claim
from nasir.options import Remedy
from nasir.rewriting.evidence import Evidence

How: TypeAlias = Literal["replicate", "fresh", "paired"]
Symmetry: TypeAlias = Literal["noise", "none"]
Noise: TypeAlias = Annotated[float, Ge(0), Remedy("0.01 is usual")]
Order: TypeAlias = Literal["circular", "random"]


def check_symmetry(how: How, noise: float, symmetry: Symmetry) -> None:
    """Raises ValueError unless something separates copies, or the options say that they shall stay equal."""
    if how != "replicate":
        if noise:
            raise ValueError(f"noise separates copies, and how: {how} makes none; leave it out")
        return
    if symmetry == "noise" and not noise:
        raise ValueError(
            "copies of units get equal gradients and never separate: give noise (0.01 is usual), or symmetry: none "
            "where dropout or something else separates them"
        )
    if symmetry == "none" and noise:
        raise ValueError(f"symmetry: none and noise {noise} exclude each other; leave one of them out")


def widen(
    draft: Draft, sizes: Mapping[Atom, int], how: How, seen: Evidence, *, noise: float = 0.0, order: Order = "circular"
) -> None:
    """Grow spaces to `sizes` and claim what that does to the function; spaces that keep their size stay as they are."""
    grown = {space: size for space, size in sizes.items() if size > space.size}
    for space, size in grown.items():
        added = np.full(size - space.size, -1)
        if how == "replicate":
            everyone = np.arange(space.size)
            added = (
                np.resize(everyone, len(added))
                if order == "circular"
                else seen.rng(f"widen {space.name}").integers(0, space.size, len(added))
            )
        index = np.concatenate([np.arange(space.size), added])
        draft.select(space, index, noise=noise, paired=how == "paired")
    draft.claim(claim_of(grown, how, noise))


def claim_of(spaces: Iterable[Atom], how: How, noise: float) -> Claim:
    """Exact, unless something normalizes over a space, which new units then disturb, or noise was asked for."""
    if any(space.mixed for space in spaces):
        return "no"
    return "approximate" if noise and how == "replicate" else "exact"
