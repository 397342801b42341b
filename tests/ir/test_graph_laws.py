"""Laws of the graph, over generated networks."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from nasir.ir import Draft, Graph, Node, Port, Region, parse
from nasir.testing import random_graph

SEEDS = range(25)


def renamed(graph: Graph, seed: int) -> Graph:
    """The same architecture under other ids, in another node order, with other labels and without regions."""
    rng = random.Random(seed)
    ids = list(graph.nodes)
    new = dict(zip(ids, rng.sample(range(5 * len(ids)), len(ids)), strict=True))
    rng.shuffle(ids)
    nodes = {}
    for node_id in ids:
        node = graph.nodes[node_id]
        inputs = tuple([Port(new[port.node], port.output) for port in node.inputs])
        nodes[new[node_id]] = Node(node.op, inputs, node.attrs, f"node{new[node_id]}")
    outputs = tuple([Port(new[port.node], port.output) for port in graph.outputs])
    return Graph(nodes, outputs, {}, 5 * len(ids))


def with_node(graph: Graph, node_id: int, node: Node) -> Graph:
    return Graph({**graph.nodes, node_id: node}, graph.outputs, graph.regions, graph.minted)


@pytest.mark.parametrize("seed", SEEDS)
def test_text_and_json_read_back_equal(seed: int) -> None:
    graph = random_graph(seed)
    assert parse(graph.to_text()) == graph
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    assert parse(graph.to_text()).to_text() == graph.to_text()


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_seeds_give_equal_graphs_and_others_others(seed: int) -> None:
    assert random_graph(seed) == random_graph(seed)
    assert random_graph(seed).digest != random_graph(seed + 1).digest


@pytest.mark.parametrize("seed", SEEDS)
def test_digest_ignores_ids_labels_and_regions(seed: int) -> None:
    graph = random_graph(seed)
    other = renamed(graph, seed)
    assert other != graph
    assert other.digest == graph.digest
    assert other.cost() == graph.cost()
    labels = [[graph.nodes[n].op for n in graph.order], [other.nodes[n].op for n in other.order]]
    assert labels[0] == labels[1], "canonical order depends on ids"


@pytest.mark.parametrize("seed", SEEDS)
def test_digest_differs_when_an_op_an_attribute_an_edge_or_the_output_does(seed: int) -> None:
    graph = random_graph(seed)
    rng = random.Random(seed)
    changed: list[Graph] = []
    relu = rng.choice([n for n, node in graph.nodes.items() if node.op == "relu"])
    changed.append(with_node(graph, relu, replace(graph.nodes[relu], op="silu")))
    norm = rng.choice([n for n, node in graph.nodes.items() if node.op == "batch_norm"])
    node = graph.nodes[norm]
    changed.append(with_node(graph, norm, replace(node, attrs={**node.attrs, "eps": 1e-3})))
    several = [n for n, node in graph.nodes.items() if len(set(node.inputs)) > 1]
    for node_id in several[:1]:
        node = graph.nodes[node_id]
        swapped = with_node(graph, node_id, replace(node, inputs=node.inputs[::-1]))
        changed.append(swapped)
    changed.append(Graph(graph.nodes, (*graph.outputs, Port(relu)), graph.regions, graph.minted))
    digests = {graph.digest, *(other.digest for other in changed)}
    assert len(digests) == 1 + len(changed)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_is_topological_and_complete(seed: int) -> None:
    graph = random_graph(seed)
    place = {node_id: index for index, node_id in enumerate(graph.order)}
    assert place.keys() == graph.nodes.keys()
    for node_id, node in graph.nodes.items():
        assert all(place[port.node] < place[node_id] for port in node.inputs)
        assert all(node_id in {port.node for port in graph.nodes[user].inputs} for user in graph.users(node_id))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_untouched_draft_commits_to_the_same_graph(seed: int) -> None:
    graph = random_graph(seed)
    assert graph.draft().commit() == graph


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_asked_of_a_draft_are_those_of_the_graph(seed: int) -> None:
    graph = random_graph(seed)
    draft = graph.draft()
    for port, value in graph.infer.types.items():
        assert draft.shape(port) == value.shape
    again = Draft()
    again.nodes, again.minted = dict(graph.nodes), graph.minted
    for port, value in graph.infer.types.items():
        assert again.shape(port) == value.shape


@pytest.mark.parametrize("seed", SEEDS)
def test_members_and_borders_of_regions_follow_labels(seed: int) -> None:
    graph = random_graph(seed, blocks=3)
    assert graph.depths() == {"s1": 3}
    assert graph.blocks_of("s1") == tuple([Region(f"s1.{n}", "block") for n in range(3)])
    for path in graph.regions:
        inside = [n for n in graph.order if graph.nodes[n].label.startswith(path + ".")]
        assert graph.members(path) == tuple(inside)
        entry, exit_ = graph.boundary(path)
        assert entry.node not in inside and exit_ in inside
    first, second = graph.blocks[:2]
    assert graph.boundary(second.path)[0] == Port(graph.boundary(first.path)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_networkx_form_has_the_same_edges(seed: int) -> None:
    graph = random_graph(seed)
    edges = sorted(
        (source, target, data["output"], data["input"]) for source, target, data in graph.to_networkx().edges(data=True)
    )
    assert edges == sorted(
        (port.node, node_id, port.output, position)
        for node_id, node in graph.nodes.items()
        for position, port in enumerate(node.inputs)
    )


def test_labels_and_templates_with_awkward_characters_survive_text() -> None:
    draft = Draft()
    draft.region('s "1"\n', "stage", {"text": 'a } "b"', "n": [1, {}]})
    x = draft.add("input", (), "x = (%1) output", shape=[3])
    draft.output(draft.add("linear", x, 's "1"\n.läbel, ', out=2))
    graph = draft.commit()
    assert parse(graph.to_text()) == graph
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_deep_and_wide_graphs_need_no_recursion() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    ends = [draft.add("linear", x, f"l{n}", out=4) for n in range(2000)]
    total = ends[-1]
    for n in reversed(range(len(ends) - 1)):  # every sum binds an older space: a chain of 2000 links
        total = draft.add("add", (ends[n], total), f"a{n}")
    dense = total
    for n in range(1500):
        dense = draft.add("concat", (dense, draft.add("linear", x, f"d{n}", out=1)), f"c{n}")
    draft.output(draft.add("linear", dense, "out", out=2))
    assert len(draft.commit().infer.spaces) == 1 + 1 + 1500 + 1
