"""Shared test set-up."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers share two cores
os.fsync = lambda descriptor: None  # no test pulls a plug: what a killed process has written is there all the same
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))  # benchmarks; last, so that nasir is the installed one
