"""What a search says while it runs and at its end."""

from __future__ import annotations

import pytest
from synthetic_study import make_study

from nasir.search.summary import study_facts
from nasir.search.watch import Watch, number_text, result_lines, short_names


@pytest.mark.parametrize("objectives", [1, 2])
def test_each_trial_that_settles_its_point_is_said_once(objectives: int) -> None:
    study = make_study(objectives, 14)
    facts = study_facts(study)
    said: list[str] = []
    watch = Watch(study.trials, facts.objectives, 3, said.append)
    assert watch.look(study.trials) == 14 and said == []  # what had ended before is no news
    watch.shown.clear()
    watch.counted.clear()
    watch.look(study.trials)
    settled = [trial.number for trial in facts.finished]
    lines = [line for line in said if "goes on later" not in line]
    assert [int(line.split()[2]) for line in lines] == settled
    assert lines[-1].startswith("[14/14] trial ")
    leading = "best so far" if objectives == 1 else "on the front"
    assert any(line.endswith(leading) for line in lines)
    last = [int(line.split()[2]) for line in lines if line.endswith(leading)]
    assert set(facts.front) <= set(last)
    watch.look(study.trials)
    assert len(said) == len(set(said))


def test_lines_show_values_short_names_and_what_was_spared() -> None:
    study = make_study(1, 14)
    said: list[str] = []
    watch = Watch(study.trials, study_facts(study).objectives, 3, said.append)
    watch.shown.clear()
    watch.look(study.trials)
    text = "\n".join(said)
    assert "val.accuracy 0.9252  lr=0.05587 every=4" in text and "rules.0=none" in text
    assert "24 epochs (6 from a prefix)" in text and "pruned at 0.7308" in text and "breaks macs <= 40M" in text


def test_the_end_names_the_best_or_the_front_and_counts_attempts() -> None:
    facts = study_facts(make_study(1, 14))
    lines = result_lines(facts)
    assert lines[0] == "best trial:" and lines[1].startswith(f"  trial {facts.front[0]}  val.accuracy")
    assert lines[-1].startswith("14 of 14 trials done (")
    facts = study_facts(make_study(2, 30))
    lines = result_lines(facts, most=2)
    assert lines[0] == f"Pareto front, {len(facts.front)} trials:"
    assert lines[3] == f"  and {len(facts.front) - 2} more"


def test_names_are_shortened_as_far_as_they_stay_different() -> None:
    names = {"lr", "phases.0.rules.0.every", "phases.0.rules.1.every", "phases.1.rules.0", "a.b"}
    assert short_names(names) == {
        "lr": "lr",
        "phases.0.rules.0.every": "0.every",
        "phases.0.rules.1.every": "1.every",
        "phases.1.rules.0": "rules.0",
        "a.b": "b",
    }
    assert short_names({"every", "rules.every"}) == {"every": "every", "rules.every": "rules.every"}


@pytest.mark.parametrize(
    ("value", "text"), [(0.93751, "0.9375"), (12, "12"), (40_000_000, "40M"), (1_234_567, "1.235M"), (2.5e9, "2.5G")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text
