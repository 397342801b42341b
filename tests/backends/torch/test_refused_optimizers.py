"""Optimizers that would go on training something else than the network are refused before anything changes."""

from __future__ import annotations

import pytest
import torch
from grown import images, lived
from networks import small_resnet
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.errors import UsageError
from nasir.passes.insert_block import InsertBlock
from nasir.passes.widen import Widen
from nasir.rewriting.rewrite import Pass
from nasir.testing import random_transformer


def train(model: Model, *optimizers: torch.optim.Optimizer) -> None:
    def closure() -> float:
        model.zero_grad()
        loss = functional.cross_entropy(model(images(6, 8, dtype=torch.float64)), torch.arange(6) % 3)
        loss.backward()
        return loss.item()

    for optimizer in optimizers:
        optimizer.step(closure)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(("change", "site"), [(InsertBlock(init="zero"), "s2"), (Widen(units=2, noise=0.01), None)])
def test_an_optimizer_with_a_list_of_its_own_is_refused(change: Pass, site: str | None, steps: int) -> None:
    """LBFGS steps along the list that it was made with, whatever its groups hold."""
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    for _ in range(steps):
        train(model, optimizer)
    graph, held = model.graph, list(optimizer.param_groups[0]["params"])
    with pytest.raises(UsageError, match=r"LBFGS: it holds parameters in its attribute '_params'.*make LBFGS anew"):
        model.apply(change, site or change.sites(graph)[0], optimizers=[optimizer])
    assert model.graph is graph
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], held, strict=True))
    train(model, optimizer)


def test_it_goes_on_where_the_rewrite_does_not_concern_it() -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    head, body = ([p for n, p in model.named_parameters() if n.startswith("fc.") is mine] for mine in (True, False))
    chosen = (torch.optim.LBFGS(head, lr=0.1, max_iter=2), torch.optim.SGD(body, lr=0.1))
    train(model, *chosen)
    assert model.apply(InsertBlock(init="zero"), "s2", optimizers=chosen)
    before = model.get_parameter("fc.weight").clone()
    train(model, *chosen)
    assert not torch.equal(before, model.get_parameter("fc.weight"))


def matrices_apart() -> tuple[Model, torch.optim.Optimizer, torch.optim.Optimizer]:
    """A transformer whose matrices Muon trains, and AdamW the rest."""
    model = Model.from_graph(random_transformer(0), dtype=torch.float64)
    stage = model.graph.stages[0].path
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith(f"{stage}.")}
    rest = [p for n, p in model.named_parameters() if n not in matrices]
    return model, torch.optim.Muon(matrices.values(), lr=0.01), torch.optim.AdamW(rest)


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_optimizers_that_lie_as_near_the_one_with_such_parameters_gets_them(turned: bool) -> None:
    """Whichever is named first."""
    model, muon, rest = matrices_apart()
    stage = model.graph.stages[0].path
    before = {id(p) for p in model.parameters()}
    chosen = [rest, muon] if turned else [muon, rest]
    assert model.apply(InsertBlock(init="near_zero"), stage, optimizers=chosen)
    held = [{id(p) for group in o.param_groups for p in group["params"]} for o in (muon, rest)]
    new = {n: p for n, p in model.named_parameters() if id(p) not in before}
    assert {p.ndim for p in new.values()} == {1, 2}
    for name, parameter in new.items():
        assert [id(parameter) in ids for ids in held] == [parameter.ndim == 2, parameter.ndim != 2], name


def test_what_is_no_matrix_cannot_join_muon() -> None:
    model, muon, _ = matrices_apart()
    graph, held = model.graph, list(muon.param_groups[0]["params"])
    with pytest.raises(UsageError, match=r"optimizer Muon: \d+ of \d+ new parameters are no matrices"):
        model.apply(InsertBlock(init="near_zero"), graph.stages[0].path, optimizers=[muon])
    assert model.graph is graph
    assert all(a is b for a, b in zip(muon.param_groups[0]["params"], held, strict=True))
