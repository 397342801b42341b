"""Whether the validation part is large enough for the differences that policies are to tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nasir.policy.plans import Plateau
from nasir.records import DataSummary
from nasir.spec import Spec

_SHARES = ("val.accuracy", "val.top5")  # metrics that change in steps of one example


def summary_of(spec: Spec, data: DataSummary) -> DataSummary:
    """The summary with what there is to say of it for the policies of a spec."""
    return replace(data, warnings=(*data.warnings, *coarse_steps(spec, data.total("validation"))))


def coarse_steps(spec: Spec, examples: int) -> Iterator[str]:
    """A sentence for each threshold on an accuracy that is finer than one of so many validation examples."""
    if not examples:
        return
    for place, name, metric, threshold in _thresholds(spec):
        if metric in _SHARES and 0 < threshold < 1 / examples:
            yield (
                f"{spec.locate(place)}: {name} tells apart {threshold:g} of {metric}, and one of {examples} validation "
                f"examples makes {1 / examples:.2g}: it sees either nothing or too much; raise `data.validation` or "
                f"{name}"
            )


def _thresholds(spec: Spec) -> Iterator[tuple[tuple[Any, ...], str, str, float]]:
    """(place, name, metric, value) of each threshold that differences of a metric are held against."""
    for number, phase in enumerate(spec.phases):
        plan = phase.plan()
        conditions: list[tuple[tuple[Any, ...], object]] = [(("phases", number, "until"), plan.until)]
        for index, rule in enumerate(plan.rules):
            at = ("phases", number, "rules", index)
            conditions += [((*at, "when"), rule.when), ((*at, "freeze"), rule.freeze)]
            if rule.trial is not None:
                yield (*at, "trial", "min_gain"), "min_gain", rule.trial.metric, rule.trial.min_gain
        for place, condition in conditions:
            if isinstance(condition, Plateau):
                yield (*place, "plateau", "less_than"), "less_than", condition.metric, condition.less_than
