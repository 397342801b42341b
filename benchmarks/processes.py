"""Work in a process of its own, with a bound on time and memory."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Row = dict[str, Any]


def in_a_process(work: Callable[[], Row], minutes: float, gigabytes: float) -> Row:
    """What `work` gives, with its CPU seconds and peak memory; or {"failed": why there is nothing}."""
    context = multiprocessing.get_context("fork")  # libraries are loaded once
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, gigabytes, theirs))
    child.start()
    theirs.close()
    row: Row
    try:
        row = ours.recv() if ours.poll(60 * minutes) else {"failed": f"takes more than {minutes:g} minutes"}
    except EOFError:
        row = {"failed": f"its process ended without a word; it may need more than {gigabytes:g} GB"}
    child.kill()
    child.join()
    return row


def _child(work: Callable[[], Row], gigabytes: float, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 2**30),) * 2)
    started = time.process_time()
    try:
        row = work()
    except BaseException as error:  # whatever it is, the table tells it
        row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"}
    row["cpu_s"] = round(time.process_time() - started, 1)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    pipe.send(row)
