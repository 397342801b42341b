"""How products of float32 numbers are computed: in full, or rounded to TF32 (10 bits of mantissa) where CUDA can.

torch's own default rounds convolutions on CUDA devices to TF32 and matrix products not. Here both are one word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch

Products: TypeAlias = Literal["ieee", "tf32"]  # torch's words


def products_of(precision: str) -> Products:
    """What a spec's `precision` means for float32: only `tf32` rounds."""
    return "tf32" if precision == "tf32" else "ieee"


@contextmanager
def float32_products(kind: Products) -> Iterator[None]:
    """For the length of a `with`, how the whole process multiplies float32 numbers; then as it did before.

    On a CPU they are always exact: oneDNN, too, may have been told to round.
    """
    before = _values()
    matmul, convolutions = _old(torch.get_float32_matmul_precision), _old(lambda: torch.backends.cudnn.allow_tf32)
    _set_old(
        None if matmul is None else "high" if kind == "tf32" else "highest",
        None if convolutions is None else kind == "tf32",
    )
    _set(kind if name.startswith("cu") else "ieee" for name in before)
    try:
        yield
    finally:
        _set_old(matmul, convolutions)
        _set(before.values())


def _switches() -> dict[str, Any]:
    backends: Any = torch.backends
    return {
        "cuda.matmul": backends.cuda.matmul,
        "cudnn.conv": backends.cudnn.conv,
        "cudnn.rnn": backends.cudnn.rnn,
        "onednn.matmul": backends.mkldnn.matmul,
        "onednn.conv": backends.mkldnn.conv,
        "onednn.rnn": backends.mkldnn.rnn,
    }


def _values() -> dict[str, str]:
    """What to set each switch to later: "none" where it follows that of torch as a whole, else what it says.

    torch tells only what is in force; a switch that follows says something else while the whole says nothing.
    """
    whole: Any = torch.backends
    told, own_whole = _told(), whole.fp32_precision
    whole.fp32_precision = "none"
    alone = _told()
    whole.fp32_precision = own_whole
    return {name: value if alone[name] == value else "none" for name, value in told.items()}


def _told() -> dict[str, str]:
    return {name: switch.fp32_precision for name, switch in _switches().items()}


def _set(values: Iterable[str]) -> None:
    for switch, value in zip(_switches().values(), values, strict=True):
        switch.fp32_precision = value


def _old(read: Callable[[], Any]) -> Any:
    """What one of torch's older switches says; None where the newer ones have overruled it, and it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except RuntimeError:
            return None


def _set_old(matmul: str | None, convolutions: bool | None) -> None:
    """The older switches: parts of torch read them, and refuse a pair that disagrees with the newer ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
