"""Routes at work: each sample gets what its own blocks give, and what no sample takes is not computed."""

from __future__ import annotations

import copy

import pytest
import torch
from routed import DOUBLE, batch, force, routed, rows_of, scatter, static

import nasir
from nasir.analysis.routing import DEEPEST, homes, macs_along, macs_of_ways, routes
from nasir.backends.torch.lower.routing import runs_seen
from nasir.backends.torch.observe.routes import taking
from nasir.errors import TypeRuleError
from nasir.ir import Draft, Graph
from nasir.passes import RemoveBlock
from nasir.rewriting.evidence import Need

ALL = ("skip", "reuse", "exit")


def taken(model: nasir.Model, x: torch.Tensor) -> dict[str, int]:
    """The way that one sample takes at each route that it comes to, by label, from 0."""
    with runs_seen(model) as seen, torch.no_grad():
        model(x)
    labels = {id(model.leaf(route)): model.graph.nodes[route].label for route in routes(model.graph)}
    return {labels[id(module)]: int(run.shares[0].argmax()) for module, calls in seen.items() for run in calls}


@pytest.mark.parametrize("actions", [("skip",), ALL])
def test_a_sample_in_a_batch_gets_what_it_gets_alone(actions: tuple[str, ...]) -> None:
    model = routed(static((3, 4)), actions=actions)
    x = batch(24)
    scatter(model, x)
    together = model(x)
    alone = [taken(model, one[None]) for one in x]
    assert len({tuple(sorted(ways.items())) for ways in alone}) > 1, "all samples take the same ways: tests nothing"
    torch.testing.assert_close(together, torch.cat([model(one[None]) for one in x]), rtol=1e-12, atol=1e-12)


def test_a_sample_gets_what_the_network_of_its_blocks_gives() -> None:
    plain = static((3, 3))
    model = routed(copy.deepcopy(plain))
    x = batch(16)
    scatter(model, x)
    together = model(x)
    for number, one in enumerate(x):
        fewer = copy.deepcopy(plain)
        for label, way in taken(model, one[None]).items():
            if way and len(fewer.graph.blocks_of(label[:2])) > 1:
                fewer.apply(RemoveBlock(), label.removesuffix(".route"))
            elif way:  # the last block of a stage cannot be removed
                break
        else:
            torch.testing.assert_close(together[number], fewer(one[None])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("actions", [("skip",), ALL])
def test_blocks_run_for_the_samples_alone_that_take_them_and_macs_are_those_of_what_ran(
    actions: tuple[str, ...],
) -> None:
    model = routed(static((3, 4)), actions=actions)
    x, graph = batch(24), model.graph
    scatter(model, x)
    per_way = macs_of_ways(graph)
    assert sum(per_way.values()) == graph.cost().macs
    by_label = {graph.nodes[node_id].label: cost.macs for node_id, cost in graph.costs.items()}
    along = 0
    for one in x:
        ways = {graph.find(label): way + 1 for label, way in taken(model, one[None]).items()}
        along += macs_along(graph, ways)
    with rows_of(model, torch.nn.Conv2d, torch.nn.Linear) as rows:
        model(x)
    assert min(rows.values()) < max(rows.values()) == len(x)
    assert along == sum(count * by_label[label] for label, count in rows.items())


def test_nothing_runs_for_what_no_sample_takes() -> None:
    model = routed(static((3, 3)), actions=("skip", "exit"))
    force(model, {"s1.1.route": 1, "s2.exit_1.route": 1})
    with rows_of(model) as rows:
        model(batch())
    idle = {label for label, count in rows.items() if not count}
    assert idle == {f"{path}.conv{n}" for path in ("s1.1", "s2.1", "s2.2") for n in (1, 2)}


def test_training_computes_all_ways_for_all_samples_and_every_router_learns() -> None:
    model = routed(static((3, 3)), actions=ALL, train="soft")
    scatter(model, batch())
    model.train()
    with rows_of(model) as rows:
        model(batch()).square().mean().backward()
    assert set(rows.values()) == {12}
    for name, parameter in model.named_parameters():
        if "router" in name or "exit" in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_straight_through_goes_on_with_one_way_and_has_the_gradient_of_the_mixture() -> None:
    gate = nasir.Model.from_graph(_gate(train="straight-through"), dtype=DOUBLE).train()
    soft = nasir.Model.from_graph(_gate(train="soft"), dtype=DOUBLE).train()
    scores = torch.tensor([[0.3, 1.1, -2.0], [0.5, 0.5, 0.1]], dtype=DOUBLE, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0]], dtype=DOUBLE)
    hard = gate(scores)
    assert hard.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    (through,) = torch.autograd.grad((hard * weights).sum(), scores)
    (mixture,) = torch.autograd.grad((soft(scores) * weights).sum(), scores)
    assert torch.equal(through, mixture)


def test_gumbel_noise_draws_each_way_as_often_as_its_share() -> None:
    gate = nasir.Model.from_graph(_gate(noise="gumbel"), dtype=DOUBLE).train()
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    torch.manual_seed(0)
    drawn = gate(shares.log().expand(40_000, 3)).mean(0)
    torch.testing.assert_close(drawn, shares, rtol=0.0, atol=0.01)
    assert gate.eval()(shares.log()[None]).tolist() == [[0.0, 1.0, 0.0]]


def test_a_way_is_what_nothing_else_needs() -> None:
    graph = routed(static()).graph
    found = homes(graph)
    assert {len(home) for home in found.values()} == {0, 1}
    assert found[graph.find("s1.1.conv1")] == ((graph.find("s1.1.route"), 1),)
    assert found[graph.find("s1.1.router.gate")] == ()


def _gate(**attrs: object) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3])
    draft.output(draft.add("gate", x, "gate", **attrs))
    return draft.commit()


@pytest.mark.parametrize("actions", [("skip",), ALL])
def test_what_routes_cost_is_what_ran(actions: tuple[str, ...]) -> None:
    model, x = routed(static((3, 4)), actions=actions), batch(24)
    scatter(model, x)
    by_label = {model.graph.nodes[node_id].label: cost.macs for node_id, cost in model.graph.costs.items()}
    with rows_of(model, torch.nn.Conv2d, torch.nn.Linear) as rows, taking(model, len(x)) as taken:
        for part in x.split(10):
            model(part)
    assert taken.macs == sum(count * by_label[label] for label, count in rows.items())
    seen = model.observe([Need("route_shares")], x)
    assert {label: list(seen.route_shares(label)) for label in taken.rows} == taken.shares(len(x))
    assert taken.rows["s1.1.route"][0] == rows["s1.1.conv1"]


def test_a_network_without_routers_has_no_routes() -> None:
    model = static()
    with taking(model, 12) as taken:
        model(batch())
    assert taken.told(12) == {} and not model.observe([Need("route_shares")], batch()).measured["route_shares"]


@pytest.mark.parametrize(
    "shares",
    [
        [[0.5, 0.5], [0.0, 0.0]],
        [[0.5, 0.0], [0.0, 1.0]],
        [[1.0, 1.0], [0.0, 0.0]],
        [[2.0, -1.0], [1.0, 0.0]],
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0], [0.0, 1.0]],
    ],
)
def test_a_route_is_the_sum_of_shares_times_ways_whatever_the_shares(shares: list[list[float]]) -> None:
    draft = Draft()
    given = draft.add("input", (), "shares", shape=[2])
    x = draft.add("input", (), "x", shape=[3])
    ways = [draft.add("linear", x, f"way{n}", out=3) for n in range(2)]
    draft.output(draft.add("route", (given, *ways), "route"))
    model = nasir.Model.from_graph(draft.commit(), dtype=DOUBLE).eval()
    p, value = torch.tensor(shares, dtype=DOUBLE), torch.randn(2, 3, dtype=DOUBLE)
    wanted = sum(p[:, n : n + 1] * model.get_submodule(f"way{n}")(value) for n in range(2))
    torch.testing.assert_close(model(p, value), wanted, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(model.train()(p, value), wanted, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("shares", "ways", "says"),
    [
        ([3], [[4], [4]], r"2 ways need so many shares, got 3 \(from 'x0'\)"),
        ([1], [[4]], "chooses among 2 ways or more, got 1"),
        ([2], [[4], [5]], r"4 \(from 'x1'\) and 5 \(from 'x2'\)"),
        ([7, 2], [[6, 4], [6, 4]], "axis 1"),
        ([4, 2], [[4], [4]], "too many for ways of shape"),
        ([2, 3, 3], [[4], [4]], "shares along the last axis"),
    ],
)
def test_what_cannot_be_a_route_is_told_with_its_inputs(shares: list[int], ways: list[list[int]], says: str) -> None:
    draft = Draft()
    inputs = [draft.add("input", (), f"x{n}", shape=shape) for n, shape in enumerate([shares, *ways])]
    draft.output(draft.add("route", inputs, "route"))
    with pytest.raises(TypeRuleError, match=says):
        draft.commit()


def test_routes_in_routes_beyond_what_python_nests_are_computed_for_all() -> None:
    model = static((DEEPEST + 6, 1))
    before = model(batch(2))
    routed(model, "s1", actions=("exit",))
    assert torch.equal(model(batch(2)), before)
    assert max(map(len, homes(model.graph).values())) == DEEPEST
    force(model, {"s1.exit_3.route": 1})
    with rows_of(model) as rows:
        model(batch(2))
    assert sum(count > 0 for count in rows.values()) == 1 + 2 * 3 + 3  # the stem, three blocks and the next stage's
