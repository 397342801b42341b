"""What every backend owes: a rewrite is measured before it happens, carries training state, and survives a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any, ClassVar

from nasir.analysis.roofline import estimate
from nasir.blocks import build_block
from nasir.errors import CheckpointError, DataError, UsageError
from nasir.ir import Atom, Draft, Graph
from nasir.registry import passes
from nasir.rewriting.evidence import KINDS, PER_UNIT, Evidence, Need
from nasir.rewriting.rewrite import Pass, Refresh, Settle
from nasir.training.backend import Backend, Session, Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan
from nasir.transfer import Key, TransferPlan

CLASSES, SIZE = 3, 8


@dataclass(frozen=True)
class Resize(Pass):
    """Give a space the units `index` of its old ones."""

    index: tuple[int, ...] = ()

    def sites(self, graph: Graph) -> list[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        draft.select(site, self.index)


class BackendContract:
    """Subclass with `make`, which gives a backend; override `setup` where its data sets have other names.

    Two sessions of one set-up must agree within `bound` (relative; 0.0: bit for bit).
    """

    make: ClassVar[Callable[[], Backend]]
    bound: ClassVar[float] = 0.0

    # -- what the laws are tested on

    def setup(self, folder: Path) -> Setup:
        """Images [3, 8, 8] of 3 classes, some held out, in batches of 16; fp32 on the CPU."""
        options = {"classes": CLASSES, "size": SIZE, "channels": 3, "train": 96, "test": 24}
        data = DataPlan("synthetic", options, batch_size=16, augment=({"pad_crop": {"pad": 1}},), validation=24)
        return Setup(data, folder, seed=3, device="cpu", precision="fp32", probe=16)

    def plan(self, **changes: Any) -> TrainPlan:
        """SGD with momentum, fp32."""
        return TrainPlan(**{"optimizer": OptimizerPlan("sgd", lr=0.05), "precision": "fp32", **changes})

    def graph(self, block: str = "basic", classes: int = CLASSES, size: int = SIZE, **options: Any) -> Graph:
        """A stem and two stages of one block each."""
        draft = Draft()
        x = draft.add("input", (), "x", shape=[3, size, size])
        x = draft.add("relu", draft.add("conv2d", x, "stem", out=4, kernel=3, padding=1, bias=True), "relu")
        for stage, width in (("s1", 4), ("s2", 8)):
            template = {"block": block, "options": {"out": width, **options}}
            draft.region(stage, "stage", template)
            x = build_block(draft, x, f"{stage}.0", template, stride=width // 4)
        draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=classes))
        return draft.commit()

    @contextmanager
    def session(self, folder: Path, graph: Graph | None = None, **plan: Any) -> Iterator[Session]:
        """A session in the first phase, with a freshly initialized network."""
        session = type(self).make().open(self.setup(folder))
        try:
            network = graph if graph is not None else self.graph()
            session.build(network, initial(network))
            session.begin_phase(self.plan(**plan), 8, resumed=False)
            yield session
        finally:
            session.close()

    def epoch(self, session: Session, epoch: int) -> dict[str, float]:
        """Train one epoch; metrics of training and validation."""
        stretch = session.train(epoch, epoch, None, lambda: False)
        assert stretch.finished and stretch.steps > 0
        return {**stretch.metrics, **session.evaluate("val")}

    def same(self, first: Mapping[str, float], second: Mapping[str, float]) -> None:
        assert first.keys() == second.keys()
        for name in first:
            assert abs(first[name] - second[name]) <= self.bound * max(1.0, abs(first[name])), name

    def grown(self, graph: Graph, **options: Any) -> Any:
        """A block appended to the first stage."""
        return passes.get("insert-block")(**options).attempt(graph, "s1")

    # -- training

    def test_metrics_have_names_and_ranges_and_the_loss_falls(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as session:
            metrics = [self.epoch(session, epoch) for epoch in range(5)]
            test = session.evaluate("test")
        names = {"loss", "accuracy"}
        assert metrics[0].keys() == {f"{part}.{name}" for part in ("train", "val") for name in names}
        assert test.keys() == {f"test.{name}" for name in names}
        assert all(0.0 <= m[f"{part}.accuracy"] <= 1.0 for m in metrics for part in ("train", "val"))
        assert metrics[-1]["train.loss"] < 0.8 * metrics[0]["train.loss"]

    def test_the_data_are_summarized_and_answers_counted_by_class(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as session:
            data = session.summary()
            metrics, answers = session.evaluate_classes("test")
            assert metrics == session.evaluate("test")
        assert len(data.classes) == CLASSES and all(len(counts) == CLASSES for counts in data.counts.values())
        assert answers.shape == (CLASSES, CLASSES) and tuple(answers.sum(1).tolist()) == data.counts["test"]
        assert abs(int(answers.trace()) / int(answers.sum()) - metrics["test.accuracy"]) < 1e-9

    def test_equal_setups_train_alike_and_looking_changes_nothing(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as observed, self.session(tmp_path) as untouched:
            for epoch in range(2):
                first = self.epoch(observed, epoch)
                observed.evaluate("val")
                observed.observe([Need(kind) for kind in KINDS])
                observed.propose(self.grown(self.graph(), init="gaussian"))
                self.same(first, self.epoch(untouched, epoch))

    def test_an_interrupted_epoch_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as whole, self.session(tmp_path) as broken:
            wanted = self.epoch(whole, 0)
            stretch = broken.train(0, 0, None, lambda: True)
            assert not stretch.finished and stretch.steps == 1
            rest = broken.train(0, 0, stretch, lambda: False)
            assert rest.finished
            self.same(wanted, {**rest.metrics, **broken.evaluate("val")})

    def test_what_does_not_fit_the_data_is_refused(self, tmp_path: Path) -> None:
        session = type(self).make().open(self.setup(tmp_path))
        for wrong in (self.graph(classes=CLASSES + 2), self.graph(size=SIZE + 4)):
            try:
                session.build(wrong, initial(wrong))
            except DataError:
                continue
            raise AssertionError("a network that does not fit the data must be refused by a DataError")
        session.close()

    def test_optimizer_state_lives_on_into_a_phase_unless_it_is_reset(self, tmp_path: Path) -> None:
        metrics = []
        for reset in (None, False, True):
            with self.session(tmp_path) as session:
                self.epoch(session, 0)
                if reset is not None:
                    session.begin_phase(self.plan(reset_optimizer=reset), 8, resumed=False)
                metrics.append(self.epoch(session, 1))
        self.same(metrics[0], metrics[1])
        assert metrics[2]["train.loss"] != metrics[0]["train.loss"]

    def test_facts_about_it_are_json(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as session:
            for facts in (session.describe(), session.notes()):
                assert json.loads(json.dumps(facts)) == facts
            assert abs(session.learning_rate(0) - 0.05) < 1e-12

    def test_evidence_has_a_number_for_each_unit(self, tmp_path: Path) -> None:
        graph = self.graph()
        with self.session(tmp_path, graph) as session:
            for kind in PER_UNIT:
                seen = session.observe([Need(kind)])
                for space in graph.infer.spaces:
                    if space.resizable:
                        rows = seen.members(kind, space)
                        assert len(rows) >= (kind != "norm_scale"), (kind, space.name)
                        assert bool((rows >= 0.0).all()), (kind, space.name)

    # -- rewriting

    def test_a_proposal_leaves_the_network_as_it_is(self, tmp_path: Path) -> None:
        graph = self.graph()
        with self.session(tmp_path, graph) as session, self.session(tmp_path, graph) as untouched:
            self.same(self.epoch(session, 0), self.epoch(untouched, 0))
            for init in ("gaussian", "default"):
                assert session.propose(self.grown(graph, init=init)).delta_logits > 0.0
            self.same(session.evaluate("val"), untouched.evaluate("val"))
            self.same(self.epoch(session, 1), self.epoch(untouched, 1))

    def test_effects_are_measured(self, tmp_path: Path) -> None:
        graph = self.graph()
        with self.session(tmp_path, graph) as session:
            self.epoch(session, 0)
            silent, loud = session.propose(self.grown(graph, init="zero")), self.grown(graph, init="gaussian")
            assert silent.delta_logits <= 1e-6 * max(1.0, silent.largest_logit)
            before = session.evaluate("val")
            assert session.propose(loud).delta_logits > 1e-3
            session.accept()
            assert session.evaluate("val")["val.loss"] != before["val.loss"]

    def test_replicating_units_keeps_the_function(self, tmp_path: Path) -> None:
        graph = self.graph()
        with self.session(tmp_path, graph) as session:
            self.epoch(session, 0)
            before = session.evaluate("val")
            for space in graph.infer.spaces:
                if space.resizable:
                    effect = session.propose(Resize((*range(space.size), 0, 1, 0)).attempt(graph, space))
                    assert effect.delta_logits <= 1e-4 * max(1.0, effect.largest_logit), space.name
            session.accept()
            assert abs(session.evaluate("val")["val.loss"] - before["val.loss"]) <= 1e-4 * before["val.loss"]
            self.epoch(session, 1)

    def test_a_detour_over_a_silent_block_changes_no_bit_of_the_training(self, tmp_path: Path) -> None:
        """Weights, statistics and optimizer state of all other nodes survive both rewrites."""
        graph = self.graph()
        with (
            self.session(tmp_path, graph, ema_decay=0.9) as session,
            self.session(tmp_path, graph, ema_decay=0.9) as straight,
        ):
            self.same(self.epoch(session, 0), self.epoch(straight, 0))
            there = self.grown(graph, init="zero")
            session.propose(there)
            session.accept()
            session.propose(passes.get("remove-block")().attempt(there.graph, "s1.1"))
            session.accept()
            for epoch in (1, 2):
                self.same(self.epoch(session, epoch), self.epoch(straight, epoch))

    def test_a_new_block_learns(self, tmp_path: Path) -> None:
        """Removing a block that was silent when it came changes the logits once it has been trained."""
        graph = self.graph()
        with self.session(tmp_path, graph) as session:
            there = self.grown(graph, init="zero")
            session.propose(there)
            session.accept()
            self.epoch(session, 0)
            effect = session.propose(passes.get("remove-block")().attempt(there.graph, "s1.1"))
            assert effect.delta_logits > 1e-4

    def test_settling_trains_the_named_weights_and_no_others(self, tmp_path: Path) -> None:
        graph = self.graph("preact_basic", norm="none", branch_scale="skipinit")  # without norms: no statistics move
        with self.session(tmp_path, graph) as session:
            before = self.epoch(session, 0)
            there = self.grown(graph, init="zero")
            session.propose(there)
            session.accept()
            slots = ((there.graph.find("s1.1.scale"), "weight"),)
            settled = session.settle(Settle(slots, 0.01, 0.0, 2), 2.0, lambda: False)
            assert settled is not None and settled["epochs"] == 2 and json.loads(json.dumps(settled)) == settled
            settled = session.settle(Settle(slots, 0.01, 0.0, 2), -1.0, lambda: False)
            assert settled is not None and settled["epochs"] == 1, "its target was reached after one epoch"
            assert session.settle(Settle(slots, 0.01, 0.0, 2), 2.0, lambda: True) is None
            effect = session.propose(passes.get("remove-block")().attempt(there.graph, "s1.1"))
            assert effect.delta_logits > 0.0, "nothing was trained"
            session.accept()
            self.same({name: value for name, value in before.items() if "val" in name}, session.evaluate("val"))

    def test_refreshing_moves_statistics_alone_and_is_a_function_of_the_seed(self, tmp_path: Path) -> None:
        graph = self.graph()
        with self.session(tmp_path, graph) as first, self.session(tmp_path, graph) as second:
            for session in (first, second):
                self.epoch(session, 0)
                before = session.evaluate("val")
                refreshed = session.refresh(Refresh(batches=3), lambda: False)
                assert (
                    refreshed is not None
                    and refreshed["batches"] == 3
                    and json.loads(json.dumps(refreshed)) == refreshed
                )
                assert session.evaluate("val")["val.loss"] != before["val.loss"], "no statistics moved"
            self.same(first.evaluate("val"), second.evaluate("val"))
            assert first.refresh(Refresh(epochs=1), lambda: True) is None

    def test_refreshed_averages_do_not_depend_on_what_was_there(self, tmp_path: Path) -> None:
        """Statistics that are reset and measured over the same batches end alike, whatever they were before."""
        graph = self.graph()
        with self.session(tmp_path, graph) as once, self.session(tmp_path, graph) as twice:
            self.epoch(once, 0)
            self.epoch(twice, 0)
            twice.refresh(Refresh(batches=2), lambda: False)
            for session in (once, twice):
                session.refresh(Refresh(batches=4, cumulative=True), lambda: False)
            self.same(once.evaluate("val"), twice.evaluate("val"))

    def test_what_a_phase_freezes_neither_learns_nor_moves(self, tmp_path: Path) -> None:
        """With all but the classifier frozen no statistics move; with the classifier frozen the rest learns."""
        graph = self.graph()
        frozen = tuple(sorted({node.label.partition(".")[0] for node in graph.nodes.values()} - {"fc", "x"}))
        with self.session(tmp_path, graph, freeze=frozen) as session, self.session(tmp_path, graph) as free:
            first = session.evaluate("val")
            self.epoch(session, 0)
            assert session.evaluate("val")["val.loss"] != first["val.loss"], "the classifier learns"
            norms = session.refresh(Refresh(batches=2), lambda: False)
            assert norms is not None and norms["norms"] == 0
            free.begin_phase(self.plan(freeze=("fc",)), 8, resumed=False)
            self.epoch(free, 0)
            assert free.evaluate("val")["val.loss"] != first["val.loss"]

    def test_a_session_put_back_goes_on_as_if_nothing_had_been(self, tmp_path: Path) -> None:
        """Training, rewriting and refreshing leave no trace behind a restore, which may be repeated."""
        graph = self.graph()
        plan: dict[str, Any] = {"ema_decay": 0.9, "optimizer": OptimizerPlan("adamw", lr=0.01, weight_decay=0.1)}
        with self.session(tmp_path, graph, **plan) as session, self.session(tmp_path, graph, **plan) as straight:
            self.same(self.epoch(session, 0), self.epoch(straight, 0))
            saved = session.snapshot()
            trials = []
            for stage in ("s1", "s2", "s1"):
                there = passes.get("insert-block")(init="gaussian").attempt(graph, stage)
                session.propose(there)
                session.accept()
                session.refresh(Refresh(batches=1), lambda: False)
                trials.append(self.epoch(session, 7))
                session.restore(saved)
            self.same(trials[0], trials[2])
            assert trials[0]["train.loss"] != trials[1]["train.loss"]
            self.same(session.evaluate("val"), straight.evaluate("val"))
            for epoch in (1, 2):
                self.same(self.epoch(session, epoch), self.epoch(straight, epoch))

    # -- checkpoints

    def test_a_network_put_aside_comes_back_in_the_middle_of_a_phase(self, tmp_path: Path) -> None:
        """Exported, another one trained and rewritten, loaded again: as if nothing had happened, random fills aside."""
        graph = self.graph()
        plan: dict[str, Any] = {"ema_decay": 0.9, "optimizer": OptimizerPlan("adamw", lr=0.01, weight_decay=0.1)}
        with self.session(tmp_path, graph, **plan) as session, self.session(tmp_path, graph, **plan) as straight:
            self.same(self.epoch(session, 0), self.epoch(straight, 0))
            meta = {"graph": graph.to_json(), "ordinal": 0}
            session.export(tmp_path / "aside", 0, meta)
            saved = session.newest(tmp_path / "aside")
            assert saved is not None and saved.problems == ()
            session.propose(self.grown(graph, init="gaussian"))
            session.accept()
            self.epoch(session, 1)
            session.load(saved, Graph.from_json(saved.meta["graph"]), 2)
            self.same(session.evaluate("val"), straight.evaluate("val"))
            for epoch in (1, 2):
                self.same(self.epoch(session, epoch), self.epoch(straight, epoch))
            again = self.grown(graph, init="gaussian")
            first, second = (opened.propose(again).delta_logits for opened in (session, straight))
            assert first != second, "the ordinal that was given keys random fills"

    def test_a_session_read_back_goes_on_like_the_one_that_wrote_it(self, tmp_path: Path) -> None:
        graph = self.graph()
        there = self.grown(graph, init="gaussian")
        meta = {"graph": there.graph.to_json(), "ordinal": 1, "note": [1, "two"]}
        with self.session(tmp_path, graph, ema_decay=0.9) as first:
            self.epoch(first, 0)
            first.propose(there)
            first.accept()
            self.epoch(first, 1)
            path = first.save(tmp_path / "checkpoints", 7, meta, 2)
            assert path.parent == tmp_path / "checkpoints"
            wanted = [first.evaluate("val"), self.epoch(first, 2)]
            again = self.grown(there.graph, init="gaussian")
            effect = first.propose(again)
        second = type(self).make().open(self.setup(tmp_path))
        saved = second.newest(tmp_path / "checkpoints")
        assert saved is not None and {key: saved.meta[key] for key in meta} == json.loads(json.dumps(meta))
        second.load(saved, Graph.from_json(saved.meta["graph"]))
        second.begin_phase(self.plan(ema_decay=0.9), 8, resumed=True)
        self.same(wanted[0], second.evaluate("val"))
        self.same(wanted[1], self.epoch(second, 2))
        # random fills are keyed by the number of rewrites, which must have been read back too
        repeated = second.propose(again)
        assert abs(repeated.delta_logits - effect.delta_logits) <= self.bound * effect.largest_logit
        second.close()

    def test_stored_weights_and_a_walk_around_them(self, tmp_path: Path) -> None:
        graph, backend = self.graph(), type(self).make()
        with self.session(tmp_path, graph) as session:
            self.epoch(session, 0)
            path = session.save(tmp_path / "checkpoints", 3, {"note": 1}, 2)
            session.flush()
            here = {name.removeprefix("val."): value for name, value in session.evaluate("val").items()}
            stored = backend.stored_weights(path)
            slots = {
                f"{graph.nodes[n].label}.{name}": s for n, own in graph.infer.slots.items() for name, s in own.items()
            }
            assert stored.meta["note"] == 1 and {n: w.shape for n, w in stored.weights.items()} == {
                name: slot.shape for name, slot in slots.items()
            }
            heads = {name: stored.weights[name] for name in ("fc.weight", "fc.bias")}
            seen: list[int] = []
            # minus themselves: a head of zeros, which knows nothing of the image
            points = [(0.0, 0.0), (-1.0, 0.0), (1.0, -1.0)]
            heard = partial(seen.append, 1)
            explored = session.explore(graph, stored.weights, [heads, heads], points, told=heard)
            assert seen == [1, 1, 1]
            self.same({name: explored[0][name] for name in here}, here)
            assert abs(explored[2]["loss"] - here["loss"]) < 1e-5 * here["loss"]
            assert abs(explored[1]["loss"] - log(CLASSES)) < 1e-5
            some = session.explore(graph, stored.weights, [heads], [(0.0,)], samples=1)
            assert some[0]["accuracy"] in (0.0, 1.0)
            self.same({f"val.{name}": value for name, value in here.items()}, session.evaluate("val"))
            for error, wrong in (
                (CheckpointError, lambda: session.explore(graph, heads, [], [()])),
                (DataError, lambda: session.explore(graph, stored.weights, [], [()], samples=25)),
                (UsageError, lambda: backend.stored_weights(path, average=True)),
            ):
                try:
                    wrong()
                except error:
                    continue
                raise AssertionError(f"a {error.__name__} is due")

    def test_networks_and_the_device_can_be_timed(self) -> None:
        backend = type(self).make()
        measured = backend.measure(self.graph(), batch=2, device="cpu", threads=1)
        assert 0 < measured.minimum <= measured.median and (measured.batch, measured.threads) == (2, 1)
        assert estimate(self.graph(), backend.calibrate("cpu", threads=1), batch=2) > 0
        assert backend.cuda_devices() >= 0

    def test_without_a_checkpoint_there_is_nothing_to_load(self, tmp_path: Path) -> None:
        session = type(self).make().open(self.setup(tmp_path))
        assert session.newest(tmp_path / "checkpoints") is None
        session.close()


def initial(graph: Graph) -> TransferPlan:
    """Every weight from its op's own initializer."""
    slots = graph.infer.slots
    return TransferPlan({Key(n, name): slot.init for n, own in slots.items() for name, slot in own.items()})
