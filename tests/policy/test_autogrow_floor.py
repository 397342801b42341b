"""AutoGrow by its published code: the depths that its stop rule reaches on its own, and one traced curve.

The floor: the plateau needs J + 1 epochs of history, so even a flat accuracy curve grows. With
t* = K ceil((J + 1) / K) growth ends after epoch t* + K (M - 1) with M + (t* / K - 1) + (M - 1) blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from nasir.policy import PhasePlan, PhaseView, Plateau, RulePlan, Where, simulate
from nasir.records import DecisionRecord, RewriteRecord


def grow(
    depths: tuple[int, ...],
    every: int,
    window: int,
    accuracy: Callable[[int], float] = lambda epoch: 0.5,
    at_most: int | None = None,
    where: Where = Where(),  # noqa: B008 - a frozen value
    epochs: int = 1000,
) -> tuple[tuple[int, ...], int, list[dict]]:
    """Final depths, epochs of the growth phase, and the records; accuracy(e) is that of epoch e, from 1."""
    stages = tuple(f"s{index + 1}" for index in range(len(depths)))
    rule = RulePlan(
        "rules.0",
        "insert-block",
        every=every,
        freeze=Plateau(window=window, less_than=0.0005),
        at_most=at_most,
        where=where,
    )
    phase = PhasePlan("grow", rules=(rule,), until="all_frozen")
    view = PhaseView(stages, dict(zip(stages, depths, strict=True)))
    rows = [{"val.accuracy": accuracy(epoch)} for epoch in range(1, epochs + 1)]
    records = simulate((phase,), 0, rows, view, max_epochs=epochs)
    end = records[-1]
    assert end["status"] == "done"
    return tuple(end["depths"].values()), end["epoch"], records


FLOOR = [
    (3, 3, 100, (13, 13, 12), 108),
    (4, 3, 100, (10, 10, 10, 10), 111),
    (3, 1, 100, (35, 35, 35), 103),
    (3, 5, 100, (9, 8, 8), 115),
    (3, 10, 100, (5, 5, 5), 130),
    (3, 20, 100, (4, 3, 3), 160),
    (3, 50, 100, (3, 2, 2), 250),
    (4, 2, 30, (6, 6, 5, 5), 38),
    (4, 5, 30, (4, 3, 3, 3), 50),
    (4, 4, 100, (8, 8, 8, 8), 116),
    (4, 6, 100, (6, 6, 6, 5), 120),
    (4, 12, 100, (4, 4, 4, 3), 144),
]


@pytest.mark.parametrize(("stages", "every", "window", "depths", "epochs"), FLOOR)
def test_a_flat_curve_grows_to_the_floor(
    stages: int, every: int, window: int, depths: tuple[int, ...], epochs: int
) -> None:
    assert grow((1,) * stages, every, window)[:2] == (depths, epochs)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("every", [1, 2, 7])
@pytest.mark.parametrize("window", [1, 4, 13, 20])
def test_the_floor_follows_its_formula(stages: int, every: int, window: int) -> None:
    first = every * math.ceil((window + 1) / every)
    if first == every:
        # At the first interval nothing was grown yet, so nothing can be frozen: the chain starts one later.
        first += every
    depths, epochs, _ = grow((1,) * stages, every, window)
    assert epochs == first + every * (stages - 1)
    assert sum(depths) == stages + (first // every - 1) + (stages - 1)
    assert max(depths) - min(depths) <= 1


def test_the_published_cifar10_result_is_a_curve_that_stops_improving_at_epoch_267() -> None:
    # Epochs are counted from 0 in this curve, as the published code does.
    def accuracy(epoch: int) -> float:
        return (50 + 0.01 * min(epoch - 1, 267)) / 100

    depths, epochs, _ = grow((1, 1, 1), 3, 100, accuracy)
    assert (depths, epochs) == ((42, 42, 42), 372)


def test_an_improvement_of_exactly_the_threshold_goes_on() -> None:
    # 5 images of 10,000 in 5 epochs is 0.0005; in binary 0.5005 - 0.5 is a hair below it, and still no plateau.
    assert 0.5005 - 0.5 < 0.0005 or 0.9005 - 0.9 < 0.0005
    for base in (5000, 9000):
        depths, _, _ = grow((1,), 1, 5, lambda epoch, base=base: (base + min(epoch, 40)) / 10_000)
        floor = grow((1,), 1, 5)[0]
        # the last window with 5 images more ends at epoch 40, so epoch 41 freezes the stage after 40 growths
        assert depths == (41,) and floor == (6,)


def test_a_seed_of_five_blocks_grows_the_same_number_of_blocks() -> None:
    assert grow((5, 5, 5), 3, 100)[:2] == ((17, 17, 16), 108)
    assert grow((5, 5, 5, 5), 3, 100)[:2] == ((14, 14, 14, 14), 111)


def test_freezing_precedes_growth_in_the_same_interval() -> None:
    _, _, records = grow((1, 1, 1), 3, 100)
    late = [(r.epoch, r.action, r.site) for r in records if isinstance(r, DecisionRecord) and r.epoch > 99]
    assert late == [
        (102, "freeze", "s3"),
        (102, "rewrite", "s1"),
        (105, "freeze", "s1"),
        (105, "rewrite", "s2"),
        (108, "freeze", "s2"),
        (108, "end_phase", None),
    ]


def test_growth_goes_round_the_stages() -> None:
    _, _, records = grow((1, 1, 1), 3, 100)
    grown = [(r.epoch, r.site) for r in records if isinstance(r, RewriteRecord)][:5]
    assert grown == [(3, "s1"), (6, "s2"), (9, "s3"), (12, "s1"), (15, "s2")]


def test_a_capped_network_ends_at_the_next_interval() -> None:
    depths, epochs, records = grow((1, 1, 1), 3, 100, at_most=4)
    # 9 growths until epoch 27, the interval after finds none to grow
    assert (depths, epochs) == ((4, 4, 4), 30)
    frozen = {r.site: r.reason for r in records if isinstance(r, DecisionRecord) and r.action == "freeze"}
    assert frozen["s1"] == "s1 has 4 blocks, at most 4 are allowed; it stays at 4 blocks"


def test_a_stage_that_improves_late_keeps_the_others_frozen() -> None:
    # A jump after the plateau: the two frozen stages stay, the remaining one grows until the next plateau.
    def accuracy(epoch: int) -> float:
        return 0.5 if epoch <= 107 else 0.9

    depths, epochs, _ = grow((1, 1, 1), 3, 100, accuracy)
    assert epochs == 210  # the first multiple of 3 at least 100 epochs after epoch 107
    assert depths == (13, 13 + (210 - 108) // 3, 12)


def test_growing_all_stages_at_once_freezes_all_at_once() -> None:
    depths, epochs, _ = grow((1, 1, 1), 3, 100, where=Where(order="all"))
    assert (depths, epochs) == ((34, 34, 34), 102)


def test_convergent_growth_waits_for_a_plateau_after_each_growth() -> None:
    # c-AutoGrow: an accuracy that rises for 20 epochs after each step, then stays.
    rule = RulePlan(
        "rules.0",
        "insert-block",
        when=Plateau(window=10, less_than=0.0005),
        freeze=Plateau(window=100, less_than=0.0005),
    )
    phase = PhasePlan("grow", rules=(rule,), until="all_frozen")
    view = PhaseView(("s1", "s2"), {"s1": 1, "s2": 1})
    rows = [{"val.accuracy": 0.5 + 0.001 * min(epoch, 20)} for epoch in range(1, 301)]
    records = simulate((phase,), 0, rows, view)
    grown = [r.epoch for r in records if isinstance(r, RewriteRecord)]
    assert grown[:4] == [30, 40, 50, 60]
    assert records[-1]["epoch"] == 130
