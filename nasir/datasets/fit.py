"""Whether a network and the data that it is to learn go together."""

from __future__ import annotations

from collections.abc import Sequence

from nasir.errors import DataError
from nasir.ir import Graph, Port


def check_fit(graph: Graph, shape: Sequence[int] | None, class_names: Sequence[str], dataset: str) -> None:
    """The network takes examples of `shape` (None: not known) and has one output for each class; else DataError.

    `dataset` is the name of the data set.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DataError(
            f"training needs a network with one input and one output, this one has {len(graph.inputs)} and "
            f"{len(graph.outputs)}"
        )
    wanted = graph.infer.types[Port(graph.inputs[0])].shape
    if shape is not None and wanted != tuple(shape):
        raise DataError(
            f"input: the network takes {list(wanted)}, data set {dataset!r} has examples of "
            f"{list(shape)}; change `input:` (or `data.options.pad_to`)"
        )
    classes = graph.infer.types[graph.outputs[0]].shape
    known = len(class_names)
    if classes != (known,):
        few = f" ({', '.join(class_names)})" if known <= 20 else ""
        raise DataError(
            f"classifier: the network gives {list(classes)} logits, data set {dataset!r} has "
            f"{known} classes{few}; set `classes: {known}`"
        )
