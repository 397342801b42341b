"""`select-blocks`: the laws of passes, on networks whose blocks were put away before."""

from __future__ import annotations

from collections.abc import Iterable

from grown import pyramid
from made_records import made

from nasir.ir import Graph
from nasir.passes.keep_blocks import KeepBlocks
from nasir.passes.select_blocks import SelectBlocks
from nasir.rewriting.evidence import Evidence
from nasir.testing import PassContract, random_weights


class TestSelectBlocks(PassContract):
    make = staticmethod(lambda: SelectBlocks(weights="fresh"))
    whole = pyramid((2, 3), 4, size=8)

    def graphs(self) -> Iterable[Graph]:
        return [self._reduced()[0]]

    def evidence(self, graph: Graph) -> Evidence:
        return Evidence(history=[made("rewrite", {"noted": self._reduced()[1]})])

    def _reduced(self) -> tuple[Graph, dict[str, object]]:
        graph = self.whole
        weights = {f"{graph.nodes[key.node].label}.{key.slot}": w for key, w in random_weights(graph, 0).items()}
        rewrite = KeepBlocks(archive=True).attempt(graph, "network", Evidence({"weights": weights}))
        return rewrite.graph, dict(rewrite.noted)


class TestSelectBlocksWithWeights(TestSelectBlocks):
    make = staticmethod(lambda: SelectBlocks())
