"""A process that trains a spec with a store of prefixes and kills itself at the first record of some kind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from nasir.api import run
from nasir.records import Record
from nasir.running.prefixes import PrefixStore
from nasir.spec import load_spec


def main(threads: str, spec: str, study: str, fatal: str) -> None:
    def listen(record: Record) -> None:
        if record.kind == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(int(threads))
    folder = Path(study)
    run(load_spec(spec), folder / "killed", prefixes=PrefixStore(folder / "prefixes", 10**9, 1e9), listener=listen)


if __name__ == "__main__":
    main(*sys.argv[1:])
