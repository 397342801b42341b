"""Signals as requests to stop: the first asks, the second stops at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from nasir.running.engine import Signals

AFTER_THIS_STEP = "stopping after this step; once more to stop at once"


def stop_on_signals(text: str = AFTER_THIS_STEP, at_once: Callable[[int], Any] = os._exit) -> Signals:
    """Handle SIGTERM and SIGUSR1 (exit code 75) and SIGINT (130) from here on; returns what they ask for.

    The first says `text` and sets the exit code there; each one after it calls `at_once` with its exit code.
    """
    asked = Signals()

    def handle(number: int, frame: Any) -> None:
        code = 130 if number == signal.SIGINT else 75
        if asked.exit_code:
            at_once(code)
            return
        asked.exit_code = code
        os.write(2, f"\n{text}\n".encode())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)
    return asked
