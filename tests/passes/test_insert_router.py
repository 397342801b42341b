"""`insert-router`: forced routes are static networks (item 19 of the test matrix), and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from grown import pyramid
from routed import batch, force, routed, static

from nasir.errors import Decline, OptionError
from nasir.ir import Graph
from nasir.passes import InsertBlock, InsertRouter, PruneChannels, RemoveBlock, Widen
from nasir.testing import PassContract

ALL = ("skip", "reuse", "exit")
BLOCKS = ["basic", "bottleneck", "preact_basic", "plain", "resbuilder"]


class TestInsertRouterContract(PassContract):
    make = staticmethod(lambda: InsertRouter())

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 3), 4, size=8), pyramid((3, 1), 4, block="preact_basic", size=8)]


class TestRouterOfAllActionsContract(TestInsertRouterContract):
    make = staticmethod(lambda: InsertRouter(actions=ALL, train="soft", noise="gumbel", temperature=2.0))


@pytest.mark.parametrize("actions", [("skip",), ("exit",), ("reuse", "skip"), ALL])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_new_router_runs_every_block_bit_for_bit(actions: tuple[str, ...], block: str) -> None:
    model = static(block=block)
    before = model(batch())
    assert torch.equal(routed(model, actions=actions)(batch()), before)
    assert model.graph.depths() == {"s1": 3, "s2": 3}


def test_straight_through_training_starts_bit_for_bit_where_the_static_network_was() -> None:
    model = static()
    with_router = routed(copy.deepcopy(model), actions=("skip", "exit"))  # reuse moves statistics of norms twice
    assert torch.equal(with_router.train()(batch()), model.train()(batch()))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("skipped", [("s1.1",), ("s1.1", "s1.2", "s2.2")])
def test_a_forced_skip_is_the_deletion_of_the_block(block: str, skipped: tuple[str, ...]) -> None:
    fewer = static(block=block)
    model = routed(copy.deepcopy(fewer))
    force(model, {f"{path}.route": 1 for path in skipped})
    for path in skipped:
        fewer.apply(RemoveBlock(), path)
    assert torch.equal(model(batch()), fewer(batch()))


def test_a_forced_exit_is_the_deletion_of_all_that_follows_in_the_stage() -> None:
    fewer = static((4, 2))
    model = routed(copy.deepcopy(fewer), "s1", actions=("skip", "exit"))
    force(model, {"s1.exit_2.route": 1, "s1.1.route": 1})
    for path in ("s1.1", "s1.2", "s1.3"):
        fewer.apply(RemoveBlock(), path)
    assert torch.equal(model(batch()), fewer(batch()))


@pytest.mark.parametrize("block", BLOCKS)
def test_reuse_is_a_block_that_is_shared(block: str) -> None:
    shared = static(block=block)
    model = routed(copy.deepcopy(shared), "s1", actions=("reuse",))
    force(model, {"s1.2.route": 1})
    state = shared.state_dict()
    shared.load_state_dict({name: state[name.replace("s1.2.", "s1.1.")] for name in state})
    assert torch.equal(model(batch()), shared(batch()))
    again = dict(model.get_submodule("s1.2.again").named_parameters())
    assert again and all(parameter is model.get_parameter(f"s1.1.{name}") for name, parameter in again.items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()(batch()).square().mean().backward()
    optimizer.step()
    assert len(optimizer.state) == len({id(p) for p in model.parameters()})


def test_what_shrinks_and_grows_the_network_takes_routers_along() -> None:
    model = routed(static(), actions=("skip", "exit"))
    before = model(batch())
    assert model.apply(Widen(factor=1.5, symmetry="none", noise=0.0), "network") is not None
    torch.testing.assert_close(model(batch()), before, rtol=1e-9, atol=1e-9)
    assert model.graph.nodes[model.graph.find("s1.1.router.scores")].attrs["out"] == 2
    assert model.apply(InsertBlock(init="zero"), "s1") is not None
    assert model.apply(InsertBlock(init="zero"), "s2.1") is not None
    torch.testing.assert_close(model(batch()), before, rtol=1e-9, atol=1e-9)
    assert model.graph.depths() == {"s1": 4, "s2": 4}
    assert model.apply(PruneChannels(fraction=0.5, floor=2), "conv1") is not None  # the stream of the first stage
    assert model.get_submodule("s1.1.router.hidden").in_features == 3
    assert model(batch()).isfinite().all()


def test_a_removed_block_takes_its_router_along() -> None:
    model = routed(static())
    labels = set(model.graph.labels)
    model.apply(RemoveBlock(), "s1.1")
    assert {label for label in labels if label.startswith("s1.1.")} == labels - set(model.graph.labels)


def test_places_that_cannot_be_routed_are_declined_with_the_reason() -> None:
    graph = pyramid((1, 1), 4, size=8)
    assert list(InsertRouter().sites(graph)) == ["s1"]
    with pytest.raises(Decline, match="the last block of 's2' changes the shape of its input"):
        InsertRouter().attempt(graph, "s2")
    twice = InsertRouter().attempt(graph, "s1").graph
    with pytest.raises(Decline, match=r"block 's1\.0' has a router already"):
        InsertRouter().attempt(twice, "s1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"actions": ()}, "actions"),
        ({"actions": ("skip", "skip")}, "name each once"),
        ({"start": 0.5}, "give more than 0.5"),
        ({"start": 0.3, "actions": ("skip", "reuse")}, "give more than 0.333"),
        ({"hidden": 0}, "hidden"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        InsertRouter(**options)  # type: ignore[arg-type]
