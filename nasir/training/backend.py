"""What the engine asks of a backend. Nothing here knows about torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nasir.analysis.contributions import ResidualAnalysis, Statistics
from nasir.analysis.roofline import DeviceProfile
from nasir.errors import NasirError
from nasir.ir import Graph
from nasir.records.data import DataSummary
from nasir.registry import backends
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Refresh, Rewrite, Settle
from nasir.training.modules import ImportedModule
from nasir.training.plans import DataPlan, TrainPlan
from nasir.transfer import TransferPlan


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a session needs that does not change between phases."""

    data: DataPlan
    base: Path  # folder that relative paths of the spec refer to
    seed: int
    device: str = "auto"
    precision: str = "auto"
    channels_last: bool | str = "auto"
    compile: str | bool = False  # False, "blocks", or "auto": measured when a phase begins
    deterministic: bool = False
    probe: int = 64  # samples whose logits measure the effect of a rewrite
    weights: tuple[str, str] | None = None  # (model, published weights or a file) that a new network starts from
    module: ImportedModule | None = None  # what the network was imported from
    initial_teacher: bool = False  # whether some phase compares with the network as the run began with it


@dataclass(frozen=True, slots=True)
class Start:
    """Weights that a new network starts from: those of the checkpoint at `path`, or their moving `average`.

    `renewed`: labels of nodes that stay freshly initialized.
    """

    path: Path
    average: bool = False
    renewed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stretch:
    """The outcome of training for (part of) an epoch. `finished` is False when a signal stopped it."""

    metrics: Mapping[str, float]
    finished: bool
    steps: int  # optimizer steps of the epoch so far
    sums: Mapping[str, float] = field(default_factory=dict)  # partial metrics, to go on from


@dataclass(frozen=True, slots=True)
class Effect:
    """What a rewrite does to the logits of the probe batch, in eval mode."""

    delta_logits: float  # largest absolute difference
    largest_logit: float  # largest absolute one before the rewrite
    averaged: Effect | None = None  # the same for the averaged weights, where they are kept and evaluated


@dataclass(frozen=True, slots=True)
class Latency:
    """Measured seconds of one forward pass over `batch` samples in eval mode."""

    median: float
    minimum: float
    spread: float  # between the lower and the upper quartile
    batch: int
    device: str
    threads: int  # of the CPU


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that was read and verified.

    `meta`: what was given when it was saved, as JSON keeps it, and what the backend added. `problems`: a sentence for
    each newer checkpoint that proved damaged. `state` is the backend's own.
    """

    meta: Mapping[str, Any]
    problems: tuple[str, ...]
    state: object


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """The weights of one checkpoint, buffers included, by LABEL.SLOT. `meta`: what was given when it was saved."""

    meta: Mapping[str, Any]
    weights: Mapping[str, NDArray[np.generic]]


class Session(Protocol):
    """One network in training on one device.

    The engine calls `build` (or `newest` and `load`) once, `begin_phase` at each phase, then `train` and `evaluate` by
    turns. A rewrite is measured by `propose`, which leaves the current network untouched, and takes effect by `accept`.
    """

    def describe(self) -> dict[str, Any]:
        """Device, threads, precision and versions: what bit-exact resuming depends on."""

    def preferred_multiple(self) -> int:
        """Widths that are multiples of it compute fastest on this device in this precision; 1: any width does."""

    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""

    def summary(self) -> DataSummary:
        """The data as they were found and split."""

    def fingerprint(self) -> str:
        """A digest of the training and validation data as they are read: other data, another digest."""

    def build(self, graph: Graph, plan: TransferPlan, start: Start | None = None) -> None:
        """Make the network, initialized by `plan`, then by the weights of `start`.

        Without `start`, one that was imported (`Setup.module`) has the weights of its module instead.
        """

    def begin_phase(self, plan: TrainPlan, phase_epochs: int | None, resumed: bool) -> Mapping[str, Any]:
        """Set up optimizer and averages; `resumed`: go on in a phase that was begun. Fields of journal records to
        write about it, by kind of record."""

    def train(self, epoch: int, phase_epoch: int, stretch: Stretch | None, stop: Callable[[], bool]) -> Stretch:
        """Train epoch `epoch` (counted from 0 over the run), going on from `stretch` if it was interrupted."""

    def evaluate(self, split: str) -> dict[str, float]:
        """{"val.loss": ..., "val.accuracy": ...} for split "val" or "test" (read only at the end of a run)."""

    def evaluate_classes(self, split: str) -> tuple[dict[str, float], NDArray[np.int64]]:
        """What `evaluate` gives, and how often each class (row) was taken for each (column), [C, C]."""

    def observe(self, needs: Iterable[Need]) -> Evidence: ...
    def analyze_residual(self, statistics: Statistics, orders: int | None) -> ResidualAnalysis:
        """The residual branches of the network, on `Setup.probe` labelled training examples; see `ResidualAnalysis`.

        `orders`: also the residual expansion up to this order; UsageError where that takes too many networks.
        """

    def propose(self, rewrite: Rewrite) -> Effect: ...
    def accept(self) -> None: ...
    def settle(self, settle: Settle, target: float, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Train only the slots of `settle` until the training accuracy exceeds `target`; None if `stop` ended it."""

    def refresh(self, refresh: Refresh, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Move the running statistics of norms by forward passes, as `refresh` says; None if `stop` ended it.

        Data order and augmentation are functions of seed and number of rewrites. Otherwise facts for the journal,
        such as "delta_logits", the largest change of a logit of the probe batch.
        """

    def snapshot(self) -> object:
        """Everything that training and rewriting change, for `restore` to go back to."""

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot taken in the same phase, bit for bit, any number of times."""

    def notes(self) -> dict[str, Any]:
        """Facts for the journal of an epoch: `samples` trained on in it, the number of graphs compiled so far, ..."""

    def learning_rate(self, phase_epoch: int) -> float: ...
    def save(self, directory: Path, step: int, meta: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint, perhaps in the background: see `flush`."""

    def flush(self) -> None:
        """Wait until every checkpoint is on disk; raises CheckpointError where that failed."""

    def export(self, directory: Path, step: int, meta: Mapping[str, Any]) -> Path:
        """Write the state as `save` does, into any directory and durably before it returns; `newest` reads it."""

    def newest(self, directory: Path) -> Saved | None:
        """Read the newest usable checkpoint of a directory, None without one; the session stays as it is.

        Newer ones that prove damaged are set aside. Raises CheckpointError where all are.
        """

    def load(self, saved: Saved, graph: Graph, ordinal: int | None = None) -> None:
        """Put the session into a saved state; `graph` is the network that it was saved with.

        `ordinal` stands in for that of the meta data, which keys random fills. Within a phase, the phase goes on with
        the network that was loaded, its averages and its optimizer state. Raises CheckpointError for another network.
        """

    def explore(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[np.generic]],
        directions: Sequence[Mapping[str, NDArray[np.generic]]],
        points: Iterable[Sequence[float]],
        samples: int | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> list[dict[str, float]]:
        """Loss and accuracy (0..1) on the first `samples` validation images (None: all) at each point; `told` is called
        after each.

        At a point, each weight is that of `weights` plus the point's multiples of the `directions`, all by LABEL.SLOT;
        a weight that a direction lacks stays as it is, and so do the running statistics of norms. Numbers may be inf or
        NaN. The session needs no network of its own, and leaves one that it has alone. Raises DataError where
        there are no so many validation images, CheckpointError where `weights` are not those of `graph`.
        """

    def close(self) -> None: ...


DEFAULT_BACKEND = "torch"
"""The backend of a spec that names none."""


class Backend(Protocol):
    """Makes sessions. A class without arguments, registered (`nasir.registry.backends`, entry points `nasir.backends`)
    by the name that specs have for it."""

    def open(self, setup: Setup) -> Session: ...
    def measure(
        self,
        graph: Graph,
        batch: int,
        device: str,
        threads: int | None = None,
        precision: str = "fp32",
        module: ImportedModule | None = None,
    ) -> Latency:
        """Time a forward pass of a network with arbitrary weights; raises RunError for a device that is not there.

        `module`: what the network was imported from, where it needs that to run.
        """

    def stored_weights(self, checkpoint: Path, average: bool = False) -> StoredWeights:
        """The weights of the checkpoint in the folder `checkpoint`, or their moving average, on the host.

        Raises CheckpointError for a damaged one, UsageError where it has no average.
        """

    def calibrate(self, device: str, threads: int | None = None) -> DeviceProfile:
        """The measured peak performance of the device at hand."""

    def cuda_devices(self) -> int:
        """How many CUDA devices `open` could use in this environment."""


def make_backend(name: str) -> Backend:
    """The backend registered as `name`; raises UnknownName, or NasirError where it cannot be imported or made."""
    made = backends.get(name)
    try:
        backend: Backend = made()
    except NasirError:
        raise
    except Exception as error:  # the code of its author
        raise NasirError(
            f"backend {name!r} ({getattr(made, '__module__', made)}) cannot be made: {type(error).__name__}: {error}; "
            "a backend is a class that is made without arguments"
        ) from error
    return backend
