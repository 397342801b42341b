"""The strategy for generated networks, and the round trip under hypothesis."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nasir.ir import Graph, parse
from nasir.testing import random_graphs

hypothesis = pytest.importorskip("hypothesis")


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
@hypothesis.given(random_graphs(steps=6))
def test_text_and_json_read_back_equal(graph: Graph) -> None:
    assert parse(graph.to_text()) == graph
    assert Graph.from_json(graph.to_json()) == graph


def test_importing_the_test_tools_needs_neither_hypothesis_nor_pytest_nor_torch() -> None:
    code = "import sys, nasir.testing; print({'hypothesis', 'pytest', '_pytest', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
