"""The data set `npz`: arrays in one file, read and checked as numpy has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nasir.datasets.npz import open_npz
from nasir.datasets.options import DataContext, read_options
from nasir.errors import DataAbsent, DataError

_WANTED = ("x_train", "y_train", "x_test", "y_test")
_Array = np.ndarray[Any, Any]


def npz_path(options: Mapping[str, Any], where: DataContext) -> Path:
    """The file that the options name; DataAbsent where there is none."""
    path = where.path(read_options("npz", options, {"path": str})["path"])
    if not path.is_file():
        raise DataAbsent(f"data set 'npz': no file {path}; correct `path:` (relative to the spec's folder)")
    return path


def read_npz(path: Path, values: bool = True) -> dict[str, _Array]:
    """`y_train` and `y_test`, int64 [N], and with `values` `x_train` and `x_test`, uint8 or float32 [N, ...].

    DataError where the file, a type or a shape is of no use, or a class has no example.
    """
    names = _WANTED if values else ("y_train", "y_test")
    with open_npz(path) as stored:
        missing = [name for name in _WANTED if name not in stored.names]
        if missing:
            raise DataError(f"data set 'npz': {path} lacks {', '.join(missing)}; it has {', '.join(stored.names)}")
        arrays = {name: stored.read(name) for name in names}
    for name, array in arrays.items():
        arrays[name] = _labels(path, name, array) if name.startswith("y") else _values(path, name, array)
    _check_classes(path, np.unique(np.concatenate([arrays["y_train"], arrays["y_test"]])))
    return arrays


def class_count(arrays: Mapping[str, _Array]) -> int:
    """How many classes the labels have."""
    return 1 + max((int(arrays[name].max()) for name in ("y_train", "y_test") if len(arrays[name])), default=0)


def npz_shape(path: Path) -> tuple[int, ...] | None:
    """Shape of one example, from the header of `x_train`; None where that cannot be told."""
    try:
        with open_npz(path) as stored:
            shape = stored.shape("x_train")
    except DataError:
        return None
    return (1, *shape[1:]) if len(shape) == 3 else tuple(shape[1:])


def _check_classes(path: Path, labels: _Array) -> None:
    """Whether the classes 0..largest all occur; a label far off would else make as many classes."""
    if len(labels) and labels[-1] >= len(labels):
        first = int(np.argmax(labels != np.arange(len(labels))))
        raise DataError(
            f"data set 'npz': {path}: no example has the label {first}, and the largest is {int(labels[-1])}; number "
            f"the {len(labels)} classes 0..{len(labels) - 1}"
        )


def _labels(path: Path, name: str, values: _Array) -> _Array:
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise DataError(
            f"data set 'npz': {path}: {name} has shape {values.shape} and type {values.dtype}; "
            "store one whole number for each example"
        )
    if len(values) and values.max() > np.iinfo(np.int64).max:
        raise DataError(f"data set 'npz': {path}: {name} has the label {values.max()}; number the classes from 0")
    if len(values) and values.min() < 0:
        span = f"{values.min()}..{values.max()}"
        raise DataError(f"data set 'npz': {path}: {name}: labels span {span}; number the classes from 0")
    return values.astype(np.int64)


def _values(path: Path, name: str, values: _Array) -> _Array:
    if values.ndim == 3:
        values = values[:, None]
    if values.dtype != np.uint8 and values.dtype.kind not in "fiu":
        raise DataError(f"data set 'npz': {path}: {name} has type {values.dtype}; store uint8 or floats")
    kind = np.uint8 if values.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return np.array(values, dtype=kind, order="C")
