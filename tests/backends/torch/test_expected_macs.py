"""The loss term on what routes cost: its value is that of the routes taken, its gradient that of the mixture."""

from __future__ import annotations

import pytest
import torch
from routed import batch, force, routed, rows_of, scatter, static

from nasir.analysis.routing import macs_along, routes
from nasir.backends.torch import Model
from nasir.backends.torch.penalties.expected_macs import ExpectedMacsTerm
from nasir.backends.torch.penalties.forward import ForwardPass
from nasir.training import PenaltyPlan

ALL = ("skip", "reuse", "exit")


def term_of(model: Model, **options: float) -> ExpectedMacsTerm:
    plan = PenaltyPlan("expected-macs", **{"strength": 1.0, **options})
    return ExpectedMacsTerm(model.graph, plan.options, torch.device("cpu"))  # type: ignore[arg-type]


def value(model: Model, **options: float) -> torch.Tensor:
    term, x = term_of(model, **options), batch()
    with term.watching(model):
        logits = model(x)
    given = term.loss(ForwardPass(x, torch.arange(len(x)) % 3, logits, {}, torch.autocast("cpu", enabled=False)))
    assert given is not None
    return given


@pytest.mark.parametrize("actions", [("skip",), ALL])
def test_hard_routes_cost_what_the_convolutions_and_routers_that_ran_cost(actions: tuple[str, ...]) -> None:
    model = routed(static((3, 4)), actions=actions)
    scatter(model, batch())
    graph = model.graph
    by_label = {graph.nodes[node_id].label: cost.macs for node_id, cost in graph.costs.items() if cost.macs}
    with rows_of(model, torch.nn.Conv2d, torch.nn.Linear) as rows:
        model(batch())
    ran = sum(count * by_label[label] for label, count in rows.items())
    whole = macs_along(graph, dict.fromkeys(routes(graph), 1))
    assert 0.0 < value(model).item() < 1.0
    assert value(model).item() == pytest.approx(ran / whole / 12, rel=1e-12)
    assert value(model, strength=2.0, target=0.25).item() == pytest.approx(2 * (ran / whole / 12 - 0.25) ** 2, rel=1e-9)


def test_a_static_network_costs_one_and_a_forced_skip_what_is_left() -> None:
    model = routed(static((3, 3)))
    assert value(model).item() == 1.0
    force(model, {"s1.1.route": 1})
    graph = model.graph
    body = sum(graph.costs[graph.find(f"s1.1.conv{n}")].macs for n in (1, 2))
    assert value(model).item() == pytest.approx(1 - body / graph.cost().macs, rel=1e-12)


@pytest.mark.parametrize("train", ["soft", "straight-through"])
def test_its_gradient_goes_to_all_routers_and_lowers_what_is_expected(train: str) -> None:
    model = routed(static((3, 3)), actions=("skip", "exit"), train=train).train()
    before = value(model)
    before.backward()
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
    biases = {name for name in learning if name.endswith("scores.bias")}
    assert biases == {name for name, _ in model.named_parameters() if name.endswith("scores.bias")}
    with torch.no_grad():
        for name in biases:
            learning[name] -= 3.0 * learning[name].grad / learning[name].grad.norm()  # type: ignore[union-attr,operator]
    assert value(model) < before


def test_soft_shares_are_multiplied_along_routes_in_routes() -> None:
    model = routed(static((2, 1)), "s1", actions=("skip", "exit"), train="soft", start=0.75).train()
    graph = model.graph
    whole = macs_along(graph, dict.fromkeys(routes(graph), 1))

    def macs(*labels: str) -> int:
        return sum(cost.macs for n, cost in graph.costs.items() if graph.nodes[n].label.startswith(labels))

    blocks = [macs(f"s1.{n}.conv") for n in (0, 1)]
    routers = [macs(f"s1.{n}.router") for n in (0, 1)]
    exits = [macs(f"s1.exit_{n}") for n in (0, 1)]
    rest = graph.cost().macs - sum(blocks) - sum(routers) - sum(exits)
    p = 0.75
    wanted = rest + exits[0] + p * (routers[0] + p * blocks[0] + exits[1] + p * (routers[1] + p * blocks[1]))
    assert value(model).item() == pytest.approx(wanted / whole, rel=1e-12)


def test_a_frozen_router_is_counted_for_all_samples() -> None:
    model = routed(static((3, 3)), actions=ALL)
    scatter(model, batch())
    wanted = value(model).item()
    model.hold(("s1",))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the routes are those of evaluation
    assert value(model).item() == pytest.approx(wanted, rel=1e-12)


def test_a_network_without_routers_has_nothing_to_act_on() -> None:
    model, x = static(), batch()
    term = term_of(model)
    with term.watching(model):
        logits = model(x)
    assert term.loss(ForwardPass(x, torch.arange(12), logits, {}, torch.autocast("cpu", enabled=False))) is None
