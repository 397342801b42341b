"""An Optuna study, under way or finished, as the plain facts that reports, tables and exports are made of."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasir.report.study_facts import Importance, ObjectiveFacts, Outcome, ParameterFacts, StudyFacts, Totals, TrialFacts
from nasir.search.pareto import hypervolumes, non_dominated
from nasir.search.points import Ledger
from nasir.spec.choices import when_text
from nasir.spec.domains import Options, domain_of

__all__ = ["study_facts", "trial_facts"]

FEW = 10  # complete trials below which importances would be noise
GOOD = 5  # trials that at least count as good ones: PED-ANOVA wants no fewer


def study_facts(study: optuna.Study) -> StudyFacts:
    """What a study says now. It may be under way, without any finished trial, or have only failed ones.

    One read of the storage; trials that other workers finish meanwhile are in the next summary.
    """
    attrs = study.user_attrs
    frozen = study.get_trials(deepcopy=False)
    objectives = _objectives(study, attrs.get("nasir:objectives") or [])
    search = attrs.get("nasir:search") or {}
    ledger = Ledger(frozen, int(search.get("retries", 0)))
    trials = _linked([trial_facts(trial) for trial in frozen], ledger, _defaults(attrs.get("nasir:space") or []))
    axis, width = _axis(search.get("axis"))
    facts = StudyFacts(
        name=study.study_name,
        objectives=objectives,
        constraints=tuple(dict.fromkeys(name for trial in trials for name in trial.constraints))
        or tuple(str(text) for text in search.get("constraints") or ()),
        parameters=_parameters(attrs.get("nasir:space") or []),
        sampler=_kind(search.get("sampler")),
        pruner=_kind(search.get("pruner")) if len(objectives) == 1 else "",
        axis=axis,
        axis_width=width,
        trials=trials,
        front=_front(trials, objectives),
        importance=tuple(_importances(study, frozen, objectives)),
        totals=_totals(trials, int(attrs.get("nasir:points") or 0)),
        spec=str(attrs.get("nasir:spec") or ""),
        version=str(attrs.get("nasir:version") or ""),
    )
    return replace(facts, hypervolume=_hypervolume(facts)) if len(objectives) > 1 else facts


def _objectives(study: optuna.Study, said: Sequence[Mapping[str, Any]]) -> tuple[ObjectiveFacts, ...]:
    names = [str(objective.get("metric", "")) for objective in said]
    if len(names) != len(study.directions):
        names = [f"objective {index}" for index in range(len(study.directions))]
    directions = ("maximize" if way == optuna.study.StudyDirection.MAXIMIZE else "minimize" for way in study.directions)
    return tuple(ObjectiveFacts(name, way) for name, way in zip(names, directions, strict=True))  # type: ignore[arg-type]


def trial_facts(trial: FrozenTrial) -> TrialFacts:
    """What an attempt says by itself: `retried_as` and `defaults`, which take the others, are not filled."""
    attrs = trial.user_attrs
    prefix = attrs.get("prefix") or {}
    values = tuple(float(value) for value in trial.values or ()) if trial.state.is_finished() else ()
    return TrialFacts(
        number=trial.number,
        point=int(attrs.get("point", trial.number)),
        attempt=int(attrs.get("attempt", 0)),
        outcome=_outcome(trial),
        values=values,
        params=dict(trial.params),
        constraints=dict(trial.constraints),
        metrics=_numbers(attrs.get("metrics")),
        cost=_numbers(attrs.get("cost")),
        depths={str(name): int(depth) for name, depth in (attrs.get("depths") or {}).items()},
        epochs=attrs.get("epochs"),
        cpu_seconds=attrs.get("cpu_seconds"),
        spent_cpu_seconds=attrs.get("spent_cpu_seconds"),
        seconds=attrs.get("seconds"),
        start=trial.datetime_start.timestamp() if trial.datetime_start else None,
        end=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        worker=str(attrs.get("worker") or ""),
        machine=str(attrs.get("machine") or ""),
        run=str(attrs.get("run") or ""),
        intermediate=dict(sorted(trial.intermediate_values.items())),
        prefix_epochs=int(prefix.get("epochs") or 0),
        prefix_run=str(prefix.get("run") or ""),
        cached_from=attrs.get("cached_from"),
        resumed=attrs.get("resumed"),
        error=str(attrs.get("error") or ""),
    )


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {str(name): value for name, value in (values or {}).items() if isinstance(value, (int, float))}


def _outcome(trial: FrozenTrial) -> Outcome:
    if trial.state == TrialState.COMPLETE:
        if any(value > 0 for value in trial.constraints.values()):
            return "infeasible"
        return "cached" if trial.user_attrs.get("cached_from") is not None else "complete"
    if trial.state == TrialState.FAIL:
        if trial.user_attrs.get("duplicate"):
            return "duplicate"
        if trial.user_attrs.get("error"):
            return "failed"
        return "preempted" if trial.user_attrs.get("preempted") else "lost"
    others: dict[TrialState, Outcome] = {TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
    return others.get(trial.state, "waiting")


def _linked(trials: Sequence[TrialFacts], ledger: Ledger, defaults: Mapping[str, Any]) -> tuple[TrialFacts, ...]:
    """The trials with what their points say: surplus ones, the next attempt, and the point that tries the defaults."""
    later: dict[int, int] = {}
    surplus: set[int] = set()
    for point in ledger.points.values():
        later |= {
            attempt.number: after.number for attempt, after in zip(point.attempts, point.attempts[1:], strict=False)
        }
        surplus |= {trial.number for trial in point.surplus}
    tried = next((trial.point for trial in trials if _are_defaults(trial.params, defaults)), None)
    return tuple(
        replace(
            trial,
            outcome="duplicate" if trial.number in surplus else trial.outcome,
            retried_as=later.get(trial.number),
            defaults=bool(trial.params) and trial.point == tried,
        )
        for trial in trials
    )


def _defaults(space: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(choice["name"]): choice["default"] for choice in space if "default" in choice}


def _are_defaults(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    known = [name for name in params if name in defaults]
    return bool(known) and all(params[name] == defaults[name] for name in known)


def _front(trials: Sequence[TrialFacts], objectives: Sequence[ObjectiveFacts]) -> tuple[int, ...]:
    # a result taken from the cache equals the one it was taken from, which comes first
    able = sorted(
        (trial for trial in trials if trial.counts), key=lambda trial: (trial.outcome == "cached", trial.number)
    )
    points = [losses(trial, objectives) for trial in able]
    front = [able[index] for index in non_dominated(points)]
    return tuple(trial.number for trial in sorted(front, key=lambda trial: losses(trial, objectives)))


def losses(trial: TrialFacts, objectives: Sequence[ObjectiveFacts]) -> tuple[float, ...]:
    """The values of a finished trial, turned so that less is better."""
    return tuple(objective.sign * value for objective, value in zip(objectives, trial.values, strict=True))


def _hypervolume(facts: StudyFacts) -> tuple[float, ...]:
    """After each finished trial, as a share of the box between the best and the worst values of all feasible ones."""
    points = {trial.number: losses(trial, facts.objectives) for trial in facts.finished if trial.counts}
    if not points or not all(math.isfinite(value) for point in points.values() for value in point):
        return ()
    columns = list(zip(*points.values(), strict=True))
    spans = [(min(column), (max(column) - min(column)) or 1.0) for column in columns]
    unit = {
        number: tuple((value - low) / span for value, (low, span) in zip(point, spans, strict=True))
        for number, point in points.items()
    }
    worst = (1.0,) * len(facts.objectives)
    volumes = dict(zip(unit, hypervolumes(unit.values(), worst), strict=True))
    shown: list[float] = []
    for trial in facts.finished:
        shown.append(volumes.get(trial.number, shown[-1] if shown else 0.0))
    return tuple(shown)


def _importances(
    study: optuna.Study, frozen: Sequence[FrozenTrial], objectives: Sequence[ObjectiveFacts]
) -> Iterable[Importance]:
    """Importances by conditional PED-ANOVA (optuna's default): of the front, and of each objective.

    It tells how differently the parameters of good trials are spread, good being the best tenth, at least five trials.
    """
    complete = [trial for trial in frozen if trial.state == TrialState.COMPLETE]
    names = sorted({name for trial in complete for name in trial.params})
    varied = [name for name in names if len({_hashable(trial.params.get(name)) for trial in complete}) > 1]
    if len(complete) < FEW or not varied:
        return
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # slow, and needed at the end

    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, GOOD / len(complete)))
    targets = [(objectives[0].metric, None)] if len(objectives) == 1 else [("the front", None)]
    if len(objectives) > 1:
        targets += [(objective.metric, _target(index, objective.sign)) for index, objective in enumerate(objectives)]
    for of, target in targets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a target is minimised: its sign has been turned
            try:
                raw = get_param_importances(study, evaluator=evaluator, params=varied, target=target, normalize=False)
            except (ValueError, RuntimeError):  # the trials changed meanwhile, or cannot be told apart
                continue
        total = sum(raw.values())
        if total > 0 and math.isfinite(total):
            shares = sorted(((name, value / total) for name, value in raw.items()), key=lambda pair: -pair[1])
            yield Importance(of, tuple(shares))


def _target(index: int, sign: float) -> Any:
    return lambda trial: sign * trial.values[index]


def _hashable(value: Any) -> Any:
    return (type(value).__name__, value)  # 1 and True are two alternatives


def _parameters(space: Sequence[Mapping[str, Any]]) -> tuple[ParameterFacts, ...]:
    """The choices as `Space.describe` gave them."""
    parameters = []
    for choice in space:
        domain = domain_of(dict(choice))
        when = choice.get("when")
        name, words = str(choice["name"]), str(domain)
        active = when_text(when).removeprefix("where ") if when else ""
        if isinstance(domain, Options):
            parameters.append(ParameterFacts(name, "categorical", options=domain.ids, domain=words, when=active))
        else:
            kind: Any = domain.kind
            low, high = float(domain.low), float(domain.high)
            parameters.append(ParameterFacts(name, kind, low, high, domain.log, domain=words, when=active))
    return tuple(parameters)


def _kind(value: Any) -> str:
    """The kind of a value such as {"tpe": {"startup": 10}}."""
    return str(next(iter(value), "")) if isinstance(value, Mapping) else str(value or "")


def _axis(value: Any) -> tuple[str, float]:
    """The cost axis and how much of it one step of an intermediate value stands for."""
    width = next(iter(value.values()), None) if isinstance(value, Mapping) else None
    return _kind(value) or "epoch", float(width) if isinstance(width, (int, float)) else 1.0


def _totals(trials: Sequence[TrialFacts], points: int) -> Totals:
    ended = [trial for trial in trials if trial.ended]
    times = [time for trial in trials for time in (trial.start, trial.end) if time is not None]
    cached = [trial for trial in ended if trial.outcome == "cached" or trial.cached_from is not None]
    trained = [trial for trial in ended if trial.cached_from is None]
    shared = sum(trial.prefix_epochs for trial in trained)
    return Totals(
        points=points or len({trial.point for trial in trials}),
        outcomes=Counter(trial.outcome for trial in trials),
        epochs=sum((trial.epochs or 0) - trial.prefix_epochs for trial in trained),
        epochs_saved=shared + sum(trial.epochs or 0 for trial in cached),
        prefix_hits=sum(trial.prefix_epochs > 0 for trial in trained),
        cache_hits=len(cached),
        cpu_seconds=sum(trial.spent_cpu_seconds or 0.0 for trial in trials),
        wall=max(times) - min(times) if times else 0.0,
    )
