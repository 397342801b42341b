"""Kill, stop and resume real processes: what comes out must equal the uninterrupted run bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import warm
from held import Hold
from small_runs import SPEC, stable, weights, write_spec

from nasir.journal.directory import RunDirectory
from nasir.records import CheckpointRecord


def started(*arguments: str, errors: Path) -> warm.Process:
    return warm.Process("-m", "nasir", *arguments, stderr=errors)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of an uninterrupted run; what holds runs of the spec is made in its folder."""
    folder = tmp_path_factory.mktemp("reference")
    spec = write_spec(folder, SPEC + Hold(folder, begin=False).lines)
    done = warm.nasir("run", str(spec), "--out", str(folder / "run"))
    assert done.returncode == 0, done.stderr
    return spec, folder / "run"


def assert_equal(run: Path, reference: Path) -> None:
    assert stable(RunDirectory.open(run).effective()) == stable(RunDirectory.open(reference).effective())
    assert weights(run) == weights(reference)


@pytest.mark.slow
def test_kill_9_at_random_moments_then_resume_equals_the_uninterrupted_run(
    reference: tuple[Path, Path], tmp_path: Path
) -> None:
    """20 kills over several runs, in start-up, epochs, rewrites and checkpoint writes alike."""
    spec, expected = reference
    chance = random.Random(0)
    kills = runs = 0
    while kills < 20:
        run, runs = tmp_path / f"run{runs}", runs + 1  # one may end before it is killed
        arguments = ["run", str(spec), "--out", str(run)]
        while True:
            process = started(*arguments, errors=tmp_path / "stderr")
            journal = run / "journal.jsonl"
            while process.poll() is None and not (journal.exists() and journal.stat().st_size):
                time.sleep(0.002)  # a moment before the first record tells nothing new
            try:
                process.wait(timeout=chance.uniform(0.0, 1.2) if kills < 20 else 300)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                arguments = ["resume", str(run)]
        assert process.returncode == 0, (tmp_path / "stderr").read_text()
        assert_equal(run, expected)
    assert kills >= 20


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_writes_a_checkpoint_and_resume_equals_the_uninterrupted_run(
    reference: tuple[Path, Path], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    spec, expected = reference
    run, hold = tmp_path / "run", Hold(reference[0].parent)
    process = started("run", str(spec), "--out", str(run), errors=tmp_path / "stderr")
    while process.poll() is None and not (run.exists() and RunDirectory(run).checkpoint_steps()):
        time.sleep(0.01)
    process.send_signal(number)  # in the midst of its second epoch, where it waits
    assert process.wait() == code, (tmp_path / "stderr").read_text()
    hold.release()
    records = RunDirectory.open(run).records()
    assert isinstance(records[-1], CheckpointRecord)
    done = warm.nasir("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert_equal(run, expected)


def test_a_finished_run_resumes_to_itself_and_a_locked_one_is_refused(reference: tuple[Path, Path]) -> None:
    _, run = reference
    before = (run / "journal.jsonl").read_bytes()
    assert warm.nasir("resume", str(run)).returncode == 0
    assert (run / "journal.jsonl").read_bytes() == before
    with RunDirectory.open(run).lock():
        refused = warm.nasir("resume", str(run))
    assert refused.returncode == 1 and "in use by pid" in refused.stderr


def test_replay_rebuilds_every_network_and_training_again_gives_the_same_run(
    reference: tuple[Path, Path], tmp_path: Path
) -> None:
    _, run = reference
    done = warm.nasir("replay", str(run), "--train", str(tmp_path / "again"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal bit for bit" in done.stdout
    assert weights(tmp_path / "again") == weights(run)
