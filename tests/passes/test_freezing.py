"""`freeze`, `unfreeze` and `refresh-norms`: the laws of passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from nasir.errors import Decline, OptionError
from nasir.ir import Graph
from nasir.passes.freeze import Freeze, Unfreeze
from nasir.passes.refresh_norms import RefreshNorms
from nasir.rewriting.rewrite import Pass
from nasir.testing import PassContract, random_graph


class TestFreeze(PassContract):
    make = staticmethod(lambda: Freeze())


class TestFreezeWithoutNorms(PassContract):
    make = staticmethod(lambda: Freeze(norms=False))


class TestUnfreeze(PassContract):
    make = staticmethod(lambda: Unfreeze())

    def graphs(self) -> Iterable[Graph]:
        for seed in range(4):
            draft = random_graph(seed, steps=4).draft()
            for path in list(draft.regions)[:2]:
                draft.freeze(path)
            yield draft.commit()


class TestRefreshNorms(PassContract):
    make = staticmethod(lambda: RefreshNorms(batches=2))


def test_a_frozen_norm_is_refreshed_on_demand_only() -> None:
    draft = random_graph(0, steps=4).draft()
    for label in [node.label for node in draft.nodes.values()]:
        draft.freeze(label.partition(".")[0])
    graph = draft.commit()
    with pytest.raises(Decline, match="no norm with running statistics that may move"):
        RefreshNorms().attempt(graph, "network")
    assert RefreshNorms(frozen=True).attempt(graph, "network").refresh is not None
    assert RefreshNorms(cumulative=True).attempt(random_graph(0, steps=4), "network").refresh.epochs == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Freeze(refresh_epochs=1, refresh_batches=1),
        lambda: Freeze(norms=False, refresh_epochs=1),
        lambda: RefreshNorms(batches=1, epochs=1),
    ],
)
def test_options_that_contradict_each_other_are_refused(make: Callable[[], Pass]) -> None:
    with pytest.raises(OptionError, match=r"give one of the two|remove refresh"):
        make()


@pytest.mark.parametrize(
    ("make", "option"),
    [(Freeze, "refresh_epochs"), (Freeze, "refresh_batches"), (RefreshNorms, "batches"), (RefreshNorms, "epochs")],
)
def test_fewer_than_none_is_refused(make: type[Pass], option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}: must be at least 0, found -1; use a value at least 0"):
        make(**{option: -1})
