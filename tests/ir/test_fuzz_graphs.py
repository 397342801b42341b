"""Graphs as JSON and text, made of good ones by mutation: each is a graph, or refused; nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzzing import fuzz, mutate_bytes, mutate_text, mutate_tree, mutated, mutations, unprintable

from nasir.cli.main import main
from nasir.ir import Graph, parse
from nasir.spec.network import build
from nasir.testing import random_graph, varied_graph

pytestmark = pytest.mark.slow

GRAPHS = [build("specs/quickstart.yaml"), *(make(seed) for make in (random_graph, varied_graph) for seed in range(4))]


def used(graph: Graph) -> None:
    """What can be asked of a graph without its weights."""
    graph.cost()
    repr(graph)
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    assert parse(graph.to_text()) == graph


def test_fuzz_graphs_as_data() -> None:
    cases = mutated([graph.to_json() for graph in GRAPHS], mutate_tree, mutations(300), seed=1)
    taken, refused = fuzz(lambda data: used(Graph.from_json(data)), cases)
    assert taken and refused


def test_fuzz_graphs_as_text() -> None:
    cases = mutated([graph.to_text() for graph in GRAPHS], mutate_text, mutations(300), seed=2)
    taken, refused = fuzz(lambda text: used(parse(text)), cases)
    assert taken and refused


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_fuzz_graph_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    file = tmp_path / f"graph{suffix}"

    def show(data: bytes) -> None:
        file.write_bytes(data)
        code = main(["show", str(file)])
        told = capsys.readouterr().err
        wrong = [line for line in told.splitlines() if not line.startswith("note: ")]
        assert code == (2 if wrong else 0) and unprintable(told) is None

    texts = [json.dumps(graph.to_json()) if suffix == ".json" else graph.to_text() for graph in GRAPHS[:3]]
    fuzz(show, mutated([text.encode() for text in texts], mutate_bytes, mutations(150), seed=3))
