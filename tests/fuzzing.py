"""Fuzzing: seeded mutations of bytes, texts and trees, each tried under limits of time and memory.

A fuzzer is a slow test of one loader:

    cases = mutated([good], mutate_bytes, count=mutations(50), seed=0)
    fuzz(load, cases)

`fuzz` fails if the loader raises anything but a NasirError that can be printed, hangs, or takes too much memory. The
inputs that it failed at are kept in files that the failure names. A case is the same for the same seed and number.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import random
import resource
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from nasir.errors import NasirError

T = TypeVar("T")

FULL = 10_000
LIMIT_S = 5.0
MEMORY = 1 << 30
LONGEST_MESSAGE = 20_000
KINDS_SHOWN = 20

WHOLE_NUMBERS = (0, 1, -1, 2, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32, 10**12, 2**63 - 1, 2**63, -(2**63), 10**40)
ATOMS: tuple[Any, ...] = (
    *WHOLE_NUMBERS,
    *(None, True, False, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "a", "a.b", "\0", "\x1b[31m", "é", "\u202e", "\ud800", "../..", "/", "x" * 2000, "9" * 5000),
    *([], {}, [[]], [{}], {"": None}),
)
SNIPPETS = (
    *("\0", "\x1b[2J", "\r", "\n", "\t", "\u2028", "\ufeff", "\ud800", "é", "'", '"', "\\", "%", "#", "&a ", "*a"),
    *("{", "}", "[", "]", ":", ": ", ", ", "- ", "? ", "|", ">", "!!python/object", "<<", "---\n", "...\n", "../"),
    *(
        "nan",
        "NaN",
        ".inf",
        "1e400",
        "-0",
        "0x",
        "1_0",
        "null",
        "true",
        "9" * 5000,
        "1" + "0" * 12,
        "[" * 400,
        "[" * 100_000,
    ),
    *("%YAML 1.1\n---\n", "a." * 400, "{a: " * 400, "://", "@", "?", "${HOME}"),
)


def mutations(default: int) -> int:
    """How many mutations a fuzzer tries: `default`, times the factor that the environment variable NASIR_FUZZ gives.

    With NASIR_FUZZ=full it is 10,000 whatever the default.
    """
    factor = os.environ.get("NASIR_FUZZ", "1")
    return FULL if factor == "full" else max(1, round(default * float(factor)))


def mutated(
    originals: Sequence[T], mutate: Callable[[T, random.Random], T], count: int, seed: int | str
) -> Iterator[T]:
    """`count` mutations of the originals in turn, each mutated one to four times."""
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")
        case = copy.deepcopy(originals[number % len(originals)])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            case = mutate(case, rng)
        yield case


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes cut, removed, doubled, replaced or moved, or a number written where one may stand."""
    if not data:
        return rng.randbytes(rng.randrange(16))
    changed = bytearray(data)
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 256, 4096)))
    match rng.choice(("flip", "cut", "remove", "double", "replace", "move", "number", "digits")):
        case "flip":
            for _ in range(rng.choice((1, 1, 4, 32))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case "cut":
            del changed[start:]
        case "remove":
            del changed[start:stop]
        case "double":
            changed[start:start] = changed[start:stop] * rng.choice((1, 3, 50))
        case "replace":
            changed[start:stop] = rng.choice(
                (bytes(stop - start), b"\xff" * (stop - start), rng.randbytes(stop - start))
            )
        case "move":
            part = bytes(changed[start:stop])
            del changed[start:stop]
            at = rng.randrange(len(changed) + 1)
            changed[at:at] = part
        case "number":
            size, code = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
            number = rng.choice(WHOLE_NUMBERS) % 256**size
            changed[start : start + size] = struct.pack(rng.choice("<>") + code, number)
        case "digits":
            places = [place for place, byte in enumerate(changed) if 48 <= byte <= 57]
            if places:
                place = rng.choice(places)
                changed[place : place + 1] = str(rng.choice(WHOLE_NUMBERS)).encode()
    return bytes(changed)


def mutate_text(text: str, rng: random.Random) -> str:
    """Parts removed, doubled, moved, or replaced by what means something, or is not allowed, in YAML, JSON or paths."""
    start = rng.randrange(len(text) + 1)
    stop = min(len(text), start + rng.choice((0, 1, 2, 5, 20, 100)))
    part = text[start:stop]
    match rng.choice(("remove", "double", "move", "replace", "snippet", "snippet", "line", "cut")):
        case "remove":
            return text[:start] + text[stop:]
        case "double":
            return text[:start] + part * rng.choice((2, 3, 200)) + text[stop:]
        case "move":
            rest = text[:start] + text[stop:]
            at = rng.randrange(len(rest) + 1)
            return rest[:at] + part + rest[at:]
        case "replace":
            return text[:start] + "".join(chr(rng.randrange(1, 0x250)) for _ in part) + text[stop:]
        case "snippet":
            return text[:start] + rng.choice(SNIPPETS) + text[stop:]
        case "line":
            lines = text.split("\n")
            del lines[rng.randrange(len(lines))]
            return "\n".join(lines)
        case _:
            return text[:start]


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Another tree of dicts, lists and scalars: a value, key or item changed, removed, doubled, moved or nested."""
    places = list(_places(tree, ()))
    path, value = rng.choice(places)
    match rng.choice(("atom", "atom", "atom", "move", "remove", "key", "nest", "wrap", "double", "text", "number")):
        case "atom":
            return _replaced(tree, path, copy.deepcopy(rng.choice(ATOMS)))
        case "move":
            return _replaced(tree, path, rng.choice(places)[1])
        case "remove" if path:
            return _edited(tree, path, lambda parent: _without(parent, path[-1]))
        case "key" if isinstance(value, dict):
            key = rng.choice((*map(str, value), *(atom for atom in ATOMS if isinstance(atom, str)), "new"))
            return _replaced(tree, path, {**value, key: rng.choice(places)[1]})
        case "nest":
            for _ in range(rng.choice((1, 60, 150))):
                value = [value] if rng.random() < 0.5 else {"a": value}
            return _replaced(tree, path, value)
        case "wrap":
            return _replaced(tree, path, rng.choice(([value], {"a": value}, [value, value], str(value)[:1000])))
        case "double" if isinstance(value, list) and value:
            return _replaced(tree, path, value * rng.choice((2, 10, 1000 // len(value) or 1)))
        case "text" if isinstance(value, str):
            return _replaced(tree, path, mutate_text(value, rng))
        case "number" if isinstance(value, int | float):
            return _replaced(tree, path, rng.choice((-value, value + 1, value * 1000, value * 0.5, float(value))))
    return _replaced(tree, path, copy.deepcopy(rng.choice(ATOMS)))


Route = tuple[Any, ...]


def _places(tree: Any, path: Route) -> Iterator[tuple[Route, Any]]:
    """Every value of a tree and its path; not what is nested deeper than 40."""
    yield path, tree
    if len(path) < 40 and isinstance(tree, dict | list):
        for step, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _places(value, (*path, step))


def _edited(tree: Any, path: Route, edit: Callable[[Any], Any]) -> Any:
    """The tree with what contains the end of `path` edited; what the edit does not touch is shared."""
    if len(path) == 1:
        return edit(tree)
    made = copy.copy(tree)
    made[path[0]] = _edited(tree[path[0]], path[1:], edit)
    return made


def _replaced(tree: Any, path: Route, value: Any) -> Any:
    def put(parent: Any) -> Any:
        made = copy.copy(parent)
        made[path[-1]] = value
        return made

    return _edited(tree, path, put) if path else value


def _without(parent: Any, step: Any) -> Any:
    made = copy.copy(parent)
    del made[step]
    return made


class Hung(BaseException):
    """The time was up. No Exception, so that no loader takes it for a fault of its input."""


@contextlib.contextmanager
def watched(limit_s: float = LIMIT_S, memory: int = MEMORY) -> Iterator[None]:
    """Raises Hung after `limit_s` seconds of CPU time, or ten times that on the clock, and MemoryError beyond `memory`.

    `memory` is in bytes, on top of what the process holds; it is bounded on Linux alone.
    """
    handlers = {kind: signal.signal(kind, _hang) for kind in (signal.SIGPROF, signal.SIGALRM)}
    began = time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, 10 * limit_s)  # what was left to the time limit of the whole test
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    held = _held()
    if held is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)) if left else 0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hung("the time is up")


def _held() -> int | None:
    """The bytes that the limit on data counts now; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return None


def fuzz(
    attempt: Callable[[T], object], cases: Iterable[T], limit_s: float = LIMIT_S, memory: int = MEMORY
) -> tuple[int, int]:
    """(number of cases that `attempt` takes, number that it refuses with a NasirError); anything else fails the test.

    The message of a failure has a line for each kind of what went wrong and the file of the first input that did it.
    """
    taken = refused = 0
    failures: dict[str, tuple[int, Path]] = {}
    for case in cases:
        fault = None
        try:
            with watched(limit_s, memory):
                attempt(case)
            taken += 1
        except NasirError as error:
            refused += 1
            fault = unprintable(str(error))
        except (Exception, Hung) as error:
            fault = _kind(error)
        if fault is not None:
            count, kept = failures.get(fault) or (0, keep(case))
            failures[fault] = count + 1, kept
    lines = [f"{count} x {fault}; see {kept}" for fault, (count, kept) in list(failures.items())[:KINDS_SHOWN]]
    assert not failures, "\n".join([f"{len(failures)} kinds of failures", *lines])
    return taken, refused


def unprintable(message: str) -> str | None:
    """What is wrong with a message: too long, or with characters that command a terminal; None if it is fine."""
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters: {message[:200]!r}"
    bad = next((char for char in message if char != "\n" and not char.isprintable()), None)
    return None if bad is None else f"a message with {bad!r}: {message[:200]!r}"


def _kind(error: BaseException) -> str:
    """What was raised, and by which line of the project."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/nasir/" in frame.filename]
    last = (ours or frames)[-1] if frames else None
    where = f"{Path(last.filename).name}:{last.lineno}" if last else "an unknown place"
    return f"{type(error).__name__} at {where}: {str(error)[:200]!r}"


def keep(case: object) -> Path:
    """Write an input into a file of the temporary folder, named by its digest."""
    data = (
        case
        if isinstance(case, bytes)
        else (case if isinstance(case, str) else repr(case)).encode(errors="surrogatepass")
    )
    folder = Path(tempfile.gettempdir()) / "nasir-fuzz"
    folder.mkdir(exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:16]
    file.write_bytes(data)
    return file
