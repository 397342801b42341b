"""`torch.compile` of block regions: one compilation for each block shape, none when a known shape is added.

Blocks of equal structure share a code object (`lower.BlockCode`), so the compiler's cache of one serves all. Whole
networks are not compiled: each growth step would then cost a full recompilation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from nasir.backends.torch.lower.module import LoweredModule
from nasir.errors import NasirError, OutOfMemory

WARM, TIMED = 2, 3  # steps before the clock counts (the first of them compile), and steps it counts
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

    def compile(self, model: LoweredModule) -> None:
        """Let every block that is not compiled yet run through the compiler; known shapes cost nothing."""
        for block in model.units.values():
            if "forward" not in block.__dict__:
                # dynamic=False: with symbolic shapes the first pruned block cost 7.9 s instead of 2.5 s
                block.__dict__["forward"] = torch.compile(block.forward, backend=self._counted, dynamic=False)

    def release(self, model: LoweredModule) -> None:
        """Let the blocks run as they are again; what was compiled is kept for another time."""
        for block in model.units.values():
            block.__dict__.pop("forward", None)


class Compilation:
    """Whether the blocks of a session's network run compiled, now (`on`) and at all (`compiler`)."""

    def __init__(self, wanted: str | bool) -> None:
        self.compiler = BlockCompiler() if wanted else None
        self.on = wanted == "blocks"

    def apply(self, model: LoweredModule) -> None:
        """Compile what of a network is not compiled yet, if blocks run compiled."""
        if self.compiler is not None and self.on:
            self.compiler.compile(model)

    def switch(self, model: LoweredModule, on: bool) -> None:
        """Let the blocks run compiled, or not."""
        self.on = on
        if self.compiler is not None and not on:
            self.compiler.release(model)
        self.apply(model)

    def eagerly(self) -> AbstractContextManager[object]:
        """For one probe batch, of a size that nothing else has: it is not worth compiling blocks for."""
        if self.compiler is None:
            return nullcontext()
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance


@dataclass(frozen=True, slots=True)
class CompileChoice:
    """Whether blocks run compiled, by the median milliseconds of a step each way; `compiled_ms` is None where compiled
    blocks do not work, and `why` says so."""

    compiled: bool
    eager_ms: float
    compiled_ms: float | None
    why: str = ""

    def record(self) -> dict[str, Any]:
        """For the journal."""
        return {name: value for name, value in asdict(self).items() if value != ""}

    @classmethod
    def measured(cls, seconds: Callable[[bool], float], put_back: Callable[[], None]) -> CompileChoice:
        """The faster way; `seconds(compiled)` times a step, `put_back` undoes what that trained.

        Whatever stops the compiler, memory that it lacks too, is a reason to do without. What else nasir refuses is
        raised.
        """
        eager = seconds(False)
        put_back()
        why, compiled = "", None
        try:
            compiled = seconds(True)
        except OutOfMemory as error:
            why = str(error)
        except NasirError:
            raise
        except Exception as error:  # torch's compiler, and the C++ or Triton compiler behind it, fail in many ways
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        put_back()  # after the error is gone, and with it what it held of the device's memory
        if compiled is None:
            return cls(False, _ms(eager), None, why)
        return cls(compiled < eager, _ms(eager), _ms(compiled))


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def step_seconds(train: Callable[[int, Callable[[], bool]], object], wait: Callable[[], None]) -> float:
    """Median seconds of a training step. `train(epoch, stop)` trains an epoch or until `stop()` after a step is true;
    `wait` waits for the device."""
    taken: list[float] = []
    epoch = 0
    while len(taken) < WARM + TIMED:
        marks = [time.perf_counter()]

        def lap(marks: list[float] = marks, before: int = len(taken)) -> bool:
            wait()
            marks.append(time.perf_counter())
            return before + len(marks) - 2 >= WARM + TIMED

        train(epoch, lap)
        steps = [end - begin for begin, end in pairwise(marks)]
        taken += steps[1:] or steps  # the first one also draws the epoch
        epoch += 1
    return statistics.median(taken[WARM:])
