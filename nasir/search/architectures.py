"""The architecture cache: points whose start network and training are equal need one training between them.

Equal networks may be written in many ways, so the network counts by its structure, the rest of the spec as it is. Data
may change under one name, so what is in them counts too: see `nasir.training.backend.Session.fingerprint`.
Whether a search uses it: `Search.caches_architectures`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from nasir.ir import Graph
from nasir.running.prefixes.identity import digest
from nasir.spec import Spec, hash_code
from nasir.spec.beside import digest_of
from nasir.spec.imported import code_digests
from nasir.spec.inherit import inherited
from nasir.spec.model_source import ImportedNetwork, RunNetwork, is_file
from nasir.spec.network import initial_plan

ATTRIBUTE = "architecture"  # user attribute of a trial that holds its key
DATA = "data"  # the same for the fingerprint of its data; older trials have none
ASIDE = frozenset({"nasir", "name", "checkpoint", "search", "network", "blocks", "input", "plugins"})


class EndedTrial(Protocol):
    """What is read of an Optuna trial."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> Any: ...
    @property
    def user_attrs(self) -> Mapping[str, Any]: ...


Known = TypeVar("Known", bound=EndedTrial)


def key(spec: Spec, graph: Graph) -> str:
    """SHA-256 of all that the result of a spec depends on; `graph` is its start network.

    Of the network count structure, initializers, regions with their templates, and what is frozen; names of nodes and
    regions only where the phases mention one, as in `where: {stages: [s1]}`. Seeds count. The random numbers of equal
    networks may differ all the same, as those of another seed do: they go by the order a network is written in.
    """
    resolved = {name: value for name, value in spec.resolved().items() if name not in ASIDE}
    number = {node_id: index for index, node_id in enumerate(graph.order)}
    sources = [[number[node_id], slot, source] for node_id, slot, source in initial_plan(graph, spec).to_json()]
    regions = [
        [region.kind, region.template, [number[node_id] for node_id in graph.members(region.path)]]
        for region in sorted(graph.regions.values(), key=lambda region: number[graph.members(region.path)[0]])
    ]
    labels = [graph.nodes[node_id].label for node_id in graph.order]
    named = not _words(resolved["phases"]).isdisjoint(label.partition(".")[0] for label in labels)
    return digest(
        {
            "spec": resolved,
            "graph": graph.digest,
            "sources": sorted(sources, key=lambda source: source[:2]),
            "regions": regions,
            "frozen": [graph.is_frozen(node_id) for node_id in graph.order],
            "labels": labels if named else None,
            "weights": _weights(spec),
            "plugins": [plugin.sha256 for plugin in hash_code(spec)],
        }
    )


def lookup(trials: Iterable[Known], wanted: str, fingerprint: Callable[[], str]) -> Known | None:
    """The first COMPLETE trial of that key and of the same data; `fingerprint`, which reads them, is asked only where
    there may be one."""
    complete = (trial for trial in trials if trial.state.name == "COMPLETE" and DATA in trial.user_attrs)
    equal = [trial for trial in complete if trial.user_attrs.get(ATTRIBUTE) == wanted]
    data = fingerprint() if equal else None
    return min((trial for trial in equal if trial.user_attrs[DATA] == data), key=lambda t: t.number, default=None)


def _weights(spec: Spec) -> Any:
    """Where the weights that the network starts from come from, if nasir does not draw them itself."""
    network = spec.network
    if isinstance(network, RunNetwork):
        return [inherited(spec).manifest, network.weights]
    if isinstance(network, tuple):
        return None
    weights = network.weights
    if weights is not None and is_file(weights):
        weights = digest_of(weights)
    if isinstance(network, ImportedNetwork):
        told = [network.model, weights]
        return told if network.is_preset else [network.source, *told, network.args, network.classes]
    return [network.plain()["module"].rpartition("/")[2], weights, network.args, code_digests(network)]


def _words(value: Any) -> set[str]:
    """First parts of everything that could be a label, in plain data."""
    return {part for text in _texts(value) for part in re.split(r"[^A-Za-z0-9_]+", text)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
