"""Whether what a spec wants to be measured says anything about its network."""

from __future__ import annotations

from nasir.ir import Graph
from nasir.spec.model import Spec

LEAST = {"top5": 6}
"""Classes that a metric needs: with fewer it is 1 whatever the network does."""


def check_metrics(spec: Spec, graph: Graph) -> None:
    """Raise SpecError at the first of `data.metrics` that the network has too few classes for."""
    classes = graph.infer.types[graph.outputs[0]].shape[-1]
    for number, name in enumerate(spec.data.metrics or ()):
        if classes < LEAST[name]:
            raise spec.problem(
                ("data", "metrics", number),
                f"{name} is always 1 with {classes} classes",
                f"leave it out, or use data of {LEAST[name]} classes or more",
            )
