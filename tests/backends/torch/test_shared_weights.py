"""Weights that several nodes share, as torch has them: one parameter, one optimizer state, through every rewrite."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.train.ema import Ema
from nasir.ir import Draft, Graph, Port
from nasir.rewriting.rewrite import Rewrite
from nasir.transfer import Key, derive

CALLS = 3


def network() -> Graph:
    """A layer with a norm that is called three times, each call a block; between two layers of their own."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5])
    x = draft.add("relu", draft.add("linear", x, "first", out=8), "act")
    owners: dict[str, int] = {}
    for call in range(CALLS):
        entry = x
        for name, op, attrs in (("cell", "linear", {"out": 8}), ("norm", "batch_norm", {})):
            x = draft.add(op, x, f"calls.{call}.{name}", **attrs)
            for slot in draft.slots(x.node):
                if name in owners:
                    draft.tie(Key(x.node, slot), Key(owners[name], slot))
            owners.setdefault(name, x.node)
        x = draft.add("add", [x, entry], f"calls.{call}.sum")
        x = draft.add("relu", x, f"calls.{call}.act")
        draft.region(f"calls.{call}", "block")
    draft.output(draft.add("linear", x, "last", out=3))
    return draft.commit()


class Own(nn.Module):
    """The same network as one writes it."""

    def __init__(self, model: Model, calls: int = CALLS) -> None:
        super().__init__()
        self.calls = calls
        layers = [model.get_submodule(path) for path in ("first", "calls.0.cell", "calls.0.norm", "last")]
        self.first, self.cell, self.norm, self.last = (copy.deepcopy(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(self.calls):
            x = torch.relu(self.norm(self.cell(x)) + x)
        return self.last(x)  # type: ignore[no-any-return]


def steps(
    module: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int = 0, ema: Ema | None = None
) -> Tensor:
    data = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x, y = torch.randn((16, 5), generator=data, dtype=torch.float64), torch.randint(3, (16,), generator=data)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        if ema is not None:
            ema.update(module)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def made() -> tuple[Model, Own]:
    model = Model.from_graph(network(), seed=1, dtype=torch.float64)
    return model, Own(model)


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=0.02)


def cells(model: Model) -> list[nn.Module]:
    return [model.get_submodule(f"{path}.cell") for path in sorted(r.path for r in model.graph.blocks)]


def rewrite_by(draft: Draft) -> Rewrite:
    new = draft.commit()
    assert draft.base is not None
    return Rewrite(draft.base, new, derive(draft, new), {"pass": "by hand"}, "here", "no")


def without(graph: Graph, call: int) -> Rewrite:
    draft = graph.draft()
    path = f"calls.{call}"
    entry, exit_ = graph.boundary(path)
    draft.rewire(Port(exit_), entry)
    draft.remove_region(path)
    return rewrite_by(draft)


def resized(graph: Graph, index: list[int]) -> Rewrite:
    (space,) = [atom for atom in graph.infer.spaces if atom.resizable]
    draft = graph.draft()
    draft.select(space, np.array(index))
    return rewrite_by(draft)


def test_it_trains_as_the_module_that_calls_one_layer_again() -> None:
    model, own = made()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in own.parameters())
    assert model.graph.cost().params == sum(p.numel() for p in own.parameters())
    assert len({id(cell.weight) for cell in cells(model)}) == 1
    assert len(model.state_dict()) == len(own.state_dict()) + 2 * (2 + 5)
    assert torch.equal(steps(model, adam(model), 20), steps(own, adam(own), 20))
    x = torch.randn(4, 5, dtype=torch.float64)
    assert torch.equal(model.eval()(x), own.eval()(x))


@pytest.mark.parametrize("gone", range(CALLS))
def test_one_call_less_and_training_goes_on(gone: int) -> None:
    """Also where the call that is gone owned the array: the numbers and the optimizer's state are then another's."""
    model, own = made()
    optimizer, other = adam(model), adam(own)
    steps(model, optimizer, 10), steps(own, other, 10)
    model.apply(without(model.graph, gone), optimizers=[optimizer])
    own.calls -= 1
    assert torch.equal(steps(model, optimizer, 10, 1), steps(own, other, 10, 1))
    assert len(cells(model)) == 2 and cells(model)[0].weight is cells(model)[1].weight
    assert len(optimizer.param_groups[0]["params"]) == len(list(own.parameters())) == len(optimizer.state)


def test_units_that_are_pruned_go_everywhere_with_their_state() -> None:
    model, _ = made()
    optimizer, ema = adam(model), Ema(model, 0.9)
    steps(model, optimizer, 10, ema=ema)
    kept = [0, 2, 3, 5, 6, 7]
    cell = cells(model)[0].weight
    before = {name: value.clone() for name, value in optimizer.state[cell].items()}
    old, averaged = cell.detach().clone(), ema.tensors["calls.1.cell.weight"].clone()
    model.apply(resized(model.graph, kept), optimizers=[optimizer], averages=[ema])
    now = cells(model)[0].weight
    assert all(part.weight is now for part in cells(model)) and len(optimizer.state) == 8
    pick = np.ix_(kept, kept)
    assert torch.equal(now, old[pick])
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[now][name], before[name][pick])
    assert ema.tensors.keys() == model.state_dict().keys()
    for call in range(CALLS):
        assert torch.equal(ema.tensors[f"calls.{call}.cell.weight"], averaged[pick])
    steps(model, optimizer, 3, ema=ema)
    with ema.applied(model):
        assert len({float(cell.weight.detach().sum()) for cell in cells(model)}) == 1


def test_copies_and_files_share_as_the_model_does(tmp_path: Path) -> None:
    model, _ = made()
    optimizer = adam(model)
    steps(model, optimizer, 5)
    nasir.save(tmp_path / "m.nasir", model, optimizers=[optimizer])
    stored = nasir.load(tmp_path / "m.nasir")
    loaded: Any = stored.model
    again = adam(loaded)
    stored.restore(optimizers=[again])
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    pickled = torch.load(buffer, weights_only=False)
    for copied in (copy.deepcopy(model), loaded, pickled):
        assert len({id(cell.weight) for cell in cells(copied)}) == 1
        assert len(list(copied.parameters())) == len(list(model.parameters()))
        assert copied.graph == model.graph
    wanted = steps(model, optimizer, 5, 1)
    assert torch.equal(steps(loaded, again, 5, 1), wanted)


def test_a_shared_weight_is_frozen_where_any_of_its_nodes_is() -> None:
    model, _ = made()
    draft = model.graph.draft()
    draft.freeze("calls.1")
    model.apply(rewrite_by(draft))
    assert not any(cell.weight.requires_grad for cell in cells(model))
    draft = model.graph.draft()
    draft.unfreeze("calls.1")
    model.apply(rewrite_by(draft))
    assert all(cell.weight.requires_grad for cell in cells(model))


def test_a_weight_that_is_untied_learns_for_itself() -> None:
    model, own = made()
    optimizer = adam(model)
    steps(model, optimizer, 5)
    draft = model.graph.draft()
    node = model.graph.find("calls.2.cell")
    for slot in ("weight", "bias"):
        draft.untie(Key(node, slot))
    model.apply(rewrite_by(draft), optimizers=[optimizer])
    first, second, third = cells(model)
    assert first.weight is second.weight is not third.weight and torch.equal(first.weight, third.weight)
    assert len(list(model.parameters())) == len(list(own.parameters())) + 2
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    steps(model, optimizer, 2)
    assert not torch.equal(first.weight, third.weight)
