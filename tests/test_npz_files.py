"""Files that the data set npz refuses: no such file, a torn one, one whose headers lie."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import watched

from nasir.datasets.arrays import npz_shape, read_npz
from nasir.errors import DataError

GOOD = {
    "x_train": np.arange(96, dtype=np.uint8).reshape(6, 4, 4),
    "y_train": np.arange(6) % 2,
    "x_test": np.ones((4, 4, 4), dtype=">f4"),
    "y_test": np.arange(4) % 2,
}


def saved(file: Path, **arrays: object) -> Path:
    np.savez(file, **{**GOOD, **arrays})  # type: ignore[arg-type]
    return file


def refused(file: Path) -> str:
    with pytest.raises(DataError) as caught, watched(memory=1 << 28):
        read_npz(file)
    told = str(caught.value)
    assert told.startswith(f"data set 'npz': {file} ") and "allow_pickle" not in told
    with watched(memory=1 << 28):
        npz_shape(file)
    return told


def test_what_numpy_stores_in_any_order_is_read(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", x_train=np.asfortranarray(GOOD["x_train"]))
    arrays = read_npz(file)
    assert np.array_equal(arrays["x_train"][:, 0], GOOD["x_train"]) and np.array_equal(
        arrays["x_test"][:, 0], GOOD["x_test"]
    )
    assert npz_shape(file) == (1, 4, 4)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    told = refused(file)
    assert told.endswith("write it with numpy.savez") or "lacks x_train" in told


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", y_test=np.array([{}, 1, "a", None], dtype=object))
    assert "(y_test holds Python objects, which are never loaded)" in refused(file)


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused(tmp_path: Path, end: float) -> None:
    file = saved(tmp_path / "a.npz")
    file.write_bytes(file.read_bytes()[: int(end * file.stat().st_size)])
    assert "(no zip archive, or a damaged one: " in refused(file)


def test_rotten_data_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, **GOOD)
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as packed:
        place = packed.getinfo("x_train.npy").header_offset + 60
    data[place : place + 20] = b"\xff" * 20
    file.write_bytes(data)
    assert "cannot be read (" in refused(file)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4, 4)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, -4, 4)}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({'9' * 5000},)}}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 4, 4)",
        "__import__('os').abort()",
        "[" * 1000,
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path: Path, header: str) -> None:
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, array in GOOD.items():
            content = io.BytesIO()
            np.save(content, array)
            made = content.getvalue()
            if name == "x_train":
                text = header.encode() + b"\n"
                made = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + array.tobytes()
            packed.writestr(f"{name}.npy", made)
    assert "cannot be read (" in refused(file)
