"""Whether a network and the data that it is to learn go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nasir.errors import DataError
from nasir.ir import Graph, Port
from nasir.ir.space import size_of


class Misfit(NamedTuple):
    """What does not go together: the key of a spec that is to blame, a sentence, and the remedy."""

    key: str
    text: str
    remedy: str


def misfits(graph: Graph, shape: Sequence[int] | None, class_names: Sequence[str], dataset: str) -> Iterator[Misfit]:
    """Whether the network takes examples of `shape` (None: not known) and has one output for each class.

    `dataset` is the name of the data set.
    """
    if len(graph.inputs) != 1 or len(graph.answers) != 1:
        sides = f"{len(graph.inputs)} and {len(graph.answers)}"
        text = f"training needs a network with one input and one output, this one has {sides}"
        yield Misfit("network", text, "give it one of each")
        return
    wanted = graph.infer.types[Port(graph.inputs[0])].shape
    if shape is not None and wanted != tuple(shape):
        text = f"the network takes {list(wanted)}, data set {dataset!r} has examples of {list(shape)}"
        yield Misfit("input", text, "change `input:` (or `data.options.pad_to`)")
    classes = graph.infer.types[graph.outputs[0]].shape
    known = len(class_names)
    if classes != (known,):
        few = f" ({', '.join(class_names)})" if known <= 20 else ""
        text = f"the network gives {list(classes)} logits, data set {dataset!r} has {known} classes"
        last = graph.nodes[graph.outputs[0].node].label
        remedy = f"set `classes: {known}`{few}, or `out: {known}` where the last layer, '{last}', is no classifier, or "
        remedy += "the `args:` of a module of yours"
        yield Misfit("classifier", text, remedy)


def check_fit(graph: Graph, shape: Sequence[int] | None, class_names: Sequence[str], dataset: str) -> None:
    """Raise DataError at the first of the `misfits`."""
    for key, text, remedy in misfits(graph, shape, class_names, dataset):
        raise DataError(f"{key}: {text}; {remedy}")


def lone_norms(graph: Graph, frozen: Sequence[str] = ()) -> tuple[str, ...]:
    """Labels of the nodes that cannot train with a batch of one example: they normalize over the batch, and have one
    number a channel for each example, so that the variance is 0. Not those that are frozen, here or below `frozen`."""
    return tuple(
        node.label
        for node_id, node in graph.nodes.items()
        if node.facts.family == "norm"
        and "momentum" in node.attrs
        and (read := graph.infer.types[node.inputs[0]]).entries == size_of(read.channels)
        and not graph.is_frozen(node_id)
        and not graph.below(node_id, frozen)
    )


LONE = "a batch of one example has one number a channel there, whose variance is 0, and '{}' divides by it in training"
LONE_REMEDY = "raise `batch_size`, or put group_norm or layer_norm there"
"""What is wrong with a batch of one in front of the first of the `lone_norms`."""
