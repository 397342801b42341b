"""Shared test set-up."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers share two cores
# compiled files are kept, whatever this machine says: both test workers and many processes import the same
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.fsync = lambda descriptor: None  # no test pulls a plug: what a killed process has written is there all the same
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))  # benchmarks; last, so that nasir is the installed one

import collected  # noqa: E402  it lies beside this file, on the path only now


def pytest_collection() -> None:
    gc.disable()  # nothing that is imported and collected here becomes garbage


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    collected.note(config, items)


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # what was imported stays: a collection of garbage need not go through all of it, time and again
