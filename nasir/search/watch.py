"""What a search says while it runs: a line for each trial that settles its point, and the best so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.trial import FrozenTrial

from nasir.counted import counted
from nasir.report.study_facts import ObjectiveFacts, StudyFacts, TrialFacts, Value
from nasir.search.points import Ledger
from nasir.search.summary import losses, trial_facts

__all__ = ["Watch", "result_lines", "short_names"]

WIDTH = 8  # parameters that a line shows
UNDER_WAY = ("running", "waiting")


class Watch:
    """Shows the attempts that ended since the last look; those that had ended before the first are not shown."""

    def __init__(
        self,
        trials: Sequence[FrozenTrial],
        objectives: Sequence[ObjectiveFacts],
        retries: int,
        say: Callable[[str], None],
    ) -> None:
        """`trials`: all of the study as they are before it goes on."""
        self.objectives = tuple(objectives)
        self.retries = retries
        self.say = say
        self.names: dict[str, str] = {}
        before = self._read(trials)
        self.shown = {trial.number for trial in before if trial.outcome not in UNDER_WAY}
        self.counted = [losses(trial, self.objectives) for trial in before if trial.counts]

    def _read(self, frozen: Sequence[FrozenTrial]) -> list[TrialFacts]:
        self.ledger = Ledger(frozen, self.retries)
        self.reasons = {trial.number: str(trial.user_attrs["lost"]) for trial in frozen if "lost" in trial.user_attrs}
        trials = [trial_facts(trial) for trial in frozen]
        self.names = short_names({name for trial in trials for name in trial.params})
        return trials

    def look(self, frozen: Sequence[FrozenTrial]) -> int:
        """Say what is new in all trials of the study; the number of those that settled their point so far."""
        trials = self._read(frozen)
        ended = [trial for trial in trials if trial.ended]
        new = [trial for trial in trials if trial.outcome not in UNDER_WAY and trial.number not in self.shown]
        before = len([trial for trial in ended if trial.number in self.shown])
        for trial in sorted(new, key=lambda trial: (trial.end or 0.0, trial.number)):
            self.shown.add(trial.number)
            before += trial.ended
            text = self._line(trial)
            if text:
                self.say(f"[{before}/{len(self.ledger.points)}] {text}")
        return len(ended)

    def _line(self, trial: TrialFacts) -> str:
        parts = [f"trial {trial.number}"]
        if trial.outcome == "duplicate":
            return ""
        if trial.outcome in ("lost", "preempted", "failed"):
            lost = self.reasons.get(trial.number, "its worker died")
            why = {"lost": lost, "preempted": "stopped", "failed": f"failed: {_first_line(trial.error)}"}
            failed = trial.outcome == "lost" and self.ledger.points[trial.point].failed
            then = "" if trial.outcome == "failed" else "; not tried again" if failed else "; goes on later"
            return f"{parts[0]}  {why[trial.outcome]}{then}"
        if trial.outcome == "pruned":
            step = max(trial.intermediate, default=None)
            parts.append("pruned" + ("" if step is None else f" at {trial.intermediate[step]:.4g}"))
        else:
            parts.append(values_text(trial, self.objectives))
        broken = [name for name, by in trial.constraints.items() if by > 0]
        if broken:
            parts.append(f"breaks {', '.join(broken)}")
        parts.append(params_text(trial, self.names))
        parts.append(epochs_text(trial))
        parts.append(trial.worker)
        if trial.counts and self._leads(trial):
            parts.append("best so far" if len(self.objectives) == 1 else "on the front")
        return "  ".join(filter(None, parts))

    def _leads(self, trial: TrialFacts) -> bool:
        """Whether none before it is as good in everything; from here on it is one of those before."""
        own = losses(trial, self.objectives)
        beaten = any(all(a <= b for a, b in zip(known, own, strict=True)) for known in self.counted)
        self.counted.append(own)
        return not beaten


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def number_text(value: float) -> str:
    """A metric in four digits; counts (MACs, parameters) in thousands, millions and so on."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def values_text(trial: TrialFacts, objectives: Sequence[ObjectiveFacts]) -> str:
    """The values of a finished trial with their names."""
    return "  ".join(
        f"{objective.metric} {number_text(value)}" for objective, value in zip(objectives, trial.values, strict=True)
    )


def params_text(trial: TrialFacts, names: dict[str, str]) -> str:
    """The choices of a trial under short names."""
    shown = [f"{names[name]}={_value_text(value)}" for name, value in list(trial.params.items())[:WIDTH]]
    return " ".join([*shown, "..."] if len(trial.params) > WIDTH else shown)


def _value_text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def epochs_text(trial: TrialFacts) -> str:
    """How long a trial trained, and what of it was spared."""
    if trial.cached_from is not None:
        return f"as trial {trial.cached_from}"
    if trial.epochs is None:
        return ""
    spared = [f"{trial.prefix_epochs} from a prefix"] if trial.prefix_epochs else []
    spared += [f"{trial.resumed} by the attempt before"] if trial.resumed else []
    return counted(trial.epochs, "epoch") + (f" ({', '.join(spared)})" if spared else "")


def short_names(names: set[str]) -> dict[str, str]:
    """Each dotted name without what leads to it, as far as it stays different from all others."""
    shortened = {}
    for name in names:
        parts = name.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        shortened[name] = next(
            tail
            for tail in tails
            if tail == name
            or not (tail.isdigit() or any(other != name and f".{other}".endswith(f".{tail}") for other in names))
        )
    return shortened


def result_lines(facts: StudyFacts, most: int = 10) -> list[str]:
    """The best trial, or the front of several objectives, and what it all took; in words where there is none."""
    names = short_names({name for trial in facts.trials for name in trial.params})
    front = [trial for number in facts.front if (trial := facts.trial(number)) is not None]
    lines = []
    if front:
        lines.append("best trial:" if len(facts.objectives) == 1 else f"Pareto front, {counted(len(front), 'trial')}:")
    elif any(trial.outcome == "infeasible" for trial in facts.trials):
        lines.append(f"no trial keeps all constraints ({', '.join(facts.constraints)})")
    else:
        lines.append("no trial is complete")
    for trial in front[:most]:
        lines.append(f"  trial {trial.number}  {values_text(trial, facts.objectives)}  {params_text(trial, names)}")
    if len(front) > most:
        lines.append(f"  and {len(front) - most} more")
    totals = facts.totals
    counts = ", ".join(f"{count} {name}" for name, count in totals.outcomes.items() if count)
    saved = f", {counted(totals.epochs_saved, 'epoch')} saved" if totals.epochs_saved else ""
    trained = f"{counted(totals.epochs, 'epoch')} trained{saved}"
    lines.append(f"{totals.done} of {counted(totals.points, 'trial')} done ({counts}); {trained}")
    return lines
