"""The residual analysis of a run, of the network that a spec begins with, or of a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasir.analysis.contributions import ResidualAnalysis, Statistics
from nasir.errors import UsageError
from nasir.figures.kept import checkpoint_after
from nasir.files import canonical_json, write_atomically
from nasir.ir import Graph, Port
from nasir.journal.directory import RunDirectory
from nasir.running.engine import setup_of, start_of
from nasir.running.modules import beginning, module_behind
from nasir.running.replay import reopen
from nasir.spec import Spec
from nasir.spec.network import initial_plan
from nasir.training.backend import DEFAULT_BACKEND, Setup, Start, make_backend
from nasir.training.data import DataPlan
from nasir.transfer import Key, TransferPlan


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure: `samples` of the training data, or of `synthetic` ones; the expansion up to order `orders`.

    `statistics`: by which batch norms normalize; None: the running ones, those of the batch for fresh weights.
    """

    samples: int = 64
    synthetic: bool = False
    statistics: Statistics | None = None
    orders: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("batch", self.samples, 2), ("orders", self.orders, 0)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}: too few; give at least {least}")

    def of(self, setup: Setup, graph: Graph) -> Setup:
        """The settings of a session that measures this of a network."""
        data = synthetic_like(graph, self.samples, setup.seed) if self.synthetic else setup.data
        return replace(setup, data=data, probe=self.samples, compile=False)

    def told(self, data: DataPlan) -> str:
        """The data, in words."""
        return "synthetic images" if self.synthetic else f"training examples of {data.dataset}"


@dataclass(frozen=True, slots=True)
class Analyzed:
    """An analysis, the network that it is of, and epochs that it was trained for (None: it is of no run)."""

    analysis: ResidualAnalysis
    graph: Graph
    epoch: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {"graph": self.graph.digest, "epoch": self.epoch, **self.analysis.to_json()}


def analyze_run(run: RunDirectory, wanted: Wanted) -> Analyzed:
    """The network of the newest checkpoint of a run, with the weights that the run evaluates: their moving average in a
    phase that has one."""
    spec, env = reopen(run)
    kept = checkpoint_after(run, None)
    average = any(phase.name == kept.phase and phase.ema is not None for phase in spec.phases)
    setup = wanted.of(setup_of(spec, Path(env["base"]), module_behind(spec, kept.graph)), kept.graph)
    weights = f"{'moving average of the weights' if average else 'weights'} after epoch {kept.epoch}"
    start = Start(kept.path, average)
    found = _measured(spec.backend, setup, kept.graph, initial_plan(kept.graph, spec), start, wanted, "running")
    return Analyzed(replace(found, weights=weights, data=wanted.told(setup.data)), kept.graph, kept.epoch)


def analyze_spec(spec: Spec, wanted: Wanted, notice: Callable[[str], None] = lambda text: None) -> Analyzed:
    """The network that a spec begins with, with the weights that it begins with."""
    begun = beginning(spec, notice)
    graph = begun.graph
    setup = wanted.of(setup_of(spec, spec.source.resolve().parent, begun.module), graph)
    start = start_of(spec, begun.source)
    fresh = start is None and setup.weights is None and setup.module is None
    weights = f"fresh weights of seed {spec.seed}" if fresh else "weights that the run begins with"
    usual: Statistics = "batch" if fresh else "running"
    found = _measured(spec.backend, setup, graph, initial_plan(graph, spec), start, wanted, usual)
    return Analyzed(replace(found, weights=weights, data=wanted.told(setup.data)), graph)


def analyze_graph(graph: Graph, wanted: Wanted) -> Analyzed:
    """A network with fresh weights, on synthetic data."""
    wanted = replace(wanted, synthetic=True)
    setup = wanted.of(Setup(DataPlan("synthetic"), Path(), seed=0), graph)
    plan = TransferPlan({Key(n, name): slot.init for n, own in graph.infer.slots.items() for name, slot in own.items()})
    found = _measured(DEFAULT_BACKEND, setup, graph, plan, None, wanted, "batch")
    return Analyzed(replace(found, weights="fresh weights of seed 0", data=wanted.told(setup.data)), graph)


def store(run: RunDirectory, found: Analyzed) -> None:
    """Keep an analysis with its run, for the report."""
    write_atomically(run.residual_path, canonical_json(found.to_json()))


def _measured(
    backend: str,
    setup: Setup,
    graph: Graph,
    plan: TransferPlan,
    start: Start | None,
    wanted: Wanted,
    usual: Statistics,
) -> ResidualAnalysis:
    session = make_backend(backend).open(setup)
    try:
        session.build(graph, plan, start)
        return session.analyze_residual(wanted.statistics or usual, wanted.orders)
    finally:
        session.close()


def synthetic_like(graph: Graph, samples: int, seed: int) -> DataPlan:
    """Synthetic data that fit a network; UsageError where there are none."""
    shape, ends = (graph.infer.types[port].shape for port in (Port(graph.inputs[0]), graph.outputs[0]))
    if len(shape) == 3 and shape[1] == shape[2]:
        options = {"channels": shape[0], "size": shape[1]}
    elif len(shape) == 1:
        options = {"features": shape[0]}
    else:
        raise UsageError(f"synthetic data are square images or vectors, and the network takes {list(shape)}")
    if len(ends) != 1:
        raise UsageError(f"synthetic data have classes, and the network gives {list(ends)}, not a number for each")
    options |= {"classes": ends[0], "train": max(samples, ends[0]), "seed": seed}
    return DataPlan("synthetic", options, seed=seed)
