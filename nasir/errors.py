"""All errors that nasir raises deliberately: one type per cause; each message gives place, values and remedy.

Messages repeat what was given, which may be anything: they never hold characters that command a terminal, nor more
text than a reader takes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

LONGEST_LINE = 2_000  # characters
LONGEST_TEXT = 20_000


def printable(text: str) -> str:
    """`text` with control characters, other than line breaks, as Python's escapes, and shortened where it is long.

    A line over 2,000 characters loses its middle, since it begins with its place and ends with a remedy; lines beyond
    20,000 characters in all are counted only.
    """
    if len(text) <= LONGEST_LINE and text.isprintable():
        return text
    lines, room = text.split("\n"), LONGEST_TEXT - 40  # the last line says how many more there are
    kept: list[str] = []
    for line in lines:
        line = "".join(char if char.isprintable() else _escaped(char) for char in _shortened(line))
        line = _shortened(line)
        room -= len(line) + 1
        if room < 0:
            return "\n".join([*kept, f"... and {len(lines) - len(kept)} more lines"])
        kept.append(line)
    return "\n".join(kept)


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[5 - LONGEST_LINE // 2 :]}"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class NasirError(Exception):
    """Base of all deliberate errors; the command line prints it without a traceback."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(NasirError):
    """The request itself is wrong (arguments, paths, names): exit code 2."""

    exit_code = 2


class SpecError(UsageError):
    """A spec cannot be used; the message has one `file:line:column: path: problem` line for each problem."""


class OptionError(UsageError, ValueError):
    """An option is unknown, missing, of a wrong type or out of its range, or options contradict each other.

    It is a ValueError as well: that is what dataclasses raise about their values. `faults`: (path below the options,
    what is wrong, remedy) of each.
    """

    def __init__(self, message: str, faults: Sequence[tuple[tuple[str | int, ...], str, str]] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class UnknownName(UsageError):
    """Nothing goes by that name: no registered pass, op, block, data set, policy or backend, no site of a pass."""


class DataError(UsageError):
    """A data set is missing, malformed, or does not fit the network."""


class DataAbsent(DataError):
    """Nothing lies where a data set is looked for."""


class WeightsError(DataError):
    """Stored weights are missing, malformed, or do not fit the network; a run tells the place in its spec."""


class GraphError(NasirError):
    """A graph is structurally wrong: dangling port, cycle, duplicate label, region with several entries."""


class TooManyNodes(GraphError):
    """A network has more nodes than one may have."""


class TypeRuleError(GraphError):
    """An op refuses its inputs or attributes; the message names node, axis, sizes and where each came from."""


class TextFormatError(GraphError):
    """The text or JSON form of a graph cannot be read."""


class PlanError(NasirError):
    """A transfer plan does not fit the two graphs it connects."""


class ClaimError(NasirError):
    """A rewrite claimed to be exact and was measured not to be."""


class JournalError(NasirError):
    """A journal or a blob cannot be read, or belongs to something else."""


class CheckpointError(NasirError):
    """No usable checkpoint: missing files, or a digest that does not match its manifest."""


class RunError(NasirError):
    """A run cannot start or go on (locked directory, diverged loss, missing backend)."""


class StudyError(NasirError):
    """A study or its storage cannot be used: unreachable, damaged, full, or made from another spec."""


class OutOfMemory(RunError):
    """The memory of a device, or of the host, does not suffice; `sizes`: what was asked for, in the library's words."""

    def __init__(self, message: str, sizes: str = "") -> None:
        super().__init__(message)
        self.sizes = sizes


class Diverged(RunError):
    """The loss of an epoch is not finite; `metrics` are those of the epoch."""

    def __init__(self, message: str, metrics: Mapping[str, float]) -> None:
        super().__init__(message)
        self.metrics = metrics


class NotFinite(RunError):
    """A rewritten network gives logits that are not finite."""


class Preempted(NasirError):
    """The run stopped on a signal after writing a checkpoint; `exit_code` is 75 (SIGTERM) or 130 (SIGINT)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NasirWarning(UserWarning):
    """Something that works, but hardly as meant. `warnings.simplefilter("error", nasir.NasirWarning)` makes errors of
    them."""


class Decline(Exception):
    """Raised by a pass that does not want to act on a site; the reason is journaled, and so is what the pass noted."""

    noted: Mapping[str, Any] = MappingProxyType({})
