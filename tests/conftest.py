"""Shared test set-up."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers share two cores
sys.path.insert(0, str(Path(__file__).parent))
