"""`torch.compile` of block regions: one compilation for each block shape, none when a known shape is added.

Blocks of equal structure share a code object (`lower.BlockCode`), so the compiler's cache of one serves all. Whole
networks are not compiled: each growth step would then cost a full recompilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from nasir.backends.torch.model import Model

SHAPES = 512  # distinct compiled shapes before torch would silently fall back to eager; its default is 8


class BlockCompiler:
    """Compiles the blocks of a model and counts the graphs the compiler was asked for."""

    def __init__(self, backend: str = "inductor") -> None:
        self.graphs = 0
        self._inner: Callable[..., Any] = torch._dynamo.lookup_backend(backend)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
        torch._dynamo.config.accumulated_recompile_limit = max(
            torch._dynamo.config.accumulated_recompile_limit, 4 * SHAPES
        )

    def _counted(self, graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        self.graphs += 1
        return self._inner(graph, inputs, **options)

    def compile(self, model: Model) -> None:
        """Let every block that is not compiled yet run through the compiler; known shapes cost nothing."""
        for block in model.units.values():
            if "forward" not in block.__dict__:
                # dynamic=False: with symbolic shapes the first pruned block cost 7.9 s instead of 2.5 s
                block.__dict__["forward"] = torch.compile(block.forward, backend=self._counted, dynamic=False)
