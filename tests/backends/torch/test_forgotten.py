"""What a rewrite was not told of is told: optimizers left out, gradients in the midst of being accumulated."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest
import torch
from grown import images, pyramid, resize, step
from networks import small_resnet
from torch import nn
from torch.nn import functional

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.optimizers import forgotten
from nasir.passes import Freeze, InsertBlock, RemoveBlock, Unfreeze


@pytest.fixture(autouse=True)
def nothing_noted() -> Iterator[None]:
    forgotten._NOTES.clear()
    yield
    forgotten._NOTES.clear()


@pytest.fixture
def model() -> Model:
    return Model.from_graph(small_resnet((1, 1)))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_a_forgotten_optimizer_after_a_prune_is_told_once(model: Model) -> None:
    optimizer = sgd(model)
    step(model, optimizer)
    resize(model, "conv1", [0, 2])
    with pytest.warns(nasir.NasirWarning, match=r"since the rewrite resize at conv1, SGD holds \d+ .* optimizers=\["):
        step(model, optimizer)
    step(model, optimizer)  # warnings are errors here


def test_a_forgotten_optimizer_after_an_insertion_is_told(model: Model) -> None:
    optimizer = sgd(model)
    model.apply(InsertBlock(), "s1")
    with pytest.warns(nasir.NasirWarning, match=r"insert-block at s1, 6 of 26 .* in no optimizer \(s1\.1\.conv1"):
        step(model, optimizer)


def test_it_can_be_an_error_and_comes_before_the_step(model: Model) -> None:
    optimizer = sgd(model)
    model.apply(InsertBlock(), "s1")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with warnings.catch_warnings(), pytest.raises(nasir.NasirWarning):
        warnings.simplefilter("error", nasir.NasirWarning)
        step(model, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_nothing_is_told_of_loops_that_are_right(model: Model) -> None:
    first = sgd(model)
    model.apply(InsertBlock(), "s1", optimizers=[first])  # given
    step(model, first)
    resize(model, "conv1", [0, 2, 1, 3, 0])
    optimizer = sgd(model)  # made anew, while the old one is still there
    step(model, optimizer)
    resize(model, "conv1", [0, 2, 3], optimizer)
    step(model, optimizer)
    model.apply(RemoveBlock(), "s1.1", optimizers=[optimizer])
    step(model, optimizer)
    assert len(first.param_groups[0]["params"]) > 0 and not forgotten._NOTES


def test_of_two_optimizers_the_one_left_out_is_told(model: Model) -> None:
    head = list(model.fc.parameters())
    rest = [p for p in model.parameters() if not any(p is q for q in head)]
    first, second = torch.optim.SGD(rest, lr=0.1), torch.optim.Adam(head)
    model.apply(InsertBlock(), "s1", optimizers=[first, second])
    step(model, first, second)
    resize(model, "s2.0.conv2", [0, 2, 4], first)  # the head reads it
    with pytest.warns(nasir.NasirWarning, match="Adam holds 1 parameters .* 1 of 26 .* in no optimizer .fc.weight"):
        step(model, first, second)


def test_a_layer_replaced_by_hand_whose_weights_nobody_trains_is_told(model: Model) -> None:
    optimizer = sgd(model)
    model.fc = nn.Linear(8, 3)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    with pytest.warns(
        nasir.NasirWarning, match=r"'fc', SGD holds 2 .* no longer has and 2 of 26 .*\(fc\.weight, fc\.bias"
    ):
        step(model, optimizer)
    optimizer = sgd(model)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    step(model, optimizer)


def test_who_trains_a_part_of_a_model_is_left_alone(model: Model) -> None:
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    model.apply(InsertBlock(), "s1")
    model.apply(InsertBlock(), "s2", optimizers=[optimizer])
    step(model, optimizer)


def test_freezing_and_releasing_are_no_loss(model: Model) -> None:
    optimizer = sgd(model)
    for change in (Freeze(), Unfreeze()):
        model.apply(change, "s1")
        step(model, optimizer)


def test_what_is_released_and_nobody_trains_is_told(model: Model) -> None:
    model.apply(Freeze(), "s1")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.apply(Unfreeze(), "s1")
    with pytest.warns(nasir.NasirWarning, match=r"rewrite unfreeze at s1, 6 of 20 .* in no optimizer \(s1\.0\.conv1"):
        step(model, optimizer)


def test_steps_of_other_models_are_not_looked_at(model: Model) -> None:
    other, optimizer = nn.Linear(2, 2), sgd(model)
    model.apply(InsertBlock(), "s1")
    stranger = sgd(other)
    other(torch.ones(1, 2)).sum().backward()
    stranger.step()
    with pytest.warns(nasir.NasirWarning, match="in no optimizer"):
        step(model, optimizer)


def test_a_model_that_is_gone_is_not_kept(model: Model) -> None:
    short = Model.from_graph(small_resnet((1, 1)))
    short.apply(InsertBlock(), "s1")
    assert len(forgotten._NOTES) == 1
    del short
    gc.collect()
    assert not forgotten._NOTES


@pytest.mark.parametrize("change", ["prune", "widen", "grow"])
def test_gradients_accumulated_across_a_rewrite_are_those_of_the_network_after_it(change: str) -> None:
    """Units that are dropped are dead and replicas equal: the mapped gradient is that of the new network."""
    model = Model.from_graph(pyramid((1, 1), 4, size=8, classes=3), dtype=torch.float64)
    x, labels = images(6, 8, dtype=torch.float64), torch.arange(6) % 3
    if change == "prune":
        with torch.no_grad():
            named = dict(model.named_parameters())
            named["s1.0.bn1.weight"][[1, 3]] = named["s1.0.bn1.bias"][[1, 3]] = 0.0
            named["s1.0.conv2.weight"][:, [1, 3]] = 0.0
    functional.cross_entropy(model(x), labels).backward()
    if change == "grow":
        model.apply(InsertBlock(init="zero"), "s1")
        assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("s1.1"))
        assert all(p.grad is None for n, p in model.named_parameters() if n.startswith("s1.1"))
        return
    resize(model, "s1.0.conv1", [0, 2] if change == "prune" else [0, 1, 2, 3, 0, 2])
    carried = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    functional.cross_entropy(model(x), labels).backward()
    for name, p in model.named_parameters():
        accumulated = carried[name]
        assert accumulated is not None and p.grad is not None
        assert float((accumulated - p.grad).abs().max()) < 1e-9 * max(1.0, float(p.grad.abs().max())), name
