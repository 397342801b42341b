"""Files of the data set npz made of good ones by mutation: each is read, or refused; nothing else happens."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzzing import fuzz, mutate_bytes, mutated, mutations

from nasir.datasets.arrays import npz_shape, read_npz

pytestmark = pytest.mark.slow


def stored(write: Callable[..., None]) -> bytes:
    """A small data set as `write` stores it."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    write(
        file,
        x_train=rng.integers(0, 255, (6, 4, 4), dtype=np.uint8),
        y_train=np.arange(6) % 2,
        x_test=rng.standard_normal((4, 1, 4, 4)),
        y_test=np.arange(4) % 2,
    )
    return file.getvalue()


def remade(data: bytes, rng: Random) -> bytes:
    """The archive with one member mutated, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                head = 10 + struct.unpack("<H", content[8:10])[0] if len(content) > 10 else 0
                # mostly its header, which says how much there is
                content = (
                    mutate_bytes(content[:head], rng) + content[head:]
                    if rng.random() < 0.8
                    else mutate_bytes(content, rng)
                )
            new.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("mutate", [mutate_bytes, remade])
def test_fuzz_npz_files(tmp_path: Path, mutate: Callable[[bytes, Random], bytes]) -> None:
    file = tmp_path / "data.npz"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        npz_shape(file)
        read_npz(file)

    originals = [stored(np.savez), stored(np.savez_compressed)]
    taken, refused = fuzz(read, mutated(originals, mutate, mutations(200), seed=1))
    assert taken and refused
