"""Keeps the workers of a search going: starts them, restarts the ones that die, stops them together.

A `Launcher` starts the workers: as processes on this machine (nasir.search.processes) or on a Ray cluster
(nasir.search.ray_workers). A `Board` gives them work: the study.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from nasir.errors import NasirError, RunError, UsageError
from nasir.running.engine import Signals
from nasir.search.exits import STOPPED, UNFIT

TICK = 0.1  # seconds between two looks at the workers
FRUITLESS = 5  # deaths in a row before its first trial, after which a worker is not started again
DEATHS = 5  # deaths per worker (and five more) without a finished trial among all of them: the search gives up
LONGEST_WAIT = 30.0  # seconds before a restart, at most
OUTAGE = 600.0  # seconds the storage may be out of reach

T = TypeVar("T")


class Handle(Protocol):
    """One worker that was started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and leave; asking again changes nothing."""

    def kill(self) -> None:
        """End it at once; when this returns it is gone."""

    def tail(self) -> str:
        """The last lines it wrote since it was started."""


class Launcher(Protocol):
    """Names workers and starts them, wherever they run."""

    def identity(self, slot: int, restart: int) -> str:
        """The name under which a worker takes trials; never given twice in a study."""

    def start(self, slot: int, restart: int) -> Handle:
        """Start worker number `slot` (from 1) after `restart` earlier starts."""


class Board(Protocol):
    """What the supervisor needs of a study. Any method may raise one of `outages` while the storage is away."""

    outages: tuple[type[Exception], ...]

    def began(self, worker: str) -> bool:
        """Whether that worker ever took a trial."""

    def reap(self, workers: list[str]) -> None:
        """Give what dead workers were running to others."""

    def watch(self) -> int:
        """Show what happened since the last call; the number of trials finished so far."""


@dataclass(slots=True)
class WorkerSlot:
    """The place of one worker, whichever process fills it."""

    number: int
    restart: int = -1
    handle: Handle | None = None
    fruitless: int = 0  # deaths in a row before a first trial
    finished: int = 0  # trials that were finished when it was started
    at: float = 0.0  # time.monotonic() of the next start
    done: bool = False  # nothing left to do, asked to stop, or given up
    dead: list[str] = field(default_factory=list)  # identities whose trials are still to be reaped


class Supervisor:
    """Runs `count` workers; set `kill` to end them at once."""

    def __init__(
        self,
        count: int,
        launcher: Launcher,
        board: Board,
        signals: Signals,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.slots = [WorkerSlot(number) for number in range(1, count + 1)]
        self.launcher = launcher
        self.board = board
        self.signals = signals
        self.say = say
        self.kill = False
        self.finished = 0
        self.deaths = 0  # since the last finished trial
        self.away: float | None = None  # since when the storage is out of reach
        self.next_watch = 0.0

    def run(self) -> None:
        """Return when all workers have ended, having nothing left to do or because `signals` asked them to.

        Raises RunError when workers die again and again, or the storage stays away; no worker is left behind.
        """
        try:
            while not all(slot.done and (self.signals.wanted() or not slot.dead) for slot in self.slots):
                self._turn()
                time.sleep(TICK)
        finally:
            self._end()

    def _turn(self) -> None:
        if self.signals.wanted():
            self._stop()
        for slot in self.slots:
            self._look(slot)
        if time.monotonic() >= self.next_watch:
            started = time.monotonic()
            self._watch()
            spent = time.monotonic() - started
            self.next_watch = started + max(1.0, 10 * spent)  # a tenth of one core at most, however large the study

    # -- one worker

    def _look(self, slot: WorkerSlot) -> None:
        code = None if slot.handle is None else slot.handle.poll()
        if code is not None:
            self._ended(slot, code)
        reaped: bool = bool(slot.dead) and self._reach(lambda: self._reap(slot), False)
        if reaped:
            slot.dead.clear()
        if slot.handle is None and self.signals.wanted():
            slot.done = True
        if slot.handle is None and not slot.done and not slot.dead and time.monotonic() >= slot.at:
            slot.restart += 1
            slot.finished = self.finished
            slot.handle = self.launcher.start(slot.number, slot.restart)

    def _ended(self, slot: WorkerSlot, code: int) -> None:
        assert slot.handle is not None
        tail = slot.handle.tail()
        slot.handle = None
        slot.dead.append(self.launcher.identity(slot.number, slot.restart))
        if code == 0:
            slot.done = True
        elif self.signals.wanted():
            if code not in STOPPED:
                self.say(f"worker {slot.number} {_how(code)} while it was stopping")
        elif code == UsageError.exit_code:
            raise RunError(f"worker {slot.number} cannot start working; it wrote:\n{tail}")
        elif code == UNFIT:
            self._unfit(slot, tail)
        elif code in STOPPED:
            self.say(f"worker {slot.number} was asked to stop by someone else; it is started again")
            slot.at = time.monotonic() + 1.0
        else:
            self._died(slot, code, tail)

    def _died(self, slot: WorkerSlot, code: int, tail: str) -> None:
        self.deaths += 1
        if self.deaths >= DEATHS * (len(self.slots) + 1):
            raise RunError(
                f"workers died {self.deaths} times without finishing a trial; the last, worker {slot.number}, "
                f"{_how(code)} after writing:\n{tail}"
            )
        slot.fruitless = 0 if self._reach(lambda: self.board.began(slot.dead[-1]), False) else slot.fruitless + 1
        if slot.fruitless < FRUITLESS:
            wait = 0.0 if slot.fruitless == 0 else min(LONGEST_WAIT, 2.0 ** (slot.fruitless - 1))
            slot.at = time.monotonic() + wait
            self.say(f"worker {slot.number} {_how(code)}; started again" + (f" in {wait:.0f} s" if wait else ""))
            return
        slot.done = True
        self.say(f"worker {slot.number} {_how(code)} {FRUITLESS} times in a row before its first trial: given up")
        if all(other.done for other in self.slots):
            raise RunError(
                f"no worker manages to start a trial; worker {slot.number} {_how(code)} after writing:\n{tail}"
            )

    def _unfit(self, slot: WorkerSlot, tail: str) -> None:
        """Its trials failed one after the other: that is its machine, or all of them, unless others did well."""
        self._watch()
        if self.finished > slot.finished:
            self.say(f"worker {slot.number} had several trials that failed; started again")
            return
        slot.done = True
        self.say(f"worker {slot.number} had trials only that failed: given up")
        if all(other.done for other in self.slots):
            raise RunError(f"trial after trial failed; worker {slot.number} wrote last:\n{tail}")

    def _reap(self, slot: WorkerSlot) -> bool:
        self.board.reap(slot.dead)
        return True

    # -- the study

    def _watch(self) -> None:
        finished = self._reach(self.board.watch, self.finished)
        if finished > self.finished:
            self.finished, self.deaths = finished, 0

    def _reach(self, ask: Callable[[], T], otherwise: T) -> T:
        """What the storage answers, or `otherwise` while it is away; RunError once that takes too long."""
        try:
            answer = ask()
        except self.board.outages as error:
            now = time.monotonic()
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            if self.away is None:
                self.away = now
                self.say(f"the storage is out of reach ({text}); trying again for {OUTAGE / 60:.0f} minutes")
            if now - self.away > OUTAGE:
                raise RunError(f"the storage is out of reach: {text}; you can continue the study later") from None
            return otherwise
        if self.away is not None:
            self.away = None
            self.say("the storage answers again")
        return answer

    # -- the end

    def _stop(self) -> None:
        for slot in self.slots:
            if slot.handle is not None and self.kill:
                slot.handle.kill()
            elif slot.handle is not None:
                slot.handle.stop()

    def _end(self) -> None:
        """Stop what still runs after an error, leave no trial marked as running, and show the last results."""
        left = [slot for slot in self.slots if slot.handle is not None]
        while any(slot.handle is not None and slot.handle.poll() is None for slot in left):
            self._stop()
            time.sleep(TICK)
        for slot in left:
            slot.handle = None
            slot.dead.append(self.launcher.identity(slot.number, slot.restart))
        expected: tuple[type[Exception], ...] = (NasirError, *self.board.outages)
        try:
            for slot in self.slots:
                self.board.reap(slot.dead)
            self.board.watch()
        except expected as error:  # what ended the search matters more
            self.say(f"the last results are not in: {error}")


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
