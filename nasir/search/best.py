"""The winner of a study, and the plain spec that trains it again from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from nasir.errors import NasirError, StudyError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.report.study_axes import amount
from nasir.report.study_facts import StudyFacts, TrialFacts
from nasir.report.study_table import remark
from nasir.search.summary import study_facts
from nasir.spec import Spec

if TYPE_CHECKING:
    from nasir.search.study import Study

__all__ = ["best_trial", "resolved_spec", "threads_of"]

LISTED = 12  # trials of a front that an error names
MADE = (TrialState.COMPLETE, TrialState.PRUNED)


def best_trial(study: Study, number: int | None = None) -> FrozenTrial:
    """The best trial that keeps all constraints, or the one of a number (it may break constraints, or be pruned).

    Raises UsageError for a number that is not there or did not end, and without a number where several objectives leave
    the choice open (the front is named); StudyError where no trial is complete and keeps all constraints.
    """
    facts = study_facts(study.optuna)
    if number is None:
        number = _only(facts)
    trials = study.optuna.get_trials(deepcopy=False)
    wanted = next((trial for trial in trials if trial.number == number), None)
    if wanted is None:
        raise UsageError(f"study {facts.name}: there is no trial {number}; it has 0 to {len(trials) - 1}")
    if wanted.state not in MADE:
        raise UsageError(_unfinished(facts, facts.trial(number)))
    return wanted


def _only(facts: StudyFacts) -> int:
    if not facts.front:
        totals = facts.totals.outcomes
        if totals.get("infeasible"):
            nearest = _nearest([trial for trial in facts.trials if trial.outcome == "infeasible"])
            raise StudyError(
                f"study {facts.name}: none of {totals['infeasible']} complete trials keeps all constraints; trial "
                f"{nearest.number} comes nearest ({remark(nearest)}): --trial {nearest.number} takes it nevertheless"
            )
        raise StudyError(
            f"study {facts.name}: no trial is complete yet ({facts.totals.done} of {facts.totals.points} ended); "
            f"go on with the search"
        )
    if len(facts.objectives) == 1:
        return facts.front[0]
    lines = [f"  --trial {number}: {_values(facts, facts.trial(number))}" for number in facts.front[:LISTED]]
    more = len(facts.front) - LISTED
    lines += [f"  and {more} more; see the report"] if more > 0 else []
    aims = " and ".join(objective.metric for objective in facts.objectives)
    text = "\n".join(lines)
    raise UsageError(f"study {facts.name}: {aims} have no single best trial; choose one of the front:\n{text}")


def _values(facts: StudyFacts, trial: TrialFacts) -> str:
    pairs = zip(facts.objectives, trial.values, strict=True)
    return ", ".join(f"{objective.metric} {amount(objective.metric, value)}" for objective, value in pairs)


def _nearest(trials: Sequence[TrialFacts]) -> TrialFacts:
    """The trial that breaks the fewest constraints, then by least."""

    def breach(trial: TrialFacts) -> tuple[int, float, int]:
        broken = [value for value in trial.constraints.values() if value > 0]
        return len(broken), sum(broken), trial.number

    return min(trials, key=breach)


def _unfinished(facts: StudyFacts, trial: TrialFacts) -> str:
    """Why an attempt cannot be trained again, and which other attempt at its point can."""
    settled = next((other.number for other in facts.trials if other.point == trial.point and other.ended), None)
    remedy = f"its point ended as --trial {settled}" if settled is not None else "wait for it, or choose another"
    return f"study {facts.name}: trial {trial.number} has no result ({trial.outcome}); {remedy}"


def resolved_spec(study: Study, trial: FrozenTrial) -> Spec:
    """The plain spec of a trial, named after the study with `-best`; the same seed, so the same training.

    Raises SpecError where the values of the trial do not fit the choices of the study.
    """
    spec = study.spec.trial(trial.params)
    return spec.model_copy(update={"name": f"{study.spec.name}-best"})


def threads_of(study: Study, trial: FrozenTrial) -> int | None:
    """With how many threads a trial was trained, on which sums of floats depend; None where its run is elsewhere."""
    run = trial.user_attrs.get("run")
    try:
        threads = RunDirectory(study.folder / run).env().get("threads") if run else None
    except NasirError:
        return None
    return threads if isinstance(threads, int) else None
