"""A run that begins with a stored state of another one equals the same run trained alone, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from prefix_runs import BASE, EVOLVED, SGD, Begun, assert_same, changed, shared, spec_of, store_in, taken

from nasir.api import run

RULE = "phases__0__rules__0"
ADAM = {"adamw": {"lr": 0.01, "weight_decay": 0.01}}
PRUNE = {"when": "end", "do": {"prune-channels": {"fraction": 0.25, "recalibrate": 1}}}
AT_END = changed(BASE, phases__1__rules=[PRUNE])
START = {"when": "start", "do": {"insert-block": {"init": "gaussian"}}, "where": {"stages": ["s1"]}}
TRIAL = {
    "when": {"at": [2]},
    "do": {"insert-block": {"init": "gaussian"}},
    "where": {"stages": ["s1", "s2"]},
    "trial": {"epochs": 1, "min_gain": -1.0},
}
TRIED = changed(BASE, phases__0__rules=[TRIAL])
FROZEN = changed(BASE, phases__1__freeze=["s1"], phases__0__ema={"decay": 0.9})
NOISY = changed(
    BASE,
    phases__0__optimizer=ADAM,
    phases__0__regularize=[{"l2": {"strength": 1e-4}}],
    network__3__classifier__dropout=0.3,
)
LONGER = changed(BASE, phases__0__epochs=6)

# what two specs have in common, and the epochs that the second takes over from the first
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "nothing differs": (BASE, BASE, 7),
    "name and checkpoints differ": (BASE, changed(BASE, name="other", checkpoint={"every": 3, "keep": 3}), 7),
    "interval of growth": (BASE, changed(BASE, **{f"{RULE}__every": 3}), 2),
    "the more seldom one first": (changed(BASE, **{f"{RULE}__every": 4}), changed(BASE, **{f"{RULE}__every": 3}), 0),
    "initializer of blocks": (BASE, changed(BASE, **{f"{RULE}__do__insert-block__init": "zero"}), 2),
    "places of growth": (BASE, changed(BASE, **{f"{RULE}__where__stages": ["s2", "s1"]}), 2),
    "second place of growth": (BASE, changed(BASE, **{f"{RULE}__where__stages": ["s1"]}), 4),
    "budget of a rule": (BASE, changed(BASE, **{f"{RULE}__budget": {"params": 10**7}}), 2),
    "learning rate of a later phase": (BASE, changed(BASE, phases__1__optimizer__sgd__lr=0.01), 5),
    "optimizer of a later phase": (BASE, changed(BASE, phases__1__optimizer=ADAM), 5),
    "length of a later phase with a schedule over it": (BASE, changed(BASE, phases__1__epochs=3), 5),
    "a phase with a constant rate is longer": (BASE, LONGER, 5),
    "a phase with a constant rate is shorter": (LONGER, changed(BASE, phases__0__epochs=4), 4),
    "no such phase any more": (BASE, changed(BASE, phases=[BASE["phases"][0]]), 5),
    "fraction of pruning at the end": (
        AT_END,
        changed(AT_END, **{"phases__1__rules__0__do__prune-channels__fraction": 0.5}),
        7,
    ),
    "refresh at the end": (
        changed(BASE, phases__1__rules=[{"when": "end", "do": {"refresh-norms": {"batches": 1}}}]),
        changed(BASE, phases__1__rules=[{"when": "end", "do": {"refresh-norms": {"batches": 2}}}]),
        7,
    ),
    "a rule at the start of a phase": (
        changed(BASE, phases__1__rules=[START]),
        changed(BASE, phases__1__rules=[START], phases__1__rules__0__where__stages=["s2"]),
        5,
    ),
    "behind a rule at the start of the first phase": (
        changed(BASE, phases__0__rules__1=START),
        changed(BASE, phases__0__rules__1=START, phases__1__label_smoothing=0.1),
        5,
    ),
    "averages, and a phase that freezes": (FROZEN, changed(FROZEN, phases__1__freeze=["s2"]), 5),
    "averages go on": (
        changed(FROZEN, phases__1__ema={"decay": 0.9}),
        changed(FROZEN, phases__1__ema={"decay": 0.8}),
        5,
    ),
    "terms of a trial": (TRIED, changed(TRIED, phases__0__rules__0__trial__min_gain=-0.9), 2),
    "behind a trial": (TRIED, changed(TRIED, phases__1__gradient_clip=1.0), 5),
    "adam, dropout, a penalty": (NOISY, changed(NOISY, phases__1__optimizer=ADAM), 5),
    "optimizer state is thrown away": (BASE, changed(BASE, phases__1__reset_optimizer=True), 5),
    "mutations of an evolution": (EVOLVED, changed(EVOLVED, phases__0__rules__1__do__widen__factor=1.25), 4),
    "generations of an evolution": (EVOLVED, changed(EVOLVED, phases__0__policy__evolve__generations=6), 6),
    "behind an evolution": (EVOLVED, changed(EVOLVED, phases__1__optimizer__sgd__lr=0.01), 6),
    "a block settles": (
        changed(BASE, **{f"{RULE}__do__insert-block__init": "adam"}),
        changed(BASE, **{f"{RULE}__do__insert-block__init": "adam"}, phases__1__optimizer__sgd__lr=0.01),
        5,
    ),
}


# each of a kind with another case, which is fast enough to be tried every time
LIKE_ANOTHER = (
    "the more seldom one first",
    "places of growth",
    "a phase with a constant rate is shorter",
    "name and checkpoints differ",
    "initializer of blocks",
    "second place of growth",
    "budget of a rule",
    "optimizer of a later phase",
    "a phase with a constant rate is longer",
    "refresh at the end",
    "behind a rule at the start of the first phase",
    "averages go on",
    "behind a trial",
    "optimizer state is thrown away",
    "generations of an evolution",
    "behind an evolution",
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    return Begun(tmp_path_factory.mktemp("begun"))


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LIKE_ANOTHER)) for case in CASES]
)
def test_a_run_from_a_prefix_equals_the_run_alone(case: str, begun: Begun, tmp_path: Path) -> None:
    first, second, epochs = CASES[case]
    assert shared(begun.by(first), tmp_path, second) == epochs


STATIC: dict[str, dict[str, Any]] = {
    "learning rate": {"phases__0__optimizer__sgd__lr": 0.04},
    "momentum": {"phases__0__optimizer__sgd__momentum": 0.8},
    "schedule": {"phases__0__schedule": {"cosine": {}}},
    "averages": {"phases__0__ema": {"decay": 0.9}},
    "freeze": {"phases__0__freeze": ["s1"]},
    "name of the phase": {"phases__0__name": "growth"},
    "seed": {"seed": 6},
    "batch size": {"data__batch_size": 8},
    "data": {"data__options__train": 80},
    "held out": {"data__validation": 24},
    "augmentation": {"data__augment": []},
    "precision": {"precision": "bf16"},
    "memory format": {"channels_last": False},
    "probe": {"probe": 32},
    "initial width": {"network__1__stage__out": 6},
    "initializer": {"init": "glorot_uniform"},
    "label": {"network__1__stage__name": "first", f"{RULE}__where__stages": ["first", "s2"]},
}


@pytest.mark.parametrize("what", STATIC)
def test_runs_that_differ_from_the_start_share_nothing(what: str, begun: Begun, tmp_path: Path) -> None:
    first = begun.by(BASE)
    spec = spec_of(first / "specs", changed(BASE, **STATIC[what]))
    assert taken(spec, tmp_path / "second", store_in(first / "study")) == 0


def test_a_run_that_shares_nothing_equals_the_run_alone(begun: Begun, tmp_path: Path) -> None:
    assert shared(begun.by(BASE), tmp_path, changed(BASE, **STATIC["learning rate"])) == 0


def test_a_run_shares_what_comes_before_a_difference_of_a_later_phase(begun: Begun, tmp_path: Path) -> None:
    first = begun.by(BASE)
    spec = spec_of(first / "specs", changed(BASE, phases__1__optimizer__sgd__lr=0.01))
    assert taken(spec, tmp_path / "second", store_in(first / "study")) == 5


def test_more_states_are_stored_on_request(begun: Begun, tmp_path: Path) -> None:
    first, second = changed(BASE, **{f"{RULE}__every": 4}), changed(BASE, **{f"{RULE}__every": 3})
    assert shared(begun.by(first, prefix_every=1), tmp_path, second, prefix_every=1) == 3


def test_networks_from_another_run_share_what_begins_with_the_same_weights(begun: Begun, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        run(spec_of(tmp_path / name, changed(BASE, seed=seed, phases=[BASE["phases"][0]])), tmp_path / name / "run")
    first = changed(BASE, phases__0__rules=[], network={"from": "run", "run": str(tmp_path / "one" / "run")})
    later = changed(first, phases__1__optimizer__sgd__lr=0.01)
    study = begun.by(first)
    assert shared(study, tmp_path / "equal", later) == 5
    for name, network in (("other", {"run": str(tmp_path / "two" / "run")}), ("without", {"weights": "none"})):
        spec = spec_of(study / "specs", changed(later, network={**later["network"], **network}))
        assert taken(spec, tmp_path / name, store_in(study / "study")) == 0


def variant(chance: random.Random) -> dict[str, Any]:
    """A spec drawn from a small space of policies."""
    grow = {
        "every": chance.choice([1, 2, 3]),
        "do": {"insert-block": {"init": chance.choice(["gaussian", "zero"])}},
        "where": {"stages": ["s1", "s2"], "order": chance.choice(["round_robin", "all"])},
        "at_most": chance.choice([2, 3]),
    }
    start: dict[str, Any] = {"when": "start", "do": {"insert-block": {"init": "zero"}}, "where": {"stages": ["s2"]}}
    phases = [
        {
            "name": "grow",
            "epochs": chance.choice([3, 4]),
            "optimizer": chance.choice([SGD, SGD, ADAM]),
            "rules": [grow],
        },
        {"name": "last", "epochs": 1, "optimizer": SGD, "rules": chance.choice([[], [start], [PRUNE], [start, PRUNE]])},
    ]
    if chance.random() < 0.3:
        phases[0]["ema"] = {"decay": 0.9}
    if chance.random() < 0.3:
        phases[0] = {**phases[0], "until": "all_frozen"}
    if chance.random() < 0.5:
        phases[1]["schedule"] = {"cosine": {}}
    return changed(BASE, phases=phases)


@pytest.mark.slow
def test_random_pairs_of_specs(tmp_path: Path) -> None:
    """Each of 24 specs alone, and from a store that all those before it have filled."""
    chance = random.Random(11)
    store = store_in(tmp_path / "study")
    taken = []
    for number in range(24):
        spec = spec_of(tmp_path / "specs", variant(chance))
        alone = run(spec, tmp_path / f"alone{number}")
        done = run(spec, tmp_path / "study" / str(number), prefixes=store)
        assert_same(done, alone)
        taken.append(done.prefix_epochs)
    assert sum(epochs > 0 for epochs in taken) >= 8, taken
