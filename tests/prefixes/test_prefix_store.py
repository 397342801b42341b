"""The store of prefixes on disk: what is kept, what goes first, what is left by the dead."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_records import made

from nasir.errors import CheckpointError
from nasir.running.prefixes.store import ASIDE, HEADER, RECORDS, PrefixStore

FAMILY = "f" * 64


def chain(*names: str) -> tuple[str, ...]:
    """A chain of digests that begins alike for names that begin alike."""
    return tuple("/".join(names[: end + 1]).encode().hex().ljust(64, "0")[:64] for end in range(len(names)))


def put(
    store: PrefixStore,
    *names: str,
    epoch: float = 10.0,
    size: int = 1000,
    family: str = FAMILY,
    write: Callable[[Path], object] | None = None,
) -> bool:
    """Store a state of `size` bytes of weights, each of whose epochs took `epoch` CPU-seconds."""
    blobs = store.folder.parent / "blobs"
    blobs.mkdir(exist_ok=True)
    (blobs / f"{'a' * 64}.json").write_text("{}")

    def weights(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes(size))

    cpu = [epoch * (i + 1) for i in range(len(names))]
    records = [made("epoch", {"n": i}) for i in range(len(names))]
    return store.put(family, chain(*names), cpu, records, "run", blobs, write or weights)


def names(store: PrefixStore, family: str = FAMILY) -> list[str]:
    """The states there, by their path, the deepest first."""
    return [bytes.fromhex(state.key).rstrip(b"\0").decode().replace("/", "") for state in store.states(family)]


def room(store: PrefixStore, states: int) -> int:
    """Bytes that so many states of one epoch take."""
    probe = PrefixStore(store.folder.parent / "probe", 10**9)
    put(probe, "a")
    return states * probe.states(FAMILY)[0].bytes


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "prefixes", 10**9)


def test_a_state_comes_back_as_it_was_put(store: PrefixStore) -> None:
    assert store.states(FAMILY) == []
    assert put(store, "a", "b") and put(store, "a")
    deep, shallow = PrefixStore(store.folder, 10**9).states(FAMILY)
    assert (deep.epochs, deep.chain, deep.cpu, deep.run) == (2, chain("a", "b"), (10.0, 20.0), "run")
    assert (deep.path / "weights").read_bytes() == bytes(1000)
    assert [record["n"] for record in deep.records()] == [0, 1]
    assert deep.directory.blobs == deep.path / "blobs"
    assert os.stat(deep.path / "blobs" / f"{'a' * 64}.json").st_nlink == 3, "hard links"
    assert shallow.key == chain("a")[-1] and store.states("e" * 64) == []
    size = sum(file.stat().st_size for file in deep.path.rglob("*") if file.is_file() and file.name != HEADER)
    assert deep.bytes == size
    assert list((store.folder / ASIDE).iterdir()) == []


def test_the_same_state_is_stored_once(store: PrefixStore) -> None:
    assert not store.holds(FAMILY, chain("a"))
    assert put(store, "a", size=10)
    assert store.holds(FAMILY, chain("a"))
    assert put(store, "a", size=20)  # two runs came to it at once
    assert names(store) == ["a"] and (store.states(FAMILY)[0].path / "weights").stat().st_size == 10
    assert list((store.folder / ASIDE).iterdir()) == []


def test_a_state_that_others_evicted_and_stored_anew_is_read_anew(store: PrefixStore) -> None:
    put(store, "a")
    (before,) = store.states(FAMILY)
    other = PrefixStore(store.folder, 10**9)
    other.drop(before)
    put(other, "a", epoch=9.0)
    (after,) = store.states(FAMILY)
    assert after.cpu != before.cpu and after.records()


def test_what_costs_the_least_to_train_again_goes_first(store: PrefixStore) -> None:
    store.limit = room(store, 3) + 300
    for name, cost in (("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 40.0)):
        assert put(store, name, epoch=cost)
    assert sorted(names(store)) == ["a", "c", "d"]
    assert not put(store, "e", epoch=1.0), "it would be the first to go"
    assert sorted(names(store)) == ["a", "c", "d"]
    assert not put(store, "f", epoch=1e9, size=store.limit)
    assert list((store.folder / ASIDE).iterdir()) == []


def test_a_state_is_worth_what_lies_between_it_and_the_nearest_one_before(store: PrefixStore) -> None:
    """Behind a stored first epoch the second costs one epoch to train again, without it two."""
    put(store, "a", epoch=10.0)
    put(store, "a", "b", epoch=10.0)
    put(store, "c", epoch=15.0)
    sizes = [state.bytes for state in store.states(FAMILY)]
    store.limit = sum(sizes) + 500
    assert put(store, "d", epoch=30.0)
    assert sorted(names(store)) != ["a", "ab", "c", "d"]
    assert "c" in names(store) and "d" in names(store), "each costs more than one epoch of 10"
    put(store, "e", epoch=30.0, size=10)
    assert len({"a", "ab"} & set(names(store))) == 1, "what is left of the two costs 10 or 20"


def test_among_equals_the_longest_unused_goes_first(store: PrefixStore) -> None:
    store.limit = room(store, 3) + 300
    for age, name in enumerate("abc"):
        put(store, name)
        os.utime(store.folder / FAMILY / f"000001-{chain(name)[-1]}" / HEADER, (1000 + age, 1000 + age))
    assert store.holds(FAMILY, chain("a"))  # a use
    put(store, "d")
    assert sorted(names(store)) == ["a", "c", "d"]
    store.used(next(state for state in store.states(FAMILY) if state.key == chain("c")[-1]))
    os.utime(store.folder / FAMILY / f"000001-{chain('a')[-1]}" / HEADER, (2000, 2000))
    put(store, "e")
    assert sorted(names(store)) == ["c", "d", "e"]


def test_families_share_the_room(store: PrefixStore) -> None:
    store.limit = room(store, 2) + 300
    put(store, "a", epoch=5.0, family="0" * 64)
    put(store, "b", epoch=9.0)
    assert put(store, "c", epoch=7.0)
    assert names(store, "0" * 64) == [] and sorted(names(store)) == ["b", "c"]


def test_a_failed_write_leaves_nothing(store: PrefixStore) -> None:
    def full(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        put(store, "a", write=full)
    assert names(store) == [] and list((store.folder / ASIDE).iterdir()) == []


@pytest.mark.parametrize("damage", ["{", json.dumps({"format": 1, "chain": ["x"]}), ""])
def test_a_damaged_header_is_removed_with_its_state(store: PrefixStore, damage: str) -> None:
    put(store, "a")
    put(store, "b")
    (store.folder / FAMILY / f"000001-{chain('a')[-1]}" / HEADER).write_text(damage)
    fresh = PrefixStore(store.folder, store.limit)
    assert names(fresh) == ["b"]
    assert len(list((store.folder / FAMILY).iterdir())) == 1


def test_damaged_and_missing_records_are_refused(store: PrefixStore) -> None:
    put(store, "a")
    state = store.states(FAMILY)[0]
    (state.path / RECORDS).write_text('{"kind":"epoch","n":1}\n')
    with pytest.raises(CheckpointError, match="damaged"):
        state.records()
    store.drop(state)
    with pytest.raises(CheckpointError, match="cannot be read"):
        state.records()
    store.drop(state)  # somebody else was faster
    store.used(state)
    assert names(store) == []


def test_what_dead_processes_left_aside_is_removed(store: PrefixStore) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    here, long_ago = socket.gethostname(), 1000.0
    left: dict[str, Any] = {
        f"{here}.{dead.stdout.strip()}.aa": None,
        f"{here}.{os.getpid()}.bb": None,  # of an earlier process with our number
        "elsewhere.1.cc": long_ago,
        "nonsense": long_ago,
    }
    kept = [f"{here}.{os.getppid()}.dd", f"elsewhere.{dead.stdout.strip()}.ee"]
    for name in (*left, *kept):
        (store.folder / ASIDE / name / "step_1").mkdir(parents=True)
        if left.get(name):
            os.utime(store.folder / ASIDE / name, (left[name], left[name]))
    assert sorted(store.clean()) == sorted(left)
    assert sorted(entry.name for entry in (store.folder / ASIDE).iterdir()) == sorted(kept)


def test_a_store_cleans_up_while_another_of_the_same_process_writes(store: PrefixStore) -> None:
    other = PrefixStore(store.folder, 10**9)

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")
        assert other.clean() == () and folder.is_dir()

    assert put(store, "a", write=write)
    assert names(other) == ["a"]
