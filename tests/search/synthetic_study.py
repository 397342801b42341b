"""A study as workers leave it, made without training: conditional choices; pruned, retried, infeasible trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasir.spec.search import SearchSpec, loads_search

LIMIT = 40e6
EPOCHS = 24
BEGIN = datetime(2026, 11, 21, 9, 0, 0)
SPEC = """\
nasir: 1
name: synthetic
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - stage: {name: s2, block: basic, out: 8, depth: 1, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, batch_size: 64, validation: 0.15}
phases:
  - name: grow
    epochs: 2
    optimizer: {sgd: {lr: {choose: {float: [0.01, 0.5], log: true}, default: 0.1, name: lr}, momentum: 0.9}}
    rules:
      - every: {choose: {int: [1, 9]}, default: 3}
        do: {insert-block: {init: {choose: [gaussian, zero, near_zero], default: gaussian, name: init}}}
        where: {stages: [s1, s2], order: {choose: [round_robin, all]}}
  - name: finetune
    epochs: 1
    rules:
      - choose:
          cases:
            none: null
            prune: {when: start, do: {prune-channels: {fraction: {choose: {float: [0.1, 0.5]}, name: fraction}}}}
        default: none
search: {trials: 40, sampler: {tpe: {startup: 10}}, pruner: median, constraints: [macs <= 40M]}
"""
OBJECTIVES = "search.objectives=[{maximize: val.accuracy}, {minimize: macs}]"
EVERY, ORDER, PRUNE = "phases.0.rules.0.every", "phases.0.rules.0.where.order", "phases.1.rules.0"
DOMAINS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.01, 0.5, log=True),
    EVERY: IntDistribution(1, 9),
    "init": CategoricalDistribution(("gaussian", "zero", "near_zero")),
    ORDER: CategoricalDistribution(("round_robin", "all")),
    PRUNE: CategoricalDistribution(("none", "prune")),
    "fraction": FloatDistribution(0.1, 0.5),
}
NAME = "<b>grow</b>"
CACHED = 22  # point with the result of the one before


@dataclass
class _Lane:
    """A worker, and when it is free."""

    name: str
    free: float = 0.0


def search_spec(objectives: int = 1) -> SearchSpec:
    """The spec of the studies made here."""
    several = [OBJECTIVES, "search.pruner=none", "search.constraints=[]"]
    return loads_search(SPEC, "synthetic.yaml", several if objectives > 1 else ())


def make_study(objectives: int = 1, trials: int = 40, seed: int = 0, url: str | None = None, running: int = 0) -> Study:
    """`trials` points, the last `running` of them not finished. `url`: default in memory."""
    spec = search_spec(objectives)
    study = optuna.create_study(
        study_name=NAME, storage=url, directions=[objective.direction for objective in spec.search.objectives]
    )
    facts: dict[str, Any] = {"spec": spec.to_text(), "source": "synthetic.yaml", "base": ".", "version": "0.1.0"}
    facts |= {"space": spec.space.describe(), "search": spec.search.plain(), "points": trials}
    facts["objectives"] = [
        {"metric": objective.metric, "direction": objective.direction} for objective in spec.search.objectives
    ]
    for name, value in facts.items():
        study.set_user_attr(f"nasir:{name}", value)
    lanes = [_Lane(f"w{index}") for index in range(3)]
    noise = Random(seed)
    lost: list[tuple[int, dict[str, Any], int]] = []  # points to try again: point, parameters, epochs done
    for point in range(trials):
        if point == trials - running:
            _try_again(study, noise, lanes, lost)
        params = _params(noise, point)
        at_work = point >= trials - running
        if point % 11 == 7 and not at_work:
            done = noise.randrange(3, 9)
            _add(study, noise, lanes, point, 0, params, state=TrialState.FAIL, epochs=done)
            lost.append((point, params, done))
        else:
            free = any(lane.free < math.inf for lane in lanes)
            state = (TrialState.RUNNING if free else TrialState.WAITING) if at_work else None
            _add(study, noise, lanes, point, 0, params, state=state, epochs=6 if at_work else EPOCHS)
    _try_again(study, noise, lanes, [] if running else lost)
    return study


def _try_again(study: Study, noise: Random, lanes: list[_Lane], lost: list[tuple[int, dict[str, Any], int]]) -> None:
    for point, params, done in lost:
        _add(study, noise, lanes, point, 1, params, epochs=EPOCHS, resumed=done)


def _params(noise: Random, point: int) -> dict[str, Any]:
    if point == 0:
        return {"lr": 0.1, EVERY: 3, "init": "gaussian", ORDER: "round_robin", PRUNE: "none"}
    learnt = min(1.0, point / 25)  # later trials come close to what is good
    lr = math.exp(math.log(0.01) + noise.random() * math.log(50))
    params: dict[str, Any] = {"lr": lr ** (1 - learnt * 0.7) * 0.12 ** (learnt * 0.7)}
    params[EVERY] = noise.randint(1, 9 - round(5 * learnt))
    params["init"] = noise.choice(("gaussian", "zero", "near_zero"))
    params[ORDER] = noise.choice(("round_robin", "all"))
    params[PRUNE] = noise.choice(("prune", "none"))
    if params[PRUNE] == "prune":
        params["fraction"] = noise.uniform(0.1, 0.5)
    return params


def _quality(params: dict[str, Any]) -> tuple[float, float, dict[str, int]]:
    """Accuracy, MACs and depths that such a policy leads to."""
    blocks = 14 / params[EVERY]
    depths = {f"s{stage}": 1 + round(blocks / 3 + stage * 0.3) for stage in (1, 2, 3)}
    fraction = params.get("fraction", 0.0)
    macs = 4.7e6 * sum(depths.values()) * (1 - fraction) ** 1.5
    good = 0.962 - 0.05 * abs(math.log10(params["lr"] / 0.09)) ** 1.5 - 0.19 / (2 + blocks) - 0.08 * fraction**2
    return good - {"gaussian": 0.004, "zero": 0.0, "near_zero": 0.001}[params["init"]], round(macs), depths


def _curve(noise: Random, good: float, epochs: int) -> dict[int, float]:
    return {
        epoch: good - (good - 0.12) * math.exp(-epoch / (3 + 8 * (1 - good))) + noise.gauss(0, 0.004)
        for epoch in range(1, epochs + 1)
    }


def _add(
    study: Study,
    noise: Random,
    lanes: list[_Lane],
    point: int,
    attempt: int,
    params: dict[str, Any],
    *,
    epochs: int,
    state: TrialState | None = None,
    resumed: int = 0,
) -> None:
    good, macs, depths = _quality(params)
    good += noise.gauss(0, 0.003)
    single = len(study.directions) == 1
    curve = _curve(noise, good, epochs)
    if state is None:
        hopeless = single and point > 5 and good < 0.905
        state = TrialState.PRUNED if hopeless else TrialState.COMPLETE
        curve = {epoch: value for epoch, value in curve.items() if epoch <= (6 if hopeless else epochs)}
    prefix = 6 if point % 5 == 3 and not attempt and state == TrialState.COMPLETE else 0
    cached = point == CACHED and state == TrialState.COMPLETE
    if cached:
        source = study.get_trials(deepcopy=False)[CACHED - 1]
        params, curve = source.params, source.intermediate_values or {EPOCHS: source.values[0]}
        macs, depths = source.user_attrs["cost"]["macs"], source.user_attrs["depths"]
    lane = min(lanes, key=lambda lane: lane.free)
    seconds = 2.0 if cached else (len(curve) - prefix - resumed) * (0.9 + macs / 2.4e7)
    start = BEGIN + timedelta(seconds=lane.free + 0.5 if lane.free < math.inf else 0)
    waiting, working = state == TrialState.WAITING, state == TrialState.RUNNING
    lane.free = math.inf if working else lane.free + (0.0 if waiting else seconds + 0.5)
    lost = state == TrialState.FAIL
    attrs: dict[str, Any] = {"point": point, "attempt": attempt, "origin": point}
    if not waiting:
        attrs |= {"worker": lane.name, "machine": "node<1>", "run": f"trials/{point:04}-a{attempt}"}
    if not (waiting or working or lost):
        attrs |= {"metrics": {"val.accuracy": curve[max(curve)]}, "cost": {"macs": macs, "params": round(macs / 90)}}
        attrs |= {"depths": depths, "epochs": max(curve), "seconds": seconds, "spent_cpu_seconds": seconds * 0.97}
        attrs |= {"cpu_seconds": max(curve) * 1.9, **({"resumed": resumed} if resumed else {})}
        attrs |= {"prefix": {"epochs": prefix, "run": "trials/0003-a0"}} if prefix else {}
        attrs |= {"cached_from": CACHED - 1} if cached else {}
    if lost and point % 2:
        attrs["preempted"] = True
    ended = state in (TrialState.COMPLETE, TrialState.PRUNED)
    values = [curve[max(curve)], macs][: len(study.directions)] if ended else None
    trial = create_trial(
        state=state,
        values=values,
        params={} if waiting else params,
        distributions={} if waiting else {name: DOMAINS[name] for name in params},
        user_attrs=attrs,
        intermediate_values=curve if single and not waiting else {},
        constraints={"macs <= 40M": (macs - LIMIT) / LIMIT} if single and state == TrialState.COMPLETE else None,
    )
    _timed(trial, None if waiting else start, start + timedelta(seconds=seconds) if ended or lost else None)
    study.add_trial(trial)


def _timed(trial: FrozenTrial, start: datetime | None, end: datetime | None) -> None:
    trial.datetime_start = start
    trial.datetime_complete = end


def add_runs(study: Study, folder: Path, of: tuple[int, ...]) -> None:
    """Run directories, with reports, of a few trials."""
    from synthetic_run import make_run

    from nasir.report import write_report

    for number in of:
        run = str(study.get_trials(deepcopy=False)[number].user_attrs["run"])
        (folder / run).parent.mkdir(parents=True, exist_ok=True)
        write_report(make_run(folder / run).path)
