"""Averages of weights warm up unless a spec says otherwise, and runs from before there was a warm-up keep theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import HEAD, After, write_spec

import nasir.api
from nasir.errors import Preempted
from nasir.journal.directory import RunDirectory
from nasir.spec import Spec, load_spec, loads_spec
from nasir.spec.load import parse_mapping
from nasir.spec.past import load_stored, tree_as_stored
from nasir.spec.read import checked

PHASES = """\
phases:
  - name: only
    epochs: 4
    ema: {decay: 0.999}
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - {when: {at: [2]}, do: {insert-block: {init: gaussian}}, where: {stages: [s1]}}
"""
TEXT = HEAD + PHASES
CONSTANT = TEXT.replace("{decay: 0.999}", "{decay: 0.999, warmup: false}")


def as_stored(text: str) -> Spec:
    """The spec of a text as a run of the past keeps it."""
    return checked(tree_as_stored(parse_mapping(text, "s.yaml")), "s.yaml")


def accuracy(run: nasir.api.Run) -> float:
    return run.metrics["val.accuracy"]


def test_the_average_of_a_short_phase_is_as_good_as_its_weights(tmp_path: Path) -> None:
    text = TEXT.partition("    rules:")[0].replace("epochs: 4", "epochs: 12")
    raw = nasir.api.run(write_spec(tmp_path, text.replace("    ema: {decay: 0.999}\n", "")), tmp_path / "raw")
    warm = nasir.api.run(write_spec(tmp_path, text), tmp_path / "warm")
    cold = nasir.api.run(write_spec(tmp_path, text.replace("0.999}", "0.999, warmup: false}")), tmp_path / "cold")
    assert accuracy(warm) > accuracy(raw) - 0.1 > 0.6 > accuracy(cold) + 0.1


def test_a_phase_shorter_than_its_average_is_remarked_upon(tmp_path: Path) -> None:
    told: list[str] = []
    spec = write_spec(tmp_path, TEXT)
    nasir.api.run(spec, tmp_path / "run", notice=told.append)
    line = 1 + TEXT[: TEXT.index("ema:")].count("\n")
    (text,) = told
    assert text.startswith(f"{spec}:{line}:") and "about 1000 steps" in text and "phase 'only' has 20" in text
    assert "consider `decay: 0.5`" in text
    told.clear()
    nasir.api.run(write_spec(tmp_path, TEXT.replace("0.999", "0.5")), tmp_path / "other", notice=told.append)
    assert told == []


def test_the_digest_of_a_constant_decay_is_that_of_specs_that_had_no_other(tmp_path: Path) -> None:
    # a rule of the past leaves a declined site alone, so that the warm-up is all that is left unsaid
    silent, said = (text.replace("[s1]}}", "[s1]}, decline: stop}") for text in (TEXT, CONSTANT))
    constant, warm = loads_spec(said), loads_spec(silent)
    assert warm.digest != constant.digest == as_stored(silent).digest
    assert as_stored(said).resolved() == constant.resolved()
    assert not as_stored(silent).phases[0].training(warm).ema_warmup
    assert loads_spec(constant.to_yaml()).resolved() == constant.resolved()
    assert loads_spec(warm.to_yaml()).resolved() == as_stored(warm.to_yaml()).resolved() == warm.resolved()


@pytest.mark.parametrize("text", [TEXT, CONSTANT])
def test_a_stopped_run_goes_on_with_its_average_bit_for_bit(tmp_path: Path, text: str) -> None:
    whole = nasir.api.run(write_spec(tmp_path, text), tmp_path / "whole")
    with pytest.raises(Preempted):
        nasir.api.run(write_spec(tmp_path, text), tmp_path / "run", signals=After(9))  # has its first checkpoint
    assert nasir.api.resume(tmp_path / "run").metrics == whole.metrics


def test_a_run_from_before_there_was_a_warmup_keeps_the_decay_it_had(tmp_path: Path) -> None:
    whole = nasir.api.run(write_spec(tmp_path, CONSTANT), tmp_path / "whole")
    with pytest.raises(Preempted):
        nasir.api.run(write_spec(tmp_path, CONSTANT), tmp_path / "run", signals=After(9))  # has its first checkpoint
    stored = RunDirectory.open(tmp_path / "run").spec_path
    text = stored.read_text()
    assert text.count("    warmup: false\n") == 1
    stored.write_text(text.replace("    warmup: false\n", ""))  # as it was written then
    assert load_spec(stored).phases[0].ema.warmup and not load_stored(stored).phases[0].ema.warmup
    assert nasir.api.resume(tmp_path / "run").metrics == whole.metrics
