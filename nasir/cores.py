"""How many CPU cores and threads this process may use."""

from __future__ import annotations

import os
from collections.abc import Mapping

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_allowed(environment: Mapping[str, str], most: int) -> int:
    """`most`, or fewer if one of the variables `THREADS` of `environment` says so; at least 1."""
    given = (environment.get(name, "").partition(",")[0] for name in THREADS)
    return min([most, *(int(text) for text in given if text.isdecimal() and int(text) > 0)])
