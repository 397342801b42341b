"""Folds of the journal: at any record of any journal they are what the whole history says."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import made

from nasir.journal.log import Journal, effective, lineage, read_journal
from nasir.policy import EvolveOptions, PhasePlan, PhaseProgress, Plateau, Record, evaluate
from nasir.policy.evolve_log import EvolutionLog
from nasir.policy.evolve_rank import Individual, best_of, ranked
from nasir.policy.phase_log import PhaseLog
from nasir.records import DeclinedRecord, DroppedRecord, KeptRecord, PhaseRecord, RecalledRecord
from nasir.rewriting.evidence import Evidence
from nasir.running.population import stored

NAN = math.nan
PLANS = tuple(PhasePlan(f"p{number}", epochs=1 + number % 3) for number in range(40))
SITES = ("s1", "s2", "s3")
OPTIONS = (
    EvolveOptions(population=3, offspring=2),
    EvolveOptions(population=2, offspring=2, replace="parents", keep_parent=True),
    EvolveOptions(population=2, offspring=3, replace="worst", result="population"),
    EvolveOptions(population=2, offspring=2, replace="worst", objectives=("val.accuracy", {"minimize": "macs"})),
)
VALUES = st.sampled_from([0.1, 0.2, 0.2, 0.3, 0.5, NAN])


def draw_record(data: st.DataObject, records: Sequence[Record], fresh: int) -> tuple[str, dict[str, Any]]:
    """The next record of a journal that a run could write; `fresh`: a number no individual had yet."""
    phases = sum(isinstance(record, PhaseRecord) for record in records)
    held = sorted(plain_stored(records))
    kinds = ["epoch", "epoch", "kept", "kept", "decision", "decision", "rewrite", "declined", "phase", "trial", "other"]
    kinds += ["recalled", "recalled", "dropped"] if held else []
    kind = data.draw(st.sampled_from(kinds))
    site = {"site": data.draw(st.sampled_from(SITES)), "pass": "grow"}
    if kind == "phase":
        return kind, {"phase": f"p{phases}"}
    if kind in ("epoch", "kept"):
        metrics = {"val.accuracy": data.draw(VALUES), "val.loss": data.draw(VALUES)}
        number = {"individual": fresh} if kind == "kept" else {}
        return kind, {"epoch": 1, "metrics": metrics, "seconds": 0.5, "macs": data.draw(st.integers(1, 4)), **number}
    if kind in ("recalled", "dropped"):
        return kind, {"individual": data.draw(st.sampled_from(held))}
    if kind == "decision":
        action = data.draw(st.sampled_from(["rewrite", "rewrite", "trial", "freeze", "end_phase"]))
        rule = data.draw(st.sampled_from(["a", "b"]))
        return kind, {**site, "action": action, "rule": rule, "sites": list(SITES), "reason": "so"}
    return ("checkpoint", {}) if kind == "other" else (kind, {**site, "seconds": 0.25, "reason": "no"})


def grow(data: st.DataObject, size: int, look: Callable[[Sequence[Record]], None]) -> None:
    """Write a journal with resumes that void records, and `look` at what is in effect after each record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        with Journal(path) as journal:
            for number in range(size):
                records = journal.effective()
                if len(journal) and data.draw(st.integers(0, 9)) == 0:
                    journal.append(made("resume", {"supersedes_from": data.draw(st.integers(0, len(journal)))}))
                else:
                    journal.append(made(*draw_record(data, records, number + 1)))
                look(journal.effective())
            assert journal.effective() == effective(read_journal(path)[0])
            look(journal.effective()[: data.draw(st.integers(0, len(journal.effective())))])


journals = settings(max_examples=40, deadline=None)


@journals
@given(st.data(), st.integers(1, 30))
def test_folds_that_go_on_are_folds_from_scratch(data: st.DataObject, size: int) -> None:
    def look(history: Sequence[Record]) -> None:
        if data.draw(st.booleans()):
            return  # the next look goes on from further back
        scratch = tuple(history)
        assert PhaseProgress.of(history, PLANS) == PhaseProgress.of(scratch, PLANS)
        assert PhaseLog.of(history) == PhaseLog.of(scratch)
        for options in OPTIONS:
            assert same(EvolutionLog.of(history, options), EvolutionLog.of(scratch, options))
        assert tuple(lineage(history)) == tuple(lineage(scratch)) == plain_lineage(scratch)
        assert stored(history) == stored(scratch) == plain_stored(scratch)
        refused = sum(isinstance(record, DeclinedRecord) for record in scratch)
        expected = f"draw after {refused}" if refused else "draw"
        assert Evidence(history=history).rng("draw").integers(1 << 30) == Evidence().rng(expected).integers(1 << 30)

    grow(data, size, look)


@journals
@given(st.data(), st.integers(1, 40))
def test_an_evolution_is_what_its_kept_individuals_say(data: st.DataObject, size: int) -> None:
    def look(history: Sequence[Record]) -> None:
        phase = current_phase(history)
        for options in OPTIONS:
            log = EvolutionLog.of(history, options)
            kept = [individual(record, options) for record in phase if isinstance(record, KeptRecord)]
            assert log.last == max((r.individual for r in history if isinstance(r, KeptRecord)), default=0)
            assert same((log.count, log.founder), (len(kept), kept[0] if kept else None))
            assert same(list(log.population), plain_population(kept, options))
            done = options.population + log.generations * options.offspring
            assert same(list(log.siblings), kept[done:] if len(kept) > options.population else [])
            assert same(list(log.stored.values()), [member for member in kept if member.number in plain_stored(phase)])
            sound = [member for member in kept if member.sound]
            assert list(log.ever) == (best_of(sound) if sound else [])

    grow(data, size, look)


@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(1, 5), st.sampled_from(["running_max", "ema", "none"]))
def test_a_plateau_is_what_all_epochs_say(values: list[float], window: int, smooth: Any) -> None:
    for metric in ("val.accuracy", "val.loss"):
        plateau = Plateau(metric, window, 0.05, smooth)
        epochs: list[dict[str, Any]] = []
        for epoch, value in enumerate(values, 1):
            epochs.append(made("epoch", {"epoch": epoch, "metrics": {metric: value}}))
            grown = PhaseLog.of(tuple(epochs)).epochs
            verdict = evaluate(plateau, epochs)
            assert evaluate(plateau, grown) == verdict
            delta = plain_improvement(plateau, values[:epoch])
            assert verdict.holds == (delta < 0.05 - 1e-12 * max(1.0, abs(value)))
            if epoch > window:
                assert f"improved by {delta:.6g} in" in verdict.sentence


# -- the same, from all records at once


def plain_lineage(records: Sequence[Record]) -> tuple[Record, ...]:
    before: list[int] = []
    kept: dict[int, int] = {}
    for index, record in enumerate(records):
        before.append(kept[record.individual] if isinstance(record, RecalledRecord) else index - 1)
        if isinstance(record, KeptRecord):
            kept[record.individual] = index
    past, index = [], len(records) - 1
    while index >= 0:
        past.append(records[index])
        index = before[index]
    return tuple(reversed(past))


def plain_stored(records: Sequence[Record]) -> set[int]:
    kept = {record.individual for record in records if isinstance(record, KeptRecord)}
    return kept - {record.individual for record in records if isinstance(record, DroppedRecord)}


def current_phase(history: Sequence[Record]) -> Sequence[Record]:
    places = [index for index, record in enumerate(history) if isinstance(record, PhaseRecord)]
    return history[places[-1] + 1 :] if places else history


def individual(record: Record, options: EvolveOptions) -> Individual:
    values = tuple(goal.value(record) for goal in options.goals)
    return Individual(record.individual, values, not any(math.isnan(value) for value in record.metrics.values()))


def same(first: object, second: object) -> bool:
    """NaN is NaN here."""
    return repr(first) == repr(second)


def plain_population(kept: Sequence[Individual], options: EvolveOptions) -> Sequence[Individual]:
    size, offspring = options.population, options.offspring
    generations = max(0, len(kept) - size) // offspring
    if options.replace == "oldest":
        return [member for member in kept[: size + generations * offspring] if member.sound][-size:]
    members = [member for member in kept[:size] if member.sound]
    for generation in range(generations):
        first = size + generation * offspring
        sound = [member for member in kept[first : first + offspring] if member.sound]
        best = ranked(sound if options.replace == "parents" else [*members, *sound])[:size]
        members = sorted(best, key=lambda member: member.number) or members
    return members


def plain_improvement(plateau: Plateau, values: Sequence[float]) -> float:
    loss = plateau.metric.endswith("loss")
    signed = [-value for value in values] if loss else list(values)
    if len(signed) > plateau.window:
        return plain_smoothed(plateau, signed) - plain_smoothed(plateau, signed[: -plateau.window])
    return math.inf if loss else plain_smoothed(plateau, signed)


def plain_smoothed(plateau: Plateau, values: Sequence[float]) -> float:
    real = [value for value in values if not math.isnan(value)]
    if not real:
        return NAN
    if plateau.smooth == "running_max":
        return max(real)
    if plateau.smooth == "none":
        return values[-1]
    average = real[0]
    for value in real[1:]:
        average = plateau.decay * average + (1.0 - plateau.decay) * value
    return average
