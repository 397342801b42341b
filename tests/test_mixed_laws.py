"""Random mixes of rules over several phases: a spec that is not refused runs to its end, and resumes alike."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import HEAD, killed_and_resumed, weights

import nasir.api
from nasir.errors import SpecError
from nasir.running.replay import compare

TINY = yaml.safe_load(HEAD) | {"checkpoint": {"every": 2, "keep": 2}}
TINY["data"] |= {"options": {**TINY["data"]["options"], "train": 48, "test": 16}, "validation": 12}

ACTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "insert-block": st.fixed_dictionaries({"init": st.sampled_from(["zero", "gaussian", "near_zero", "default"])}),
    "insert-random-block": st.just({}),
    "remove-block": st.fixed_dictionaries({"which": st.sampled_from(["last", "first"])}),
    "remove-weak-blocks": st.just({}),
    "keep-blocks": st.just({"depths": 1}),
    "prune-channels": st.fixed_dictionaries({"fraction": st.sampled_from([0.1, 0.25, 0.5])}),
    "shrink-widths": st.just({}),
    "widen": st.just({"factor": 1.5}),
    "grow-kernel": st.just({}),
    "split-branches": st.fixed_dictionaries(
        {
            "branches": st.integers(1, 3),
            "how": st.sampled_from(["rrr", "aligned", "random"]),
            "planes": st.sampled_from(["calibrated", "keep"]),
            "train": st.sampled_from(["separate", "joint"]),
            "average": st.sampled_from(["probabilities", "logits"]),
        }
    ),
    "merge-branches": st.just({}),
    "ungroup-branches": st.fixed_dictionaries({"branches": st.sampled_from([0, 2])}),
    "freeze": st.just({}),
    "unfreeze": st.just({}),
    "reset-weights": st.just({}),
    "refresh-norms": st.just({"batches": 1}),
}
STAGES = ["s1", "s2"]
BRANCHES = ["branches.0.s2", "branches.1.s2", "branches.2.s1"]


def _bounds(metrics: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    bound = st.fixed_dictionaries({"metric": st.sampled_from(metrics), "value": st.sampled_from([0.3, 0.5, 1.0])})
    return st.sampled_from(["above", "below"]).flatmap(lambda key: st.fixed_dictionaries({key: bound}))


CONDITIONS = st.one_of(
    st.lists(st.integers(1, 4), min_size=1, max_size=2, unique=True).map(lambda epochs: {"at": epochs}),
    _bounds(["val.accuracy", "val.loss", "train.loss"]),
    st.fixed_dictionaries(
        {
            "metric": st.sampled_from(["val.accuracy", "train.loss"]),
            "window": st.integers(1, 2),
            "less_than": st.sampled_from([0.01, 0.5, 2.0]),
        }
    ).map(lambda plateau: {"plateau": plateau}),
)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """A rule that acts at some time at some place, perhaps with bounds."""
    name = draw(st.sampled_from(list(ACTIONS)))
    made: dict[str, Any] = {"do": {name: draw(ACTIONS[name])}}
    when = draw(st.sampled_from(["start", "end", "every", "every", "when", "both"]))
    if when in ("every", "both"):
        made["every"] = draw(st.integers(1, 3))
    if when != "every":
        made["when"] = when if when in ("start", "end") else draw(CONDITIONS)
    names = st.sampled_from([STAGES, STAGES, [*STAGES, *BRANCHES]])
    key = draw(st.sampled_from(["", "stages", "sites"]))
    where = {key: draw(names.flatmap(lambda known: st.lists(st.sampled_from(known), min_size=1, unique=True)))}
    where = where if key else {}
    trial = draw(st.integers(0, 9)) == 0
    if trial:
        made["trial"] = {"epochs": 1}
    else:
        where["order"] = draw(st.sampled_from(["round_robin", "random", "all"]))
    made["where"] = where
    if draw(st.integers(0, 3)) == 0:
        made["freeze"] = draw(CONDITIONS)
    if draw(st.integers(0, 3)) == 0:
        made["at_most"] = draw(st.integers(1, 3))
    if draw(st.integers(0, 5)) == 0:
        made["budget"] = draw(st.sampled_from([{"params": 3000}, {"macs": 60000}, {"epochs": 2}]))
    if draw(st.integers(0, 5)) == 0:
        made["decline"] = "stop"
    return made


@st.composite
def specs(draw: st.DrawFn) -> str:
    """One to three phases of a few epochs."""
    phases = []
    for number in range(draw(st.integers(1, 3))):
        phase: dict[str, Any] = {"name": f"p{number}", "rules": draw(st.lists(rules(), max_size=4))}
        ends = draw(st.sampled_from(["epochs", "epochs", "until", "both"]))
        phase |= {"epochs": draw(st.integers(1, 5))} if ends != "until" else {"budget": {"epochs": 8}}
        if ends != "epochs":
            phase["until"] = draw(st.just("all_frozen") | CONDITIONS)
        if number == 0 or draw(st.booleans()):
            optimizers = [{"sgd": {"lr": 0.05, "momentum": 0.9}}, {"adamw": {"lr": 0.001}}]
            phase["optimizer"] = draw(st.sampled_from(optimizers))
        if draw(st.integers(0, 4)) == 0:
            phase["freeze"] = [draw(st.sampled_from(["s1", "s2", "conv1", "branches.0"]))]
        if draw(st.integers(0, 4)) == 0:
            phase["ema"] = {"decay": 0.9}
        phases.append(phase)
    network = [dict(step) for step in TINY["network"]]
    for step in network[1:3]:
        step["stage"] = step["stage"] | {
            "block": draw(st.sampled_from(["basic", "plain"])),
            "depth": draw(st.integers(1, 2)),
        }
    return str(yaml.safe_dump({**TINY, "network": network, "phases": phases}, sort_keys=False))


def check(text: str, moment: float) -> None:
    """The law of one spec; `moment`: after which share of its records the other run is killed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = nasir.api.run(text, Path(folder) / "run")
        except SpecError as refusal:
            assert not (Path(folder) / "run").exists() and "<spec>:" in str(refusal)
            return
        ordinals = [record.n for record in run.journal]
        resumed = killed_and_resumed(text, Path(folder) / "killed", ordinals[int(moment * (len(ordinals) - 1))])
        assert compare(run.journal, resumed.journal) == []
        assert weights(run.path) == weights(resumed.path)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
@given(specs(), st.floats(0, 1))
def test_a_few_mixes_run_and_resume_or_are_refused(text: str, moment: float) -> None:
    check(text, moment)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(specs(), st.floats(0, 1))
def test_many_mixes_run_and_resume_or_are_refused(text: str, moment: float) -> None:
    check(text, moment)
