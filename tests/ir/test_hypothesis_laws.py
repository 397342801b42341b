"""The strategy for generated networks, and the round trip under hypothesis."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from nasir.ir import Graph, parse
from nasir.testing import random_graphs

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
@hypothesis.given(random_graphs(steps=6))
def test_text_and_json_read_back_equal(graph: Graph) -> None:
    assert parse(graph.to_text()) == graph
    assert Graph.from_json(graph.to_json()) == graph


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@hypothesis.given(random_graphs(steps=6), st.data())
def test_regions_without_a_node_are_dropped_and_no_others(graph: Graph, data: Any) -> None:
    draft = graph.draft()
    paths = ["s1.0.deep", "s1.01", "s", "s1.0.conv", "image", "none.at.all", ""]
    for path in data.draw(st.lists(st.sampled_from(paths), unique=True)):
        draft.region(path, "branch")
    draft.remove(data.draw(st.sets(st.sampled_from(sorted(graph.nodes)))))
    if data.draw(st.booleans()):
        draft.remove([node_id for node_id, node in draft.nodes.items() if node.label.startswith("s1.0.")])
    labels = [node.label for node in draft.nodes.values()]
    expected = [path for path in draft.regions if any(label.startswith(f"{path}.") for label in labels)]
    draft.drop_empty_regions()
    assert list(draft.regions) == expected


def test_importing_the_test_tools_needs_neither_hypothesis_nor_pytest_nor_torch() -> None:
    code = "import sys, nasir.testing; print({'hypothesis', 'pytest', '_pytest', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
