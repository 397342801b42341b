"""What errors say: whatever was given, it can be printed, and read."""

from __future__ import annotations

import copy
import pickle

import pytest

from nasir.errors import LONGEST_LINE, LONGEST_TEXT, NasirError, OptionError, SpecError, printable


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("plain, é and 漢字\nin two lines", "plain, é and 漢字\nin two lines"),
        ("\x1b[31mred\x07\r\t", r"\x1b[31mred\x07\r\t"),
        ("a\0b\u2028c\u202ed\ud800", r"a\x00b\u2028c\u202ed\ud800"),
        ("", ""),
    ],
)
def test_control_characters_are_escaped(given: str, told: str) -> None:
    assert printable(given) == told == str(NasirError(given))
    assert printable(told) == told


def test_a_long_line_keeps_its_place_and_its_remedy() -> None:
    told = str(SpecError(f"s.yaml:1:1: {'x' * 100_000}; write less"))
    assert len(told) == LONGEST_LINE
    assert told.startswith("s.yaml:1:1: xxx") and " ... " in told and told.endswith("x; write less")
    assert len(printable("\0" * LONGEST_LINE)) == LONGEST_LINE  # four times as long once escaped


def test_of_many_lines_the_rest_is_counted() -> None:
    lines = [f"s.yaml:{number}:1: a problem" for number in range(10_000)]
    told = str(SpecError("\n".join(lines)))
    *kept, last = told.splitlines()
    assert len(told) <= LONGEST_TEXT and kept == lines[: len(kept)]
    assert last == f"... and {10_000 - len(kept)} more lines"


def test_errors_can_be_copied_and_sent_to_other_processes() -> None:
    for error in (NasirError("a\x1b"), OptionError("b", [(("x",), "wrong", "mend it")])):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), str(copy.copy(error))) == (type(error), str(error), str(error))
