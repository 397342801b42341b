"""Exit codes of workers, which their supervisor reads."""

from __future__ import annotations

UNFIT = 69  # trials failed one after the other, perhaps for a fault of the worker's machine
STOPPED = (75, 130)  # it was asked to stop and handed its trial back
