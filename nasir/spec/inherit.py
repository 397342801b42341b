"""`network: {from: run}`: the network of another run's last checkpoint, and where its weights lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from nasir.branching.merging import is_dense
from nasir.errors import NasirError
from nasir.ir import Draft, Graph, Port
from nasir.journal.directory import RunDirectory
from nasir.journal.log import effective
from nasir.records import CheckpointRecord, NetworkRecord
from nasir.spec.model import Spec
from nasir.spec.model_source import RunNetwork
from nasir.training.manifest import MANIFEST, manifest_digest, read_manifest


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
    try:
        run = RunDirectory.open(network.run)
        contents = run.contents().sound()
        records = effective(contents.records)
        newest = None
        digest = None
        for record in records:
            if isinstance(record, NetworkRecord):
                digest = record.graph
            elif isinstance(record, CheckpointRecord) and (run.path / record.path / MANIFEST).is_file():
                newest = (run.path / record.path, digest)
        if network.weights == "none" and digest is not None:
            newest = (run.path, digest)
        if newest is None or newest[1] is None:
            raise spec.problem(path, f"{run.path} has no checkpoint yet", "wait for its first, or `weights: none`")
        if network.weights != "none":
            contents.chain.check(read_manifest(newest[0])["meta"], newest[0])
            manifest = manifest_digest(newest[0])
        graph = Graph.from_json(run.get_blob(newest[1]))
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
    if network.weights == "none":
        return Inherited(graph, None, None, renewed)
    return Inherited(graph, newest[0], manifest, renewed)


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
