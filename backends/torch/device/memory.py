"""Memory that ran out, of the device or of the host, told as what to lower; every other failure keeps its own name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nasir.errors import OutOfMemory

# how torch says so where it raises a plain RuntimeError: its CPU allocator, then the libraries it calls on a device
SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "HOST_ALLOCATION_FAILED",
)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left; "an illegal memory access" does not."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@contextmanager
def memory_told(what: str, remedy: str) -> Iterator[None]:
    """Raise OutOfMemory, with `what` did not fit and a `remedy`, where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        sizes = _sizes(error)
        raise OutOfMemory(f"{what}: not enough memory{sizes}; {remedy}", sizes) from error


def _sizes(error: BaseException) -> str:
    """The sentences of torch's message that have sizes in them, in brackets."""
    first = str(error).partition("\n")[0]
    size = r"\d+(\.\d+)? ?([KMGT]i)?[Bb]"
    told = [sentence for sentence in re.split(r"(?<=[.:]) ", first) if re.search(size, sentence)]
    return f" ({' '.join(told[:2]).rstrip('.')})" if told else ""
