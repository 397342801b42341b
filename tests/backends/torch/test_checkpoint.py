"""Checkpoints: exact round trips, atomicity under kill -9 and failing disks, detection of damage, the async writer."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import warm

from nasir.backends.torch.weights import checkpoint
from nasir.backends.torch.weights.checkpoint import AsyncWriter, latest, load, save, set_aside
from nasir.errors import CheckpointError
from nasir.files import remove_left
from nasir.training.manifest import manifest_bytes, steps


def tensors(step: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2) + step
    return {
        "model": {"conv.weight": weight, "bn.num_batches_tracked": torch.tensor(step)},
        "optimizer": {"conv.weight.momentum": weight * 0.5},
    }


def test_every_layout_and_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    tied = torch.nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    given = {
        "plain": base,
        "channels_last": base.clone().to(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 2),
        "slice": base[1:3],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(3.25),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "bool": torch.tensor([True, False]),
        "bf16": base.bfloat16(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "embedding.weight": tied,
        "head.weight": tied,
    }
    path = save(tmp_path, 3, {"model": given, "none": {}}, {"lr": 0.1 + 0.2, "rng": [1, 2**63]})
    loaded = load(path)
    assert loaded.step == 3 and loaded.meta == {"lr": 0.1 + 0.2, "rng": [1, 2**63]} and loaded.tensors["none"] == {}
    assert set(loaded.tensors["model"]) == set(given)
    for key, tensor in given.items():
        again = loaded.tensors["model"][key]
        assert again.shape == tensor.shape and again.dtype == tensor.dtype and again.is_contiguous(), key
        assert torch.equal(
            again.flatten().view(torch.uint8), tensor.detach().contiguous().flatten().view(torch.uint8)
        ), key
    assert loaded.tensors["model"]["head.weight"] is loaded.tensors["model"]["embedding.weight"]
    assert not loaded.tensors["model"]["head.weight"].requires_grad and tied.requires_grad
    assert sorted(file.suffix for file in path.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save(tmp_path / name, 1, tensors(1), {"b": 1, "a": 2}) for name in ("a", "b"))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_keeps_the_newest_two_at_least_and_drops_a_void_future(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step, tensors(step), {}, keep=1)
    assert steps(tmp_path) == (3, 10)
    save(tmp_path, 4, tensors(4), {}, keep=3)
    assert steps(tmp_path) == (3, 4)
    save(tmp_path, 4, tensors(40), {"again": True})
    assert load(tmp_path / "step_4").meta == {"again": True}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_3", "step_4"]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


DAMAGE = {"flip": flip, "cut": cut, "remove": lambda file: file.unlink(), "empty": lambda file: file.write_bytes(b"")}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_damage_is_found_and_the_previous_checkpoint_used(tmp_path: Path, damage: str, name: str) -> None:
    save(tmp_path, 1, tensors(1), {"epoch": 1})
    save(tmp_path, 2, tensors(2), {"epoch": 2})
    DAMAGE[damage](tmp_path / "step_2" / name)
    with pytest.raises(CheckpointError, match=name):
        load(tmp_path / "step_2")
    usable, warnings = latest(tmp_path)
    assert (
        usable is not None
        and usable.step == 1
        and torch.equal(usable.tensors["model"]["conv.weight"], tensors(1)["model"]["conv.weight"])
    )
    assert len(warnings) == 1 and name in warnings[0] and "going back to step 1" in warnings[0]
    DAMAGE[damage](tmp_path / "step_1" / name)
    with pytest.raises(CheckpointError, match="none of 2 checkpoints"):
        latest(tmp_path)


def test_damaged_ones_set_aside_do_not_count_among_those_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, tensors(step), {})
    (tmp_path / "step_3" / "manifest.json").write_text("{}")
    usable, _ = latest(tmp_path)
    assert usable is not None and usable.step == 2
    set_aside(tmp_path, usable.step)
    save(tmp_path, 4, tensors(4), {})
    assert steps(tmp_path) == (2, 4)
    assert (tmp_path / "step_3.damaged").is_dir()


def test_nothing_saved_yet_is_not_an_error(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") == (None, ())
    (tmp_path / "step_5.tmp.1").mkdir()
    assert latest(tmp_path) == (None, ())


@pytest.mark.parametrize("call", ["file", "fsync", "manifest", "rename"])
def test_a_failing_disk_leaves_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    save(tmp_path, 1, tensors(1), {})
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object, **__: object) -> None:
        raise full

    match call:
        case "file":
            monkeypatch.setattr(safetensors.torch, "save_file", fail)
        case "fsync":
            monkeypatch.setattr(os, "fsync", fail)
        case "manifest":
            monkeypatch.setattr(checkpoint, "fsync_directory", fail)
        case _:
            monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CheckpointError, match=r"step_2: not written: .*No space left.*usable so far: step_1"):
        save(tmp_path, 2, tensors(2), {})
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_1"]
    usable, warnings = latest(tmp_path)
    assert usable is not None and usable.step == 1 and not warnings


@pytest.mark.skipif(
    not os.access("/dev/shm", os.W_OK) or os.geteuid() == 0, reason="root writes to read-only directories"
)
def test_a_read_only_directory_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save(tmp_path, 1, tensors(), {})
    finally:
        tmp_path.chmod(0o700)


def test_bad_meta_and_group_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="meta data cannot be written"):
        save(tmp_path, 1, tensors(), {"bad": object()})
    with pytest.raises(CheckpointError, match=r"group '\.\./model'"):
        save(tmp_path, 1, {"../model": {}}, {})
    assert list(tmp_path.iterdir()) == []


def test_clean_removes_leftovers_of_the_dead_only(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f"step_1.tmp.{dead.pid}", f"step_2.tmp.{os.getpid()}", f"step_3.tmp.{dead.pid}.old"]
    living = f"step_4.tmp.{child.pid}"
    for name in (*names, living):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert sorted(remove_left(tmp_path)) == sorted(names)
    assert [entry.name for entry in tmp_path.iterdir()] == [living]
    child.communicate()


WRITER = """
import sys, torch
from pathlib import Path
from nasir.backends.torch.weights.checkpoint import AsyncWriter, latest, save
torch.set_num_threads(1)
directory = Path(sys.argv[1])
found, _ = latest(directory)
step = found.step + 1 if found else 0
print("ready", flush=True)
def state(step):
    return {"model": {f"w{i}": torch.full((64, 512), float(step)) for i in range(8)}}
if sys.argv[2] == "sync":
    while True:
        save(directory, step, state(step), {"step": step})
        print(step, flush=True)
        step += 1
with AsyncWriter(directory) as writer:
    while True:
        writer.save(step, state(step), {"step": step})
        for path in writer.flush():
            print(path.name.removeprefix("step_"), flush=True)
        step += 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_kill_9_at_random_moments_always_leaves_the_last_finished_checkpoint(tmp_path: Path, mode: str) -> None:
    folder, told = tmp_path / "checkpoints", tmp_path / "told"
    folder.mkdir()
    os.mkfifo(told)
    chance = random.Random(mode)
    done = -1
    for rounds in range(5):
        child = warm.Process("-c", WRITER, str(folder), mode, stdout=told)
        with told.open() as heard:
            assert heard.readline() == "ready\n"
            done = max(done, *(int(heard.readline()) for _ in range(rounds % 3)), -1)
            time.sleep(chance.uniform(0.0, 0.15))
            child.kill()
            done = max([done, *(int(line) for line in heard.read().split())])
        child.wait()
        remove_left(folder)
        usable, warnings = latest(folder)
        assert not warnings and not list(folder.glob("*.tmp.*"))
        if usable is not None:
            assert usable.step >= done and usable.meta == {"step": usable.step}
            assert all(bool((tensor == usable.step).all()) for tensor in usable.tensors["model"].values())
    assert done > 0


def test_the_writer_snapshots_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = safetensors.torch.save_file

    def slow(*arguments: object, **options: object) -> None:
        assert gate.wait(10)
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", slow)
    state, meta = tensors(1), {"history": [1]}
    state["model"]["tied"] = state["model"]["conv.weight"]
    with AsyncWriter(tmp_path) as writer:
        writer.save(1, state, meta)
        state["model"]["conv.weight"].zero_()
        meta["history"].append(2)
        assert writer.finished() == ()
        gate.set()
        assert writer.flush() == (tmp_path / "step_1",) and writer.finished() == ()
    loaded = load(tmp_path / "step_1")
    assert loaded.meta == {"history": [1]}
    assert torch.equal(loaded.tensors["model"]["tied"], tensors(1)["model"]["conv.weight"])


def test_an_error_of_the_thread_surfaces_at_the_next_call_and_at_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with AsyncWriter(tmp_path) as writer:
        writer.save(1, tensors(1), {})
        with pytest.raises(CheckpointError, match="No space left"):
            writer.save(2, tensors(2), {})
    with pytest.raises(CheckpointError, match="No space left"), AsyncWriter(tmp_path) as writer:
        writer.save(1, tensors(1), {})
    with pytest.raises(RuntimeError, match="diverged") as raised, AsyncWriter(tmp_path) as writer:
        writer.save(1, tensors(1), {})
        raise RuntimeError("diverged")
    assert "No space left" in raised.value.__notes__[0]
    monkeypatch.undo()
    with AsyncWriter(tmp_path) as writer:
        writer.save(1, tensors(1), {})
    assert steps(tmp_path) == (1,)


def test_a_real_optimizer_goes_through(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.randn(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    named = {parameter: name for name, parameter in model.named_parameters()}
    moments = {f"{named[p]}.{key}": value for p, state in optimizer.state.items() for key, value in state.items()}
    loaded = load(save(tmp_path, 1, {"model": model.state_dict(), "optimizer": moments}, {}))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.tensors["model"][key], value)
    for key, value in moments.items():
        assert torch.equal(loaded.tensors["optimizer"][key], value)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_snapshot_in_stream_order(tmp_path: Path) -> None:
    weight = torch.zeros(512, 64, 3, 3, device="cuda").to(memory_format=torch.channels_last)
    state = {
        "model": {"w": weight, "tied": weight, "step": torch.tensor(1), "scalar": torch.tensor(2.0, device="cuda")}
    }
    with AsyncWriter(tmp_path, keep=20) as writer:
        for step in range(10):
            weight.fill_(step)
            writer.save(step, state, {})
            weight.fill_(-1)
    for step in range(10):
        loaded = load(tmp_path / f"step_{step}")
        assert bool((loaded.tensors["model"]["w"] == step).all())
        assert loaded.tensors["model"]["tied"] is loaded.tensors["model"]["w"]
    assert load(tmp_path / "step_9", "cuda").tensors["model"]["w"].is_cuda


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"../model": {"sha256": "", "bytes": 0, "aliases": {}}}, "not what this version of nasir writes"),
        ({"model": 5}, "not what this version of nasir writes"),
        ([], "not what this version of nasir writes"),
        ({"model": {"aliases": {"b": "gone"}}}, "the aliases of model are none of its tensors"),
        ({"model": {"aliases": 5}}, "the aliases of model are none of its tensors"),
        ({"model": {}}, "the aliases of model are none of its tensors"),
    ],
)
def test_a_manifest_that_was_never_written_is_refused(tmp_path: Path, groups: Any, told: str) -> None:
    folder = checkpoint.save(tmp_path, 3, {"model": {"a": torch.ones(2)}}, {})
    written = json.loads((folder / "manifest.json").read_bytes())["groups"]["model"]
    if isinstance(groups, dict) and isinstance(groups.get("model"), dict):
        groups = {"model": {"sha256": written["sha256"], "bytes": written["bytes"], **groups["model"]}}
    (folder / "manifest.json").write_bytes(manifest_bytes(folder, 3, groups, {}))
    with pytest.raises(CheckpointError, match=told):
        checkpoint.load(folder)
