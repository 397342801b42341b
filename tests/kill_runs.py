"""A process that trains a spec in copies of itself, killed at random moments and resumed by the next copy.

Copies of a process that has imported torch start at once. Prints, as JSON, the run directories, all of them finished.
`SPEC FOLDER KILLS SEED [STORE]`; with STORE, the runs share the states of other runs there.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

import nasir.backends.torch.backend  # noqa: F401  for the copies, which would each import it otherwise
from nasir.api import resume, run
from nasir.running.prefixes import PrefixStore
from nasir.spec import load_spec

LATEST = 0.4  # seconds after a new record


def train(spec: str, out: Path, store: PrefixStore | None) -> None:
    if size(out):
        resume(out, prefixes=store)
    else:
        run(load_spec(spec), out, prefixes=store)


def size(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.stat().st_size if journal.exists() else 0


def ended(child: int) -> bool:
    """Whether the child came to its end; raises where that was an error."""
    found, status = os.waitpid(child, os.WNOHANG)
    if found and status:
        raise SystemExit(f"a run failed with {status}")
    return bool(found)


def one(spec: str, out: Path, store: PrefixStore | None, wait: float | None) -> bool:
    """Train in a copy, and kill it `wait` seconds after its first new record, None: never. Whether it was killed."""
    before, child = size(out), os.fork()
    if child == 0:
        try:
            train(spec, out, store)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    while not (over := ended(child)) and (wait is None or size(out) <= before):
        time.sleep(0.001)
    until = time.monotonic() + (wait or 0.0)
    while not over and time.monotonic() < until:
        time.sleep(0.001)
        over = ended(child)
    if not over:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not over


def main(spec: str, folder: str, kills: str, seed: str, store: str = "") -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimizer of a process imports torch's compiler
    chance, left, runs = random.Random(seed), int(kills), []
    states = PrefixStore(store, 10**9, 1e9) if store else None
    while left:
        runs.append(Path(folder) / f"run{len(runs)}")
        while left and one(spec, runs[-1], states, chance.uniform(0.0, LATEST)):
            left -= 1
        if not left:
            one(spec, runs[-1], states, None)
    print(json.dumps([str(path) for path in runs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
