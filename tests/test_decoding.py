"""Images decoded by many processes: the same pixels and errors with any number, and no process left behind."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from nasir.cores import THREADS, threads_allowed
from nasir.errors import DataError
from nasir.images import pool
from nasir.images.decode import DamagedImage, Encoded, View, decode
from nasir.images.pool import decode_all, decode_each
from nasir.images.worker import Lost, Worker

ROOT = Path(__file__).parent.parent
PLAIN = View((7, 6), fixed=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(random.integers(0, 256, (7, 6, 3), dtype=np.uint8)).save(images / f"{number:02}.jpg")
    return images


@pytest.fixture
def paths(folder: Path) -> tuple[str, ...]:
    return tuple(map(str, sorted(folder.iterdir())))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PIECE", 3)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """The workers that a test starts, which must all be gone at its end."""
    made: list[Worker] = []
    begin = Worker.__init__

    def noted(worker: Worker, *given: Any) -> None:
        begin(worker, *given)
        made.append(worker)

    monkeypatch.setattr(Worker, "__init__", noted)
    yield made
    assert all(worker._process.returncode is not None for worker in made)


@pytest.mark.parametrize("view", [PLAIN, View((4, 4), 1), View((5, 5), 3, shorter=6)])
def test_any_number_of_processes_gives_the_same_pixels(
    view: View, paths: tuple[str, ...], started: list[Worker]
) -> None:
    wanted = np.stack([decode(path, view).transpose(2, 0, 1) for path in paths])
    encoded = [Encoded(path, Path(path).read_bytes()) for path in paths]
    for sources in (paths, encoded):
        for workers in (0, 1, 2):
            assert np.array_equal(decode_all(sources, view, workers), wanted)
    assert len(started) == 2 * 2


@pytest.mark.parametrize("workers", [0, 3])
def test_all_images_that_cannot_be_used_are_listed_whoever_meets_them(
    workers: int, paths: tuple[str, ...], tmp_path: Path
) -> None:
    sources = list(paths)
    for place in (9, 11, 35):
        sources[place] = str(tmp_path / f"{place}.jpg")
        Path(sources[place]).write_bytes(b"not an image")
    with pytest.raises(DamagedImage) as caught:
        decode_all(sources, PLAIN, workers)
    head, *lines = str(caught.value).splitlines()
    assert head == "3 of 40 images cannot be used:" and len(lines) == 3
    for line, place in zip(lines, (9, 11, 35), strict=True):
        assert line.startswith(f"{sources[place]} is not a readable image (") and "remove or replace it" in line
    sources[2] = str(tmp_path / "2.png")
    Image.new("RGB", (9, 9)).save(sources[2])
    with pytest.raises(DataError, match=r"2\.png is 9x9, the first image is 6x7") as other:
        decode_all(sources, PLAIN, workers)
    assert not isinstance(other.value, DamagedImage)
    decoded = decode_each(sources, PLAIN, workers)
    assert [(fault.place, fault.damaged) for fault in decoded.faults] == [(2, False), (9, True), (11, True), (35, True)]
    assert decoded.sizes.tolist() == [[0, 0] if place in (2, 9, 11, 35) else [7, 6] for place in range(40)]
    sources[5:30] = [str(tmp_path / "9.jpg")] * 25
    with pytest.raises(DataError, match="27 of 40 images cannot be used; the first 20:") as many:
        decode_all(sources, PLAIN, workers)
    assert len(str(many.value).splitlines()) == 21


def test_a_lost_process_is_told_and_costs_no_image(
    paths: tuple[str, ...], started: list[Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = decode_all(paths, PLAIN, 0)
    ask = Worker.decode_into

    def lose(worker: Worker, *given: Any) -> Any:
        if worker is started[0]:
            worker.kill()
        return ask(worker, *given)

    monkeypatch.setattr(Worker, "decode_into", lose)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(decode_all(paths, PLAIN, 2), wanted)
    assert "a process that decodes images was lost" in caplog.text


@pytest.mark.parametrize("executable", ["", "/nowhere/python", "/bin/false"])
def test_without_a_python_to_start_this_process_decodes(
    executable: str, paths: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert np.array_equal(decode_all(paths, PLAIN, 2), decode_all(paths, PLAIN, 0))
    assert "this one decodes in its place" in caplog.text


def test_an_interrupt_ends_the_processes(
    paths: tuple[str, ...], started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "decode_into", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_all(paths, PLAIN, 3)
    assert started  # and the fixture sees that all are gone


def test_what_a_worker_cannot_answer_is_met_by_the_one_that_asks(tmp_path: Path, paths: tuple[str, ...]) -> None:
    worker = Worker(View((7, 6), channels=-1))  # no such array
    try:
        with pytest.raises(Lost):
            worker.decode_into(np.empty((1, 3, 7, 6), np.uint8), np.empty((1, 2), np.int32), paths[:1])
    finally:
        worker.close()


def test_settings_of_pillow_hold_in_all_processes(
    paths: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (7, 6, 3), dtype=np.uint8)).save(image, "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.getvalue()[:120])
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"cut\.png is not a readable image"):
            decode_all([str(cut), *paths], PLAIN, workers)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.array_equal(decode_all([str(cut), *paths], PLAIN, 2), decode_all([str(cut), *paths], PLAIN, 0))


def _decode_in_child(paths: tuple[str, ...], results: Any) -> None:
    results.put(decode_all(paths, PLAIN, 2).tobytes())


def test_a_daemonic_process_may_use_processes(paths: tuple[str, ...]) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_decode_in_child, args=(paths, results), daemon=True)
    child.start()
    assert results.get() == decode_all(paths, PLAIN, 0).tobytes()
    child.join()


SCRIPT = """\
import os, pathlib, signal, sys
from nasir.images import pool
from nasir.images.decode import View
from nasir.images.worker import Worker
print("script", flush=True)
view = View((7, 6), fixed=True)
paths = sorted(map(str, pathlib.Path(sys.argv[1]).iterdir()))
if sys.argv[2] == "wait":
    worker = Worker(view)
    try:
        print(worker._process.pid, flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        os._exit(130)
print(int(pool.decode_all(paths, view, 2).sum()), flush=True)
"""


def _script(tmp_path: Path, folder: Path, how: str) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of the user that has the name of a module')\n")
    command = [sys.executable, "-P", str(tmp_path / "script.py"), str(folder), how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        command, env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path, folder: Path, paths: tuple[str, ...]) -> None:
    printed, errors = _script(tmp_path, folder, "decode").communicate()
    assert (printed.split(), errors) == (["script", str(int(decode_all(paths, PLAIN, 0).sum()))], "")


def _ended(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # for its new parent to collect


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_with_the_one_that_started_it(number: signal.Signals, tmp_path: Path, folder: Path) -> None:
    with _script(tmp_path, folder, "wait") as script:
        assert script.stdout is not None and script.stderr is not None
        assert script.stdout.readline() == "script\n"
        worker = int(script.stdout.readline())
        script.send_signal(number)
        script.wait()
        errors = script.stderr.read()  # ends when the worker, which has the other end too, is gone
    while not _ended(worker):
        time.sleep(0.01)
    assert errors == ""


def test_processes_are_few_where_cores_threads_or_images_are(
    monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...]
) -> None:
    used: list[tuple[bool, int]] = []
    monkeypatch.setattr(pool._Work, "run", lambda work, threads: used.append((work._processes, threads)))
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    cases = [
        (16, "", 60_000, True, 16),
        (16, "4", 60_000, True, 4),
        (16, "", 5_500, True, 5),
        (1, "", 60_000, False, 1),
    ]
    cases += [(16, "", 2_999, False, 16), (16, "1", 60_000, False, 1), (64, "", 60_000, True, 32)]
    for number, limit, count, _, _ in cases:
        monkeypatch.setattr(pool, "cores", lambda number=number: number)
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        decode_all(paths[:1] * count, View((1, 1)))
    assert used == [case[3:] for case in cases]
    assert threads_allowed({"OMP_NUM_THREADS": "2,1"}, 8) == 2
