"""One network in training on one device, for the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasir.analysis.contributions import ResidualAnalysis, Statistics
from nasir.backends.torch.data.batches import BatchSource
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.device.determinism import refuse_unordered
from nasir.backends.torch.device.memory import memory_told
from nasir.backends.torch.device.names import check_precision, choose_device, described
from nasir.backends.torch.device.precision import products_of
from nasir.backends.torch.device.switches import Switches
from nasir.backends.torch.device.working import DATA, HOST, NETWORK, TRAINING, working
from nasir.backends.torch.importing.modules import module_of, modules_kept, take_weights
from nasir.backends.torch.lower.compile import Compilation, CompileChoice, step_seconds
from nasir.backends.torch.lower.module import zeros_of
from nasir.backends.torch.model import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.backends.torch.observe.logits import effect_of, logits_of
from nasir.backends.torch.observe.plane import evaluated
from nasir.backends.torch.observe.routes import taking
from nasir.backends.torch.optimizers.groups import build_optimizer, tagged
from nasir.backends.torch.optimizers.named import KeptBy, export_state, flat, import_state, nested
from nasir.backends.torch.optimizers.transfer import transfer_optimizers
from nasir.backends.torch.penalties.regularize import alive_cost
from nasir.backends.torch.train.ema import Ema, carried_averages
from nasir.backends.torch.train.loop import (
    Sums,
    evaluate,
    train_epoch,
    wants_bf16,
    wants_channels_last,
)
from nasir.backends.torch.train.refresh import moving_norms, refresh_norms, statistics
from nasir.backends.torch.train.settle import EPOCHS as SETTLE_EPOCHS
from nasir.backends.torch.train.settle import refuse_frozen, settled, train_settling
from nasir.backends.torch.weights import checkpoint
from nasir.backends.torch.weights.arena import Arena
from nasir.backends.torch.weights.inherit import take_over
from nasir.backends.torch.weights.pretrained import load_pretrained, load_stored
from nasir.backends.torch.weights.snapshot import Snapshot
from nasir.backends.torch.weights.teachers import TeacherSet
from nasir.datasets.fit import LONE, LONE_REMEDY, check_fit, lone_norms
from nasir.errors import DataError, Decline, Diverged, RunError
from nasir.files import remove_left
from nasir.ir import Graph
from nasir.records.data import DataSummary
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Refresh, Rewrite, Settle
from nasir.training.backend import Effect, Saved, Setup, Start, Stretch
from nasir.training.penalties import INITIAL
from nasir.training.plans import TrainPlan
from nasir.transfer import TransferPlan

REFRESH_EPOCHS = 10**12  # data order of epochs of refreshed statistics: far from those of ordinary ones
MEASURED_EPOCHS = 3 * 10**12  # the same for steps that are only timed (trials of decisions are at 2 * 10**12)


class TorchSession:
    """See `nasir.training.backend.Session`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.device = choose_device(setup.device)
        check_precision(setup.precision, self.device)
        self.switches = Switches(self.device, setup.deterministic, products_of(setup.precision))
        self.source = self._open()
        self.model: Model
        self.optimizer: torch.optim.Optimizer | None = None
        self.ema: Ema | None = None
        self.plan: TrainPlan | None = None
        self.phase_epochs: int | None = None
        self.compilation = Compilation(setup.compile)
        self._chosen: bool | None = None  # by measurement, for the phase that goes on; None: still to be measured
        self._optimizer_state: Mapping[str, Mapping[str, Tensor]] | None = None  # loaded, not yet given out
        self._kept_by: KeptBy | None = None  # whose state that is
        self._ema_state: Mapping[str, Tensor] | None = None
        self._ema_updates = 0  # of that state
        self._proposal: tuple[Rewrite, Model, Mapping[str, Tensor] | None] | None = None
        self._teachers = TeacherSet()
        self._routes: dict[str, Any] = {}  # that validation samples took last, for the journal
        self._writer: checkpoint.AsyncWriter | None = None
        self._arena = Arena()  # that checkpoints are copied into

    @working("the data set {setup.data.dataset!r}, which lies on {device}", DATA)
    def _open(self) -> BatchSource:
        where, last = DataContext(self.setup.base), self.setup.channels_last is not False
        return open_source(self.setup.data, where, self.device, channels_last=last)

    def describe(self) -> dict[str, Any]:
        return {
            **described(self.device),
            "precision": self.setup.precision,
            "channels_last": self.setup.channels_last,
            "deterministic": self.setup.deterministic,
            # a state without it cannot be gone on from
            **({"initial_teacher": True} if self.setup.initial_teacher else {}),
        }

    def preferred_multiple(self) -> int:
        """8 where tensor cores multiply: they take factors in groups of 16 bytes."""
        rounds = self.switches.products == "tf32" or wants_bf16(self._layout(), self.model, self.device)
        return 8 if self.device.type == "cuda" and rounds else 1

    def steps_per_epoch(self) -> int:
        return self.source.steps_per_epoch

    @working("the digest of the data", DATA)
    def fingerprint(self) -> str:
        return self.source.fingerprint()

    # -- network and phases

    @working("the network", NETWORK)
    def build(self, graph: Graph, plan: TransferPlan, start: Start | None = None) -> None:
        module = self.setup.module if start is None else None
        if module is not None:
            load_stored(module_of(module), module.source)
        self._place(graph, plan)
        if module is not None:
            take_weights(self.model, module)
        if self.setup.weights is not None:
            load_pretrained(self.model, *self.setup.weights)
        if start is not None:
            take_over(self.model, start)
        if self.setup.initial_teacher:
            self._teachers.keep(INITIAL, self.model, None)

    def _place(self, graph: Graph, plan: TransferPlan) -> None:
        check_fit(graph, self.source.shape, self.source.class_names, self.setup.data.dataset)
        refuse_unordered(graph, self.setup.deterministic, self.device)
        self.model = self._laid_out(self._lowered(graph, plan))
        self.compilation.apply(self.model)

    def _lowered(self, graph: Graph, plan: TransferPlan) -> Model:
        kept = {} if self.setup.module is None else modules_kept(graph, self.setup.module, self.device)
        return Model.from_graph(graph, self.setup.seed, plan=plan, device=self.device, given=kept)

    def _blank(self, graph: Graph) -> Model:
        """A network whose weights are about to be overwritten, laid out in memory as the one in training."""
        return self._laid_out(self._lowered(graph, zeros_of(graph)))

    def _laid_out(self, model: Model) -> Model:
        if wants_channels_last(self._layout(), model):
            model.use_channels_last()
        return model

    def _layout(self) -> TrainPlan:
        """A plan that has what a spec says of precision and memory layout, before there is a phase."""
        return TrainPlan(precision=self.setup.precision, channels_last=self.setup.channels_last)  # type: ignore[arg-type]

    @working("the optimizer's state", NETWORK)
    def begin_phase(self, plan: TrainPlan, phase_epochs: int | None, resumed: bool) -> Mapping[str, Any]:
        wanted = {penalty.taught_by for penalty in plan.penalties if penalty.taught_by is not None}
        averages = self._ema_state if self.ema is None else self.ema.tensors
        self._teachers.begin(wanted, self.model, averages, resumed, self.setup.base, self._blank)
        self._begin(plan, phase_epochs, resumed)
        if self.setup.compile != "auto" or (resumed and self._chosen is not None):
            return {}
        choice = self._choose()
        self._chosen = choice.compiled
        self.compilation.switch(self.model, choice.compiled)
        return {"compilation": choice.record()}

    def _begin(self, plan: TrainPlan, phase_epochs: int | None, resumed: bool) -> None:
        carried = self.plan is not None and KeptBy.of(self.plan.optimizer).serves(plan.optimizer)
        keep = self.optimizer is not None and carried and not plan.reset_optimizer
        state = export_state(self.optimizer, self.model.named_parameters()) if keep and self.optimizer else {}
        self.optimizer = build_optimizer(tagged(self.model), plan.optimizer)
        self.plan, self.phase_epochs = plan, phase_epochs
        self.model.hold(plan.freeze)
        lone = self._lone(self.model.graph, plan.freeze)
        if lone:
            raise RunError(f"{lone}; {LONE_REMEDY}")
        if state:
            import_state(self.optimizer, state, self.model.named_parameters())
        if plan.ema_decay is None:
            self.ema = None
        elif self.ema is None or resumed:
            self.ema = Ema(self.model, plan.ema_decay, plan.ema_warmup)
        else:
            self.ema.decay, self.ema.warmup = plan.ema_decay, plan.ema_warmup
        if self.device.type == "cuda":  # pinned memory takes long to get: not while training waits for a checkpoint
            with memory_told("pinned memory for checkpoints", HOST):
                self._arena.reserve(checkpoint.bytes_of(self.model, self.ema is not None, plan.optimizer), pinned=True)
        if self._optimizer_state is not None:
            serves = self._kept_by is not None and self._kept_by.serves(plan.optimizer)
            if resumed or (serves and not plan.reset_optimizer):
                import_state(self.optimizer, self._optimizer_state, self.model.named_parameters())
            self._optimizer_state = None
        if self._ema_state is not None:
            if self.ema is not None:
                self.ema.load(self._ema_state, self._ema_updates)
            self._ema_state = None

    # -- training

    @working("a training step of {setup.data.batch_size} samples", TRAINING)
    def train(self, epoch: int, phase_epoch: int, stretch: Stretch | None, stop: Callable[[], bool]) -> Stretch:
        assert self.plan is not None and self.optimizer is not None
        result = train_epoch(
            self.model,
            self.optimizer,
            self.source,
            self.plan,
            seed=self.setup.seed,
            epoch=epoch,
            phase_epoch=phase_epoch,
            phase_epochs=self.phase_epochs,
            start_step=stretch.steps if stretch else 0,
            sums=Sums.from_json(stretch.sums, self.device) if stretch else None,
            ema=self.ema,
            class_weights=self.source.class_weights,
            teachers=self._teachers,
            stop=stop,
        )
        return Stretch(result.metrics, result.finished, result.steps_done, result.sums.to_json())

    def summary(self) -> DataSummary:
        return self.source.summary()

    @working("a batch of {setup.data.eval_batch_size} samples in evaluation", "lower `data.eval_batch_size`")
    def evaluate(self, split: str) -> dict[str, float]:
        if split == "val" and not self.source.validation_size:
            return {}
        return self._evaluate(split)

    @working("a batch of {setup.data.eval_batch_size} samples in evaluation", "lower `data.eval_batch_size`")
    def evaluate_classes(self, split: str) -> tuple[dict[str, float], NDArray[np.int64]]:
        answers: list[tuple[Tensor, Tensor]] = []
        metrics = self._evaluate(split, answers)
        classes = len(self.source.class_names)
        labels, predicted = (torch.cat(parts).cpu().numpy() for parts in zip(*answers, strict=True))
        counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
        return metrics, counts.reshape(classes, classes).astype(np.int64)

    def _evaluate(self, split: str, answers: list[tuple[Tensor, Tensor]] | None = None) -> dict[str, float]:
        assert self.plan is not None
        with memory_told(f"the test part of the data, on {self.device}", DATA):  # it is placed there only now
            batches = self.source.test() if split == "test" else self.source.validation()
        samples = self.source.validation_size if split == "val" else 0
        with nullcontext() if self.ema is None else self.ema.applied(self.model), taking(self.model, samples) as taken:
            results = evaluate(self.model, batches, self.plan, self.setup.data.metrics or (), answers)
        if split == "val":
            self._routes = taken.told(samples)
        return {f"{split}.{name}": value for name, value in results.items()}

    def learning_rate(self, phase_epoch: int) -> float:
        assert self.plan is not None
        steps = self.source.steps_per_epoch
        return self.plan.lr(phase_epoch * steps + steps - 1, steps, self.phase_epochs)

    # -- rewriting

    @working("evidence from {setup.probe} samples", "lower `probe`")
    def observe(self, needs: Iterable[Need]) -> Evidence:
        with self.compilation.eagerly():
            images = self.source.probe(self.setup.probe)
            labelled = partial(self.source.labelled, self.setup.probe)
            averages = None if self.ema is None else self.ema.tensors
            return observe(self.model, needs, images, labelled=labelled, averages=averages)

    @working("an analysis of {setup.probe} samples", "analyze fewer samples")
    def analyze_residual(self, statistics: Statistics, orders: int | None) -> ResidualAnalysis:
        images, labels = self.source.labelled(self.setup.probe)
        return self.model.analyze_residual(images, labels, statistics=statistics, orders=orders)

    @working("the new network beside the old one", NETWORK)
    def propose(self, rewrite: Rewrite) -> Effect:
        refuse_unordered(rewrite.graph, self.setup.deterministic, self.device)
        refuse_frozen(rewrite, () if self.plan is None else self.plan.freeze)
        lone = self._lone(rewrite.graph, () if self.plan is None else self.plan.freeze)
        if lone:
            raise Decline(lone)
        self._proposal = None  # one that was not accepted would take memory
        new = self.model.rewritten(rewrite)
        images = self.source.probe(self.setup.probe)
        averages = None if self.ema is None else carried_averages(self.ema.tensors, rewrite, self.model, new)
        both = None if self.ema is None or averages is None else (self.ema.tensors, averages)
        with self.compilation.eagerly():
            effect = effect_of(rewrite, self.model, new, images, both)
        self._proposal = (rewrite, new, averages)
        return effect

    def _lone(self, graph: Graph, frozen: Sequence[str]) -> str:
        """Why a network cannot be trained with batches of one example, if it is to be; else nothing."""
        lone = lone_norms(graph, frozen) if 1 in (self.setup.data.batch_size, self.source.train_size) else ()
        return LONE.format(lone[0]) if lone else ""

    def _logits(self, model: Model, images: Tensor) -> Tensor:
        with self.compilation.eagerly():
            return logits_of(model, images)

    @working("the state of the new network beside the old one's", NETWORK)
    def accept(self) -> None:
        assert self._proposal is not None
        rewrite, new, averages = self._proposal
        self._proposal = None
        if self.optimizer is not None:
            transfer_optimizers((self.optimizer,), self.model, new, rewrite.plan, rewrite.blobs)
        self.model.become(new)
        if self.ema is not None and averages is not None:
            self.ema.tensors = dict(averages)
        self.compilation.apply(self.model)

    # -- trying

    @working("a second copy of network and optimizer state", NETWORK)
    def snapshot(self) -> object:
        """Copies of network, optimizer state and averages, for `restore`; it may be restored any number of times."""
        return Snapshot.of(self.model, self.optimizer, self.ema)

    @working("a second copy of network and optimizer state", NETWORK)
    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this session, bit for bit; within the phase that it was taken in."""
        assert isinstance(snapshot, Snapshot)
        self._proposal = None
        snapshot.put_back(self.model)
        if self.optimizer is not None:
            assert self.plan is not None
            self.optimizer = build_optimizer(tagged(self.model), self.plan.optimizer)
            import_state(self.optimizer, snapshot.optimizer, self.model.named_parameters())
        if self.ema is not None and snapshot.averages is not None:
            self.ema.replace(snapshot.averages)
            self.ema.updates = snapshot.updates
        self.compilation.apply(self.model)

    @working("a training step of {setup.data.batch_size} samples", TRAINING)
    def settle(self, settle: Settle, target: float, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Train only the slots of `settle` by Adam until the training accuracy exceeds `target` (a fraction).

        Averages of these start anew then, as those of new weights do, and take statistics over, as at a refresh.
        """
        assert self.plan is not None
        done = train_settling(self.model, self.source, self.plan, settle, target, seed=self.setup.seed, stop=stop)
        if self.ema is not None and done is not None:
            self.ema.replace({**self.ema.tensors, **settled(self.model, settle)})
        return done

    @working("a forward pass over {setup.data.batch_size} samples", TRAINING)
    def refresh(self, refresh: Refresh, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Move running statistics of norms by forward passes over training data; averages take them over."""
        assert self.plan is not None
        norms = moving_norms(self.model, refresh)
        first = REFRESH_EPOCHS + SETTLE_EPOCHS * self.model.ordinal
        images = self.source.probe(self.setup.probe)
        before = self._logits(self.model, images)
        with self.compilation.eagerly():
            figures = refresh_norms(
                self.model, self.source, self.plan, refresh, seed=self.setup.seed, epoch=first, stop=stop
            )
        if figures is None:
            return None
        if self.ema is not None:
            self.ema.replace({**self.ema.tensors, **statistics(norms)})
        return {**figures, "delta_logits": float((self._logits(self.model, images) - before).abs().max())}

    def _choose(self) -> CompileChoice:
        """Time training steps with and without compiled blocks, and leave no trace of them."""
        assert self.plan is not None and self.optimizer is not None
        saved = Snapshot.of(self.model, self.optimizer, self.ema)

        def seconds(compiled: bool) -> float:
            self.compilation.switch(self.model, compiled)
            wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
            return step_seconds(self._measured_epoch, wait)

        return CompileChoice.measured(seconds, lambda: self.restore(saved))

    @working("a training step of {setup.data.batch_size} samples", TRAINING)
    def _measured_epoch(self, epoch: int, stop: Callable[[], bool]) -> None:
        assert self.plan is not None and self.optimizer is not None
        with suppress(Diverged):  # a step takes as long; training will say so
            train_epoch(
                self.model,
                self.optimizer,
                self.source,
                self.plan,
                seed=self.setup.seed,
                epoch=MEASURED_EPOCHS + epoch,
                phase_epoch=0,
                phase_epochs=self.phase_epochs,
                ema=self.ema,
                teachers=self._teachers,
                stop=stop,
            )

    def notes(self) -> dict[str, Any]:
        """Facts about the backend that belong in the journal of an epoch or a rewrite."""
        notes: dict[str, Any] = {"samples": self.source.train_size}
        if self.compilation.compiler is not None:
            notes["compiled_graphs"] = self.compilation.compiler.graphs
        alive = alive_cost(self.model, self.plan.penalties) if self.plan is not None else None
        return {**notes, **({} if alive is None else {"alive": alive}), **self._routes}

    # -- checkpoints

    @working("a copy of the state for its checkpoint", HOST)
    def save(self, directory: Path, step: int, meta: Mapping[str, Any], keep: int) -> Path:
        if self._writer is None:
            self._writer = checkpoint.AsyncWriter(directory, keep, self._arena)
        self._writer.save(step, self._groups(), {**meta, **self._own_meta()})
        return directory / f"step_{step}"

    @working("the write of a checkpoint", HOST)
    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    @working("a copy of the state", HOST)
    def export(self, directory: Path, step: int, meta: Mapping[str, Any]) -> Path:
        return checkpoint.save(directory, step, self._groups(), {**meta, **self._own_meta()})

    def _own_meta(self) -> dict[str, Any]:
        kept_by = self._kept_by if self.plan is None else KeptBy.of(self.plan.optimizer)
        updates = self._ema_updates if self.ema is None else self.ema.updates
        chosen = {} if self._chosen is None else {"compiled": self._chosen}
        return {**KeptBy.meta(kept_by), "ema_updates": updates, **chosen, **self._teachers.meta()}

    def _groups(self) -> checkpoint.Groups:
        """Everything to save; before the first phase, what was loaded and waits for one."""
        groups: dict[str, dict[str, Tensor]] = {"model": self.model.tensors()}
        state = self._optimizer_state
        if self.optimizer is not None:
            state = export_state(self.optimizer, self.model.named_parameters())
        if state is not None:
            groups["optimizer"] = flat(state)
        averages = self._ema_state if self.ema is None else self.ema.tensors
        if averages is not None:
            groups["ema"] = dict(averages)
        return groups | self._teachers.groups()

    @working("the checkpoint", NETWORK)
    def newest(self, directory: Path) -> Saved | None:
        remove_left(directory)
        stored, problems = checkpoint.latest(directory)
        if stored is None:
            return None
        checkpoint.set_aside(directory, stored.step)
        return Saved(stored.meta, problems, stored)

    @working("the network of the checkpoint", NETWORK)
    def load(self, saved: Saved, graph: Graph, ordinal: int | None = None) -> None:
        stored = saved.state
        assert isinstance(stored, checkpoint.Checkpoint)  # of `newest`
        self._place(graph, zeros_of(graph))
        stored.fill(self.model)
        self.model.ordinal = int(stored.meta["ordinal"]) if ordinal is None else ordinal
        self._kept_by = KeptBy.read(stored.meta)
        self._optimizer_state = nested(stored.tensors.get("optimizer", {}))
        if "ema" in stored.tensors:
            self._ema_state = {name: tensor.to(self.device) for name, tensor in stored.tensors["ema"].items()}
            self._ema_updates = stored.meta.get("ema_updates", 0)  # older ones had no warm-up to count for
        if self.plan is None:
            self._teachers.load(stored, self._blank)
            self._chosen = stored.meta.get("compiled")
            self.compilation.switch(self.model, self.compilation.on or bool(self._chosen))
        else:  # the phase goes on with it; nothing of the network before may show
            self.optimizer = self.ema = self._proposal = None
            same = self._kept_by is not None and self._kept_by.kind == self.plan.optimizer.kind
            self._begin(self.plan, self.phase_epochs, resumed=same)

    @working("a batch of {setup.data.eval_batch_size} samples in evaluation", "lower the batch size")
    def explore(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[np.generic]],
        directions: Sequence[Mapping[str, NDArray[np.generic]]],
        points: Iterable[Sequence[float]],
        samples: int | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> list[dict[str, float]]:
        check_fit(graph, self.source.shape, self.source.class_names, self.setup.data.dataset)
        model = self._lowered(graph, zeros_of(graph))
        layout, some = self._layout(), partial(self._some_validation, samples)
        return evaluated(model, weights, directions, points, some, layout, told)

    def _some_validation(self, samples: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        there = self.source.validation_size
        left = there if samples is None else samples
        if not 0 < left <= there:
            raise DataError(
                f"{left} validation images are wanted, and there are {there}; ask for fewer, or all, or train with "
                "`data.validation`"
            )
        for x, y in self.source.validation():
            if left <= 0:
                return
            yield x[:left], y[:left]
            left -= len(y)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
