"""Whether a network and the data that it is to learn go together."""

from __future__ import annotations

from nasir.backends.torch.data.batches import BatchSource
from nasir.errors import DataError
from nasir.ir import Graph, Port


def check_fit(graph: Graph, source: BatchSource, dataset: str) -> None:
    """The network takes the data's shape and has one output for each class; else DataError. `dataset` is its name."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DataError(
            f"training needs a network with one input and one output, this one has {len(graph.inputs)} and "
            f"{len(graph.outputs)}"
        )
    wanted = graph.infer.types[Port(graph.inputs[0])].shape
    if wanted != source.shape:
        raise DataError(
            f"input: the network takes {list(wanted)}, data set {dataset!r} has examples of "
            f"{list(source.shape)}; change `input:` (or `data.options.pad_to`)"
        )
    classes = graph.infer.types[graph.outputs[0]].shape
    known = len(source.class_names)
    if classes != (known,):
        raise DataError(
            f"classifier: the network gives {list(classes)} logits, data set {dataset!r} has "
            f"{known} classes; set `classes: {known}`"
        )
