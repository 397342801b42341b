"""A process that trains specs one after the other with a store."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nasir.api import run
from nasir.running.prefixes import PrefixStore
from nasir.spec import load_spec


def main(threads: str, limit: str, study: str, worker: str, *specs: str) -> None:
    torch.set_num_threads(int(threads))
    for spec in specs:
        out = Path(study) / f"{Path(spec).parent.name}-{worker}"
        store = PrefixStore(Path(study) / "prefixes", int(limit), 1e9)
        run(load_spec(spec), out, prefixes=store, notice=print)


if __name__ == "__main__":
    main(*sys.argv[1:])
