"""`network: {from: run}`: the network of another run's last checkpoint, and where its weights lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from nasir.branching.merging import is_dense
from nasir.errors import NasirError
from nasir.ir import Draft, Graph, Port
from nasir.journal.directory import RunDirectory
from nasir.journal.trained import newest_network, trained_network
from nasir.spec.model import Spec
from nasir.spec.model_source import RunNetwork


@dataclass(frozen=True, slots=True)
class Inherited:
    """The graph; the checkpoint (None without weights), the SHA-256 of its manifest; labels of renewed classifiers."""

    graph: Graph
    checkpoint: File | None
    manifest: str | None
    renewed: tuple[str, ...]

    def record(self, network: RunNetwork) -> dict[str, Any]:
        """What the journal says of it."""
        step = None if self.checkpoint is None else self.checkpoint.name
        return {"run": network.run, "weights": network.weights, "checkpoint": step, "manifest": self.manifest}


def inherited(spec: Spec) -> Inherited:
    """Read the run that the spec's network comes from; raises SpecError at its line where that cannot be."""
    network = spec.network
    assert isinstance(network, RunNetwork)
    path = ("network", "run")
    remedy = "run its spec first, or correct `run:` (relative to the spec, or else to the current folder)"
    checkpoint: File | None = None
    manifest: str | None = None
    try:
        run = RunDirectory.open(network.run)
        if network.weights == "none":
            digest = newest_network(run.effective())
            if digest is None:
                raise spec.problem(path, f"{run.path} tells of no network yet", "wait until it has begun")
            graph = Graph.from_json(run.get_blob(digest))
        else:
            known = trained_network(run)
            if known is None:
                raise spec.problem(path, f"{run.path} has no checkpoint yet", "wait for its first, or `weights: none`")
            graph, checkpoint, manifest = known.graph, known.checkpoint, known.manifest
    except (NasirError, OSError) as error:
        if str(error).startswith(spec.locate(path)):
            raise
        raise spec.problem(path, str(error).partition(";")[0], remedy) from error
    shape = graph.infer.types[Port(graph.inputs[0])].shape
    if shape != spec.input.shape:
        text = f"the network of {network.run} takes {list(shape)}, `input` is {list(spec.input.shape)}"
        raise spec.problem(path, text, "give the input that it was trained on")
    foreign = [node.label for n, node in graph.nodes.items() if node.facts.foreign and graph.infer.slots[n]]
    if network.weights == "none" and foreign:
        text = f"only the code that made the network of that run gives '{foreign[0]}' new weights"
        raise spec.problem(("network", "weights"), text, "use `weights: last`, or import the network by its code")
    renewed: tuple[str, ...] = ()
    if network.classes is not None:
        graph, renewed = with_classes(graph, network.classes, spec)
    return Inherited(graph, checkpoint, manifest, renewed)


def with_classes(graph: Graph, classes: int, spec: Spec) -> tuple[Graph, tuple[str, ...]]:
    """The network with other classifiers, and their labels; the network itself where it has so many classes."""
    if graph.infer.types[graph.outputs[0]].shape == (classes,):
        return graph, ()
    draft = Draft(graph)
    labels = []
    for node_id in _heads(graph):
        node = graph.nodes[node_id]
        if not is_dense(graph, node_id):
            text = f"its output is made by '{node.label}' ({node.op}), not by a linear layer"
            raise spec.problem(("network", "classes"), text, "remove `classes`")
        draft.set_attrs(node_id, out=classes)
        labels.append(node.label)
    return draft.commit(), tuple(labels)


def _heads(graph: Graph) -> list[int]:
    """The nodes that make the logits: behind the output, or behind the ensemble that averages them."""
    last = graph.outputs[0].node
    return [port.node for port in graph.nodes[last].inputs] if graph.nodes[last].facts.family == "ensemble" else [last]
