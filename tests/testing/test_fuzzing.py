"""The fuzzing tools: the same cases each time, and nothing that goes wrong passes."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest
from fuzzing import Hung, fuzz, mutate_bytes, mutate_text, mutate_tree, mutated, mutations, watched

from nasir.errors import NasirError, UsageError

TREE = {"a": [1, 2.5, "text"], "b": {"c": None, "d": [[1], {"e": True}]}}


def test_the_environment_scales_the_number_of_mutations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NASIR_FUZZ", raising=False)
    assert mutations(50) == 50
    monkeypatch.setenv("NASIR_FUZZ", "0.5")
    assert mutations(50) == 25
    monkeypatch.setenv("NASIR_FUZZ", "full")
    assert mutations(50) == 10_000


@pytest.mark.parametrize(
    ("original", "mutate"), [(b"some bytes 12", mutate_bytes), ("a: [text, 3]\n", mutate_text), (TREE, mutate_tree)]
)
def test_mutations_are_many_and_repeatable(original: object, mutate: object) -> None:
    first, again, other = (
        list(map(repr, mutated([original], mutate, 300, seed)))  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(set(first)) > 150
    assert list(mutated([TREE], mutate_tree, 50, 3)) and TREE["a"] == [1, 2.5, "text"]  # the original is left as it is


def test_what_is_empty_is_mutated_too() -> None:
    for mutate, empty in ((mutate_bytes, b""), (mutate_text, ""), (mutate_tree, {})):
        assert len(list(mutated([empty], mutate, 100, 0))) == 100  # type: ignore[arg-type, list-item]


def test_refusals_are_counted_and_other_errors_fail_with_the_input_kept() -> None:
    def load(number: int) -> None:
        if number % 2:
            raise UsageError("odd")
        if number == 6:
            raise ValueError("six")

    assert fuzz(load, range(5)) == (3, 2)
    with pytest.raises(AssertionError, match=r"1 x ValueError at .*'six'; see") as caught:
        fuzz(load, range(8))
    kept = re.search(r"see (\S+)", str(caught.value))
    assert kept is not None and Path(kept[1]).read_text() == "6"


@pytest.mark.parametrize("message", ["a \x1b[31m red", "carriage\rreturn", "x" * 100_000])
def test_a_message_that_cannot_be_printed_fails(message: str) -> None:
    class Bare(NasirError):
        def __str__(self) -> str:
            return message

    def load(case: int) -> None:
        raise Bare(message)

    with pytest.raises(AssertionError, match="a message "):
        fuzz(load, [1])


def test_a_hang_fails_whether_it_computes_or_waits() -> None:
    def compute(case: int) -> None:
        try:
            while True:
                pass
        except Exception:
            raise UsageError("taken for a fault of the input") from None

    def wait(case: int) -> None:
        time.sleep(60)

    for hang in (compute, wait):
        with pytest.raises(AssertionError, match="1 x Hung"):
            fuzz(hang, [1], limit_s=0.1)


def test_the_time_limit_of_the_whole_test_goes_on() -> None:
    before = signal.getsignal(signal.SIGALRM)
    whole, _ = signal.setitimer(signal.ITIMER_REAL, 500)
    try:
        with watched(limit_s=1):
            assert 9 < signal.getitimer(signal.ITIMER_REAL)[0] <= 10
        assert 400 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
        assert signal.getsignal(signal.SIGALRM) is before
    finally:
        signal.setitimer(signal.ITIMER_REAL, whole)
    with pytest.raises(Hung), watched(limit_s=0.05):
        while random:
            pass


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory is bounded on Linux alone")
def test_what_takes_too_much_memory_fails() -> None:
    assert fuzz(bytearray, [1 << 20], memory=1 << 26) == (1, 0)
    with pytest.raises(AssertionError, match="1 x MemoryError"):
        fuzz(bytearray, [1 << 28], memory=1 << 26)
    assert bytearray(1 << 28)  # and the limit is lifted again
