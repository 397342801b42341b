"""Runs that wait for a test: so that it meets a process in the midst of its training, on however slow a machine."""

from __future__ import annotations

from pathlib import Path

PLUGIN = """\
import fnmatch
import time
from pathlib import Path

from nasir.running.engine import Engine, Signals

HOLD, EPOCH, RUNS = Path({hold!r}), {epoch}, {runs!r}
save, wanted = Engine.save, Signals.wanted
asked = None  # how often since a checkpoint after which to wait


def hold_after(engine, epoch):
    global asked
    save(engine, epoch)
    asked = 0 if epoch >= EPOCH and fnmatch.fnmatch(engine.run.path.name, RUNS) else None


def hold(signals):
    global asked
    if asked is not None:
        asked += 1
        while asked > 3 and HOLD.exists() and not wanted(signals):
            time.sleep(0.01)
    return wanted(signals)


Engine.save, Signals.wanted = hold_after, hold
"""


class Hold:
    """Holds runs of a spec that lists its plugin, until it is released; not those that are asked to stop."""

    def __init__(self, folder: Path, *, epoch: int = 1, runs: str = "*", begin: bool = True) -> None:
        """`epoch`: runs wait some steps after their checkpoint of that epoch, and of each later one.

        `runs`: names of run directories, as a pattern. `begin`: False to hold nothing, in a spec that is the same.
        """
        self.file = folder / "hold"
        self.plugin = folder / "hold.py"
        self.plugin.write_text(PLUGIN.format(hold=str(self.file), epoch=epoch, runs=runs))
        if begin:
            self.file.touch()

    @property
    def lines(self) -> str:
        """What a spec says to list the plugin."""
        return f"plugins: [{self.plugin}]\n"

    def release(self) -> None:
        """Let what waits go on, and nothing wait from here on."""
        self.file.unlink(missing_ok=True)
