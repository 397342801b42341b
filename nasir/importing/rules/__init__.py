"""Which recorded calls are ops of nasir: a rule for each operation gives the node's op and attributes, or None."""

from nasir.importing.rules import (
    activations,
    arithmetic,
    casts,
    convolutions,
    dropping,
    embeddings,
    functional,
    norms,
    parts,
    pools,
    reductions,
    resizing,
    shapes,
    shuffles,
)
from nasir.importing.rules.place import Place, Typed, typed

__all__ = [
    "Place",
    "Typed",
    "activations",
    "arithmetic",
    "casts",
    "convolutions",
    "dropping",
    "embeddings",
    "functional",
    "norms",
    "parts",
    "pools",
    "reductions",
    "resizing",
    "shapes",
    "shuffles",
    "typed",
]
