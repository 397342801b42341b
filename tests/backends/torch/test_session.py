"""A torch session: what a rewrite leaves alone, what it carries along, what stops it, what a checkpoint brings back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, pyramid, same_tensors
from small_runs import SPEC, After, write_spec

import nasir.api
from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.session import TorchSession
from nasir.backends.torch.weights import checkpoint
from nasir.errors import CheckpointError, ClaimError, DataError, OutOfMemory, Preempted, RunError
from nasir.ir import Draft, Graph
from nasir.journal.log import read_journal
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.records import CheckpointRecord, EndRecord, EpochRecord, RewriteRecord
from nasir.registry import passes, register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass
from nasir.testing.backend_contract import Resize, initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan

SGD = OptimizerPlan("sgd", lr=0.05)
PLAN = TrainPlan(SGD, precision="fp32", ema_decay=0.9)


def setup(folder: Path, **more: Any) -> Setup:
    options = {"classes": 3, "size": 8, "channels": 3, "train": 96, "test": 24}
    data = DataPlan("synthetic", options, batch_size=16, validation=24)
    return Setup(data, folder, **{"seed": 3, "device": "cpu", "precision": "fp32", "probe": 16, **more})


@contextmanager
def opened(folder: Path, graph: Graph | None = None, plan: TrainPlan = PLAN, epochs: int = 1) -> Iterator[TorchSession]:
    """A session after `epochs` epochs of its first phase."""
    session = TorchBackend().open(setup(folder))
    network = graph if graph is not None else pyramid((1, 1), 4, size=8, classes=3)
    session.build(network, initial(network))
    session.begin_phase(plan, 8, resumed=False)
    for epoch in range(epochs):
        session.train(epoch, epoch, None, lambda: False)
    yield session
    session.close()


def state(session: TorchSession) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in session.model.state_dict().items()}


def moments(session: TorchSession) -> dict[str, dict[str, torch.Tensor]]:
    assert session.optimizer is not None
    held = session.optimizer.state
    return {
        name: {k: v.clone() for k, v in held[p].items()} for name, p in session.model.named_parameters() if p in held
    }


def grow(session: TorchSession, site: str = "s1", **options: Any) -> None:
    session.propose(InsertBlock(**options).attempt(session.model.graph, site))
    session.accept()


# -- propose and accept


def test_a_proposal_touches_nothing_and_the_old_model_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        model, graph, optimizer = session.model, session.model.graph, session.optimizer
        before, state_before, average = state(session), moments(session), dict(session.ema.tensors)
        parameters = list(model.parameters())
        flags = [module.training for module in model.modules()]
        effect = session.propose(InsertBlock(init="gaussian").attempt(graph, "s2"))
        assert effect.delta_logits > 0 and effect.largest_logit > 0
        assert session.model is model and model.graph is graph and session.optimizer is optimizer
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        assert same_tensors(state(session), before) and same_tensors(dict(session.ema.tensors), average)
        assert [module.training for module in model.modules()] == flags
        for name, kept in state_before.items():
            assert same_tensors(moments(session)[name], kept)
        session.train(1, 1, None, lambda: False)
        assert not torch.equal(state(session)["fc.weight"], before["fc.weight"])


def test_a_rewrite_that_fails_changes_neither_optimizer_nor_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as session:
        model = session.model
        space = next(space for space in model.graph.infer.spaces if space.resizable)
        rewrite = Resize((1, 0)).attempt(model.graph, space)
        before, state_before, average = state(session), moments(session), dict(session.ema.tensors)
        whole, left = TorchArrays.take, 0

        def take(self: TorchArrays, *args: Any) -> torch.Tensor:
            nonlocal left
            left -= 1
            if left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")
            return whole(self, *args)

        failures = 0
        while model.graph is not rewrite.graph:
            with monkeypatch.context() as patch:
                patch.setattr(TorchArrays, "take", take)
                left = failures
                try:
                    session.propose(rewrite)
                    session.accept()
                except OutOfMemory:
                    failures += 1
                    assert same_tensors(state(session), before) and same_tensors(dict(session.ema.tensors), average)
                    assert moments(session).keys() == state_before.keys()
                    assert all(same_tensors(moments(session)[name], kept) for name, kept in state_before.items())
        changed = [model.graph.infer.slots[key.node][key.slot].kind for key in rewrite.plan.sources]
        # a weight and an average of each, a moment of each parameter
        assert failures == 2 * len(changed) + changed.count("param")
        session.train(1, 1, None, lambda: False)


def test_accepting_keeps_the_objects_and_takes_the_latest_proposal(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        model, optimizer, old = session.model, session.optimizer, dict(session.model.named_parameters())
        first = InsertBlock(init="gaussian").attempt(model.graph, "s1")
        second = InsertBlock(init="zero").attempt(model.graph, "s2")
        session.propose(first)
        session.propose(second)
        session.accept()
        assert session.model is model and session.optimizer is optimizer
        assert model.graph is second.graph and model.ordinal == 1
        assert all(model.get_parameter(name) is parameter for name, parameter in old.items())
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
        with pytest.raises(AssertionError):  # once accepted, it is gone
            session.accept()


def test_the_effect_of_a_rewrite_is_the_change_of_the_probe_logits_in_eval_mode(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        probe = session.source.probe(16)
        with torch.no_grad():
            before = session.model.eval()(probe)
        effect = session.propose(InsertBlock(init="gaussian").attempt(session.model.graph, "s1"))
        session.accept()
        with torch.no_grad():
            after = session.model.eval()(probe)
        assert effect.delta_logits == float((after - before).abs().max())
        assert effect.largest_logit == float(before.abs().max())


def test_logits_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        rewrite = InsertBlock(init="gaussian").attempt(session.model.graph, "s1")
        with torch.no_grad():
            session.model.fc.weight.fill_(float("inf"))
        with pytest.raises(RunError, match=r"insert-block at s1: .* not finite"):
            session.propose(rewrite)


# -- averages


def test_averages_follow_the_plan(tmp_path: Path) -> None:
    """Kept ones stay, new ones start at the new weights, copies and resized ones are those of their source."""
    with opened(tmp_path, pyramid((2, 1), 4, size=8, classes=3)) as session:
        old = dict(session.ema.tensors)
        grow(session, init="gaussian")
        assert all(session.ema.tensors[name] is not None for name in session.model.state_dict())
        for name, tensor in session.model.state_dict().items():
            assert torch.equal(session.ema.tensors[name], old.get(name, tensor)), name
        session.train(1, 1, None, lambda: False)
        old = dict(session.ema.tensors)
        grow(session, "s1.1", init="copy")
        for name in (n for n in old if n.startswith("s1.1.")):
            assert torch.equal(session.ema.tensors[name.replace("s1.1.", "s1.3.")], old[name])
            assert session.ema.tensors[name.replace("s1.1.", "s1.3.")] is not old[name]
        space = next(s for s in session.model.graph.infer.spaces if s.name == "s1.1.conv1")
        session.propose(Resize((3, 1, 1, -1)).attempt(session.model.graph, space))
        session.accept()
        average, own = session.ema.tensors["s1.1.conv1.weight"], session.model.state_dict()["s1.1.conv1.weight"]
        assert torch.equal(average[:3], old["s1.1.conv1.weight"][[3, 1, 1]])
        assert torch.equal(average[3], own[3])  # what is new has no past
        assert session.ema.tensors.keys() == session.model.state_dict().keys()
        session.train(2, 2, None, lambda: False)
        session.evaluate("val")


def test_evaluation_is_of_the_averages_and_training_goes_on_with_the_weights(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        before = state(session)
        averaged = session.evaluate("val")
        assert same_tensors(state(session), before)
        session.ema = None
        assert session.evaluate("val") != averaged


# -- settling


def test_adam_init_trains_the_last_norm_only_and_only_statistics_move_besides(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        rewrite = InsertBlock(init="adam", settle_lr=0.01, settle_epochs=3).attempt(session.model.graph, "s1")
        session.propose(rewrite)
        session.accept()
        before, momentum = state(session), moments(session)
        settled = session.settle(rewrite.settle, 2.0, lambda: False)  # no accuracy is above 2: all epochs are used
        assert settled["epochs"] == 3 and len(settled["train.accuracy"]) == 3
        changed = {name for name, tensor in state(session).items() if not torch.equal(tensor, before[name])}
        slots = {"s1.1.bn2.weight", "s1.1.bn2.bias"}
        assert slots <= changed
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        assert all(name.endswith(buffers) for name in changed - slots) and changed - slots
        assert all(same_tensors(kept, moments(session)[name]) for name, kept in momentum.items())
        assert all(p.requires_grad and p.grad is None for p in session.model.parameters())
        session.train(1, 1, None, lambda: False)


def test_settling_stops_at_its_target_or_when_told(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        rewrite = InsertBlock(init="adam").attempt(session.model.graph, "s2")
        session.propose(rewrite)
        session.accept()
        assert session.settle(rewrite.settle, -1.0, lambda: False)["epochs"] == 1
        assert session.settle(rewrite.settle, 2.0, lambda: True) is None


# -- phases


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        (replace(PLAN, optimizer=replace(SGD, lr=0.01)), True),
        (replace(PLAN, reset_optimizer=True), False),
        (replace(PLAN, optimizer=OptimizerPlan("adamw", lr=1e-3)), False),
    ],
    ids=["kept", "reset", "another kind"],
)
def test_a_phase_begins_with_the_state_of_the_one_before_or_empty(
    second: TrainPlan, kept: bool, tmp_path: Path
) -> None:
    with opened(tmp_path) as session:
        before, average = moments(session), session.ema
        session.begin_phase(second, 4, resumed=False)
        after = moments(session)
        assert after.keys() == (before.keys() if kept else set())
        assert all(same_tensors(after[name], before[name]) for name in after)
        assert session.ema is average  # the average does not care which optimizer moves the weights
        assert session.learning_rate(0) == second.optimizer.lr
        session.train(1, 0, None, lambda: False)
        session.begin_phase(replace(second, ema_decay=None), 4, resumed=False)
        assert session.ema is None


# -- checkpoints


def test_a_checkpoint_brings_everything_back_bit_for_bit(tmp_path: Path) -> None:
    plan = replace(PLAN, optimizer=OptimizerPlan("adamw", lr=1e-2, weight_decay=0.1, decay_norms=False))
    with opened(tmp_path, plan=plan) as first:
        grow(first, init="gaussian")
        first.train(1, 1, None, lambda: False)
        first.save(tmp_path / "c", 5, {"ordinal": 1, "graph": first.model.graph.to_json()}, 2)
        first._writer.flush()  # written from a thread
        graph = first.model.graph
        second = TorchBackend().open(setup(tmp_path))
        saved = second.newest(tmp_path / "c")
        assert saved is not None and saved.meta["optimizer_kind"] == "adamw" and saved.problems == ()
        second.load(saved, Graph.from_json(saved.meta["graph"]))
        second.begin_phase(plan, 8, resumed=True)
        assert second.model.graph == graph and second.model.ordinal == 1
        assert same_tensors(state(second), state(first))
        assert same_tensors(dict(second.ema.tensors), dict(first.ema.tensors))
        assert moments(second).keys() == moments(first).keys()
        assert all(same_tensors(moments(second)[name], kept) for name, kept in moments(first).items())
        for session in (first, second):
            grow(session, "s2", init="gaussian")
            session.train(2, 2, None, lambda: False)
        assert same_tensors(state(second), state(first))
        second.close()


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        session.save(tmp_path / "c", 1, {"ordinal": 0}, 2)
    other = TorchBackend().open(setup(tmp_path))
    saved = other.newest(tmp_path / "c")
    assert saved is not None
    with pytest.raises(CheckpointError, match="its weights are not those of its network; restore it from a copy"):
        other.load(saved, pyramid((2, 1), 4, size=8, classes=3))
    other.close()


# -- misfits


def test_data_and_network_must_fit(tmp_path: Path) -> None:
    session = TorchBackend().open(setup(tmp_path))
    cases: Mapping[str, Graph] = {
        r"network takes \[3, 16, 16\], data set 'synthetic' has examples of \[3, 8, 8\]; change": pyramid(
            (1,), 4, size=16
        ),
        r"gives \[10\] logits, data set 'synthetic' has 3 classes; set `classes: 3`": pyramid((1,), 4, size=8),
        "one input and one output, this one has 1 and 2": _two_outputs(),
    }
    for message, graph in cases.items():
        with pytest.raises(DataError, match=message):
            session.build(graph, initial(graph))
    session.close()


def _two_outputs() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    draft.output(draft.add("flatten", x, "flat"))
    draft.output(draft.add("global_avg_pool", x, "pool"))
    return draft.commit()


# -- a false claim, in the engine


@dataclass(frozen=True)
class Liar(Pass):
    """Inserts a loud block and calls it exact."""

    def sites(self, graph: Graph) -> list[str]:
        return [stage.path for stage in graph.stages]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        InsertBlock(init="gaussian").rewrite(draft, site, seen)
        draft.claim("exact")


def test_a_false_claim_stops_the_run_with_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "_objects", dict(passes._objects))
    register("liar")(Liar)
    sessions: list[TorchSession] = []
    seen: list[dict[str, torch.Tensor]] = []

    class Watched(TorchSession):
        def __init__(self, given: Setup) -> None:
            super().__init__(given)
            sessions.append(self)

        def propose(self, rewrite: Any) -> Any:
            seen.append(state(self))
            return super().propose(rewrite)

    monkeypatch.setattr("nasir.backends.torch.backend.TorchSession", Watched)
    spec = write_spec(tmp_path, SPEC.replace("insert-block: {init: gaussian}", "liar: {}"))
    with pytest.raises(
        ClaimError, match=r"liar at s1 claims to be exact, but changes the logits .* by up to"
    ) as caught:
        nasir.api.run(spec, tmp_path / "run")
    assert "in liar at s1, after epoch 1 of phase 'grow'" in caught.value.__notes__
    (session,) = sessions
    assert session.model.graph.depths() == {"s1": 1, "s2": 1} and session.model.ordinal == 0
    assert same_tensors(state(session), seen[0])
    held = [id(p) for group in session.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in session.model.parameters())
    kinds = [record.kind for record in read_journal(tmp_path / "run" / "journal.jsonl")[0]]
    assert kinds[-1] == "decision" and "rewrite" not in kinds
    # the passes that ship are still there under their own names
    assert passes.get("remove-block") is RemoveBlock
    assert session.model.eval()(images(2, 8)).shape == (2, 3)


def test_adam_init_settles_within_a_run_and_its_outcome_is_journaled(tmp_path: Path) -> None:
    options = "insert-block: {init: adam, settle_epochs: 2, settle_lr: 0.01}"
    spec = write_spec(
        tmp_path, SPEC.replace("insert-block: {init: gaussian}", options).replace("at_most: 3", "at_most: 2")
    )
    run = nasir.api.run(spec, tmp_path / "run")
    accuracies = {r.epoch: r.metrics["train.accuracy"] for r in run.journal if isinstance(r, EpochRecord)}
    settled = [record for record in run.journal if isinstance(record, RewriteRecord)]
    assert len(settled) == 2 and run.graph.depths() == {"s1": 2, "s2": 2}
    for record in settled:
        outcome = record.settle
        assert outcome["target"] == accuracies[record.epoch] - 0.005
        reached = outcome["train.accuracy"][-1] > outcome["target"]
        assert reached or outcome["epochs"] == 2
        assert not any(accuracy > outcome["target"] for accuracy in outcome["train.accuracy"][:-1])


def test_a_deterministic_session_sets_what_cublas_needs_and_its_switches_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sessions a process has, and in whatever order they end."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    assert not before[0]
    strictness: dict[bool, list[bool]] = {True: [], False: []}
    sessions = {strict: TorchBackend().open(setup(tmp_path, deterministic=strict)) for strict in (True, False)}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    network = pyramid((1, 1), 4, size=8, classes=3)
    for strict, session in sessions.items():
        session.build(network, initial(network))
        session.begin_phase(PLAN, 8, resumed=False)

        def note(strict: bool = strict) -> bool:
            strictness[strict].append(torch.are_deterministic_algorithms_enabled())
            return False

        session.train(0, 0, None, note)
        assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
    sessions[True].close()
    sessions[False].train(1, 1, None, lambda: note(False))
    sessions[False].close()
    assert set(strictness[True]) == {True} and set(strictness[False]) == {False}
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_a_report_that_cannot_be_written_does_not_hide_why_a_run_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nasir.report.write_report", full)
    with pytest.raises(Preempted):
        nasir.api.run(write_spec(tmp_path), tmp_path / "run", signals=After(13))
    assert [r.kind for r in read_journal(tmp_path / "run" / "journal.jsonl")[0]][-1] == "checkpoint"


def test_a_run_says_that_it_is_done_once_its_last_weights_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint._write

    def slowly(*arguments: Any) -> Path:
        time.sleep(0.3)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "_write", slowly)
    last: list[Path] = []
    there: list[bool] = []

    def listen(record: Any) -> None:
        if isinstance(record, CheckpointRecord):
            last[:] = [tmp_path / "run" / record.path]
        if isinstance(record, EndRecord):
            there[:] = [(path / "manifest.json").is_file() for path in last]

    nasir.api.run(write_spec(tmp_path), tmp_path / "run", listener=listen)
    assert there == [True]
