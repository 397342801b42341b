"""A process that trains one spec several times, each in a copy of itself that kills itself at a record of some kind.

Copies of a process that has imported torch start at once. Prints, as JSON, the signal that ended each of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

import nasir.backends.torch.backend  # noqa: F401  for the copies, which would each import it otherwise
from nasir.api import run
from nasir.records import Record
from nasir.running.prefixes import PrefixStore
from nasir.spec import load_spec


def train(spec: str, study: Path, fatal: str) -> None:
    def listen(record: Record) -> None:
        if record.kind == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    run(load_spec(spec), study / "killed", prefixes=PrefixStore(study / "prefixes", 10**9, 1e9), listener=listen)


def main(threads: str, spec: str, *studies: str) -> None:
    """`studies`: a folder named after each kind, with `study` in it."""
    torch.set_num_threads(int(threads))
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])  # the first optimizer of a process imports torch's compiler
    ended = {}
    for study in studies:
        child = os.fork()
        if child == 0:
            try:
                train(spec, Path(study) / "study", Path(study).name)
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        ended[Path(study).name] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
