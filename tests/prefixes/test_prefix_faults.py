"""Kills, damage and disputes around a store of prefixes: a run comes to the same end, and never fails because of it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from prefix_runs import BASE, EVOLVED, SGD, assert_same, changed, spec_of, store_in, taken

from nasir.api import resume, run
from nasir.backends.torch.session import TorchSession
from nasir.errors import Preempted
from nasir.journal.directory import RunDirectory
from nasir.policy.rules import RulesPolicy
from nasir.records import EpochRecord, PrefixRecord, Record
from nasir.running.engine import Signals
from nasir.running.prefixes import PrefixStore
from nasir.running.prefixes.store import HEADER, RECORDS, State
from nasir.running.replay import replay_graphs

SECOND = changed(BASE, phases__1__optimizer__sgd__lr=0.01)  # shares the 5 epochs of the first phase
KILLED, WORKER = (Path(__file__).parent / name for name in ("killed_runs.py", "prefix_worker.py"))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that a first run has filled, that run, and the second one trained alone."""
    folder = tmp_path_factory.mktemp("left")
    run(spec_of(folder / "specs", BASE), folder / "study" / "first", prefixes=store_in(folder / "study"))
    run(spec_of(folder / "specs", SECOND), folder / "alone")
    return folder


@pytest.fixture
def study(left: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil, with the spec of the second run at the same place as before."""
    shutil.copytree(left / "study", tmp_path / "study")
    return tmp_path / "study"


def second(left: Path) -> Any:
    return spec_of(left / "specs", SECOND)


def deepest(store: PrefixStore) -> list[State]:
    """All states, the deepest first."""
    (family,) = [entry for entry in store.folder.iterdir() if not entry.name.startswith(".")]
    return store.states(family.name)


# -- killed, stopped, replayed


MOMENTS = ("start", "epoch", "rewrite", "prefix", "checkpoint")


@pytest.fixture(scope="module")
def killed(left: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the study in a folder for each moment, with the second run in it, killed then."""
    folder = tmp_path_factory.mktemp("killed")
    for moment in MOMENTS:
        shutil.copytree(left / "study", folder / moment / "study")
        words = [KILLED, torch.get_num_threads(), second(left).source, folder / moment / "study", moment]
        ended = warm.completed(*map(str, words))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_or_after_it_takes_over_it_resumes_to_the_same_end(moment: str, left: Path, killed: Path) -> None:
    study = killed / moment / "study"
    done = resume(study / "killed", prefixes=store_in(study))
    assert_same(done, left / "alone")
    assert done.prefix_epochs == 5
    replay_graphs(RunDirectory(done.path))


def test_resumed_without_the_store_it_goes_on_from_its_own_checkpoint(left: Path, study: Path) -> None:
    signals = Signals()

    def stop(record: Record) -> None:
        if isinstance(record, PrefixRecord):
            signals.exit_code = 75

    with pytest.raises(Preempted, match="5 epochs"):
        run(second(left), study / "second", prefixes=store_in(study), listener=stop, signals=signals)
    shutil.rmtree(study / "prefixes")
    done = resume(study / "second")
    assert done.prefix_epochs == 5
    assert_same(done, left / "alone")


def test_killed_long_before_its_own_first_checkpoint_it_keeps_moments_and_averages(tmp_path: Path) -> None:
    first = changed(BASE, checkpoint={"every": 50}, phases__0__ema={"decay": 0.9})
    other = changed(first, phases__0__rules__0__every=4)
    run(spec_of(tmp_path, first), tmp_path / "first", prefixes=store_in(tmp_path))
    alone = run(spec_of(tmp_path, other), tmp_path / "alone")

    def fail(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec_of(tmp_path, other), tmp_path / "second", prefixes=store_in(tmp_path), listener=fail)
    done = resume(tmp_path / "second")
    assert done.prefix_epochs == 2
    assert_same(done, alone)


def test_a_run_that_took_over_is_replayed_and_reported(left: Path, study: Path) -> None:
    done = run(second(left), study / "second", prefixes=store_in(study))
    assert done.prefix_epochs == 5 and done.graph == run(second(left), study / "again").graph
    graphs = replay_graphs(RunDirectory(done.path))
    assert graphs[-1] == done.graph and len(graphs) == 3
    assert "taken over" in done.report.read_text()


def test_a_resumed_run_leaves_states_too(study: Path, left: Path) -> None:
    signals = Signals()

    def stop(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 3:
            signals.exit_code = 75

    first = spec_of(left / "specs", BASE)
    with pytest.raises(Preempted):
        run(first, study / "broken", listener=stop, signals=signals, prefixes=store_in(study / "other"))
    shutil.rmtree(study / "prefixes")
    resume(study / "broken", prefixes=store_in(study))
    assert [state.epochs for state in deepest(store_in(study))] == [7, 5, 4]
    done = run(second(left), study / "second", prefixes=store_in(study))
    assert done.prefix_epochs == 5
    assert_same(done, left / "alone")


# -- damage

DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut short": lambda path: os.truncate(next(path.glob("step_*/model.safetensors")), 100),
    "weights gone": lambda path: next(path.glob("step_*/model.safetensors")).unlink(),
    "manifest gone": lambda path: next(path.glob("step_*/manifest.json")).unlink(),
    "records changed": lambda path: (path / RECORDS).write_text('{"kind":"phase"}\n'),
    "header changed": lambda path: (path / HEADER).write_text("{}"),
    "a network changed": lambda path: damaged(max((path / "blobs").glob("*.json"))),
    "a network gone": lambda path: min((path / "blobs").glob("*.json")).unlink(),
    "all networks gone": lambda path: [blob.unlink() for blob in (path / "blobs").glob("*.json")],
    "another state's checkpoint": lambda path: exchanged(path),
}


def damaged(file: Path) -> None:
    """Other contents under another inode: hard links elsewhere stay as they are."""
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-2] + b" }")


def exchanged(path: Path) -> None:
    """The weights of another state in this one's place."""
    other = next(entry for entry in path.parent.iterdir() if entry.name.startswith("000002"))
    shutil.rmtree(next(path.glob("step_*")))
    shutil.copytree(next(other.glob("step_*")), path / "step_2")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_passed_over_for_the_next(damage: str, left: Path, study: Path) -> None:
    store = store_in(study)
    state = next(state for state in deepest(store) if state.epochs == 5)
    DAMAGES[damage](state.path)
    heard: list[str] = []
    done = run(second(left), study / "second", prefixes=store_in(study), notice=heard.append)
    assert_same(done, left / "alone")
    assert done.prefix_epochs == 4
    if damage != "header changed":
        assert len(heard) == 1 and "5 epochs was damaged and is removed" in heard[0]
    assert 5 in [state.epochs for state in deepest(store_in(study))], "the run has stored it anew"


def test_with_all_states_damaged_the_run_trains_alone(left: Path, study: Path) -> None:
    for state in deepest(store_in(study)):
        os.truncate(next(state.path.glob("step_*/model.safetensors")), 0)
    done = run(second(left), study / "second", prefixes=store_in(study))
    assert done.prefix_epochs == 0
    assert_same(done, left / "alone")


def test_a_state_evicted_under_its_reader_is_passed_over(
    left: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, store, heard = TorchSession.newest, store_in(study), []

    def slow(self: TorchSession, directory: Path) -> Any:
        if directory.name.startswith("000005"):
            store.drop(next(state for state in deepest(store) if state.epochs == 5))
        return newest(self, directory)

    monkeypatch.setattr(TorchSession, "newest", slow)
    done = run(second(left), study / "second", prefixes=store_in(study), notice=heard.append)
    assert done.prefix_epochs == 4 and not heard
    assert_same(done, left / "alone")


def test_a_damaged_individual_makes_its_states_unusable(tmp_path: Path) -> None:
    other = changed(EVOLVED, phases__0__rules__1__do__widen__factor=1.25)  # shares 4 epochs
    store = store_in(tmp_path / "study")
    run(spec_of(tmp_path / "specs", EVOLVED), tmp_path / "study" / "first", prefixes=store)
    for state in deepest(store):
        for file in state.path.glob("individuals/*/step_0/model.safetensors"):
            damaged(file)
    alone = run(spec_of(tmp_path / "specs", other), tmp_path / "alone")
    heard: list[str] = []
    done = run(spec_of(tmp_path / "specs", other), tmp_path / "study" / "other", prefixes=store, notice=heard.append)
    assert_same(done, alone)
    assert done.prefix_epochs == 1 and len(heard) == 3, "before the first decision nothing was put aside"


# -- a store that cannot be used


def test_a_full_disk_costs_the_run_nothing(left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    heard: list[str] = []
    monkeypatch.setattr(TorchSession, "export", full)
    done = run(second(left), tmp_path / "second", prefixes=store_in(tmp_path), notice=heard.append)
    assert_same(done, left / "alone")
    assert len(heard) == 1 and "no further states" in heard[0] and "No space" in heard[0]


def test_a_store_that_is_no_folder_costs_the_run_nothing(left: Path, tmp_path: Path) -> None:
    (tmp_path / "prefixes").write_text("a file")
    heard: list[str] = []
    done = run(second(left), tmp_path / "second", prefixes=store_in(tmp_path), notice=heard.append)
    assert_same(done, left / "alone")
    assert len(heard) == 1


def test_saves_that_cost_too_much_are_left_out(left: Path, tmp_path: Path) -> None:
    run(second(left), tmp_path / "second", prefixes=store_in(tmp_path, share=0.0))
    assert [state.epochs for state in deepest(store_in(tmp_path))] == [2], "what the first one costs is not known"


def test_the_bound_holds(left: Path, tmp_path: Path) -> None:
    run(second(left), tmp_path / "one", prefixes=store_in(tmp_path))
    size = max(state.bytes for state in deepest(store_in(tmp_path)))
    bounded = tmp_path / "bounded"
    bounded.mkdir()
    done = run(second(left), bounded / "one", prefixes=store_in(bounded, limit=2 * size))
    kept = deepest(store_in(bounded))
    assert 1 <= len(kept) <= 2 and sum(state.bytes for state in kept) <= 2 * size
    assert_same(done, left / "alone")


# -- what makes runs differ that no spec shows


def test_another_number_of_threads_shares_nothing(left: Path, study: Path) -> None:
    assert taken(second(left), study / "equal", store_in(study)) == 5
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert taken(second(left), study / "second", store_in(study)) == 0
    finally:
        torch.set_num_threads(before)


def test_a_run_resumed_elsewhere_shares_nothing_more(tmp_path: Path) -> None:
    """Its first epochs came about with another number of threads than its last."""
    store, signals, heard = store_in(tmp_path), Signals(), []

    def stop(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 6:  # of 7: more threads than cores are slow
            signals.exit_code = 75

    with pytest.raises(Preempted):
        run(spec_of(tmp_path, BASE), tmp_path / "first", prefixes=store, signals=signals, listener=stop)
    states = [state.key for state in deepest(store)]
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        resume(tmp_path / "first", prefixes=store, notice=heard.append)
    finally:
        torch.set_num_threads(before)
    assert states and [state.key for state in deepest(store)] == states
    assert any("nothing of it is shared" in text for text in heard)


def test_other_data_under_the_same_name_share_nothing(tmp_path: Path) -> None:
    spec = changed(BASE, data__dataset="npz", data__options={"path": "data.npz"})
    store, specs = store_in(tmp_path), tmp_path / "specs"
    specs.mkdir()
    taken = []
    for number, seed in enumerate((0, 0, 1)):
        draw = np.random.default_rng(seed)
        arrays = {
            f"{name}_{part}": draw.integers(0, top, (size, *shape), dtype=np.uint8)
            for part, size in (("train", 64), ("test", 24))
            for name, top, shape in (("x", 256, (3, 8, 8)), ("y", 3, ()))
        }
        np.savez(specs / "data.npz", **arrays)
        taken.append(run(spec_of(specs, spec), tmp_path / str(number), prefixes=store).prefix_epochs)
    assert taken == [0, 7, 0]


PLUGIN = """\
from dataclasses import dataclass

from nasir import Pass, register


@register("{name}")
@dataclass(frozen=True)
class Nothing(Pass):
    def sites(self, graph):
        return ["network"]

    def rewrite(self, draft, site, seen):
        pass
"""


def test_another_plugin_shares_nothing_and_one_makes_lengths_matter(tmp_path: Path) -> None:
    specs, store = tmp_path / "specs", store_in(tmp_path)
    specs.mkdir()
    spec = changed(BASE, plugins=["plugin.py"], phases=[{"name": "only", "epochs": 2, "optimizer": SGD}])
    (specs / "plugin.py").write_text(PLUGIN.format(name="nothing-one"))
    first = run(spec_of(specs, spec), tmp_path / "first", prefixes=store)
    same = run(spec_of(specs, spec), tmp_path / "same", prefixes=store)
    longer = run(spec_of(specs, changed(spec, phases__0__epochs=3)), tmp_path / "longer", prefixes=store)
    (specs / "plugin.py").write_text(PLUGIN.format(name="nothing-two"))
    other = run(spec_of(specs, spec), tmp_path / "other", prefixes=store)
    assert [done.prefix_epochs for done in (first, same, longer, other)] == [0, 2, 0, 0]


def test_a_policy_that_decides_otherwise_when_asked_again_shares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, asked, heard = RulesPolicy.decide, [], []

    def moody(self: RulesPolicy, *arguments: Any) -> Any:
        asked.append(1)
        decisions = decide(self, *arguments)
        return decisions if len(asked) % 2 else ()

    monkeypatch.setattr(RulesPolicy, "decide", moody)
    store = store_in(tmp_path)
    run(spec_of(tmp_path, BASE), tmp_path / "run", prefixes=store, notice=heard.append)
    assert any("decides otherwise" in text for text in heard)


# -- several at once


@pytest.mark.slow
def test_several_processes_share_a_small_store(tmp_path: Path) -> None:
    """Each of four processes trains four specs that overlap, in another order; states come and go all the time."""
    specs = []
    for number in range(4):
        rate, every = 0.01 * (1 + number % 2), 2 + number // 2
        spec = changed(BASE, phases__0__rules__0__every=every, phases__1__optimizer__sgd__lr=rate)
        specs.append(str(spec_of(tmp_path / str(number), spec).source))
    workers = []
    told, errors = ([tmp_path / f"{name}{worker}" for worker in range(4)] for name in ("told", "errors"))
    for worker in range(4):
        order = [*specs[worker:], *specs[:worker]]
        arguments = ["1", "400000", str(tmp_path / "study"), str(worker), *order]
        workers.append(warm.Process(str(WORKER), *arguments, stdout=told[worker], stderr=errors[worker]))
    assert [worker.wait() for worker in workers] == [0, 0, 0, 0]
    assert [file.read_text() for file in told + errors] == [""] * 8
    taken = 0
    for number in range(4):
        runs = [tmp_path / "study" / f"{number}-{worker}" for worker in range(4)]
        for path in runs[1:]:
            assert_same(path, runs[0])
        taken += sum(any(isinstance(r, PrefixRecord) for r in RunDirectory(path).effective()) for path in runs)
    assert taken >= 4
