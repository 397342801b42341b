"""Parameters stand in the order of the graph, in the model and in its optimizers, whatever rewrites made them.

torch stores an optimizer's state by position: a network rebuilt from the graph must find each moment in its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from grown import pyramid, step
from networks import small_resnet
from torch import nn

from nasir.backends.torch import Model
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph, parse
from nasir.passes import InsertBlock, RemoveBlock
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass, Rewrite
from nasir.testing import random_graph
from nasir.training.plans import OptimizerPlan

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
}


@dataclass(frozen=True)
class Resize(Pass):
    """Resize a space at random."""

    seed: int = 0

    def sites(self, graph: Graph) -> list[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        rng = np.random.default_rng(self.seed)
        draft.select(site, rng.integers(0, site.size, max(2, site.size + int(rng.integers(-2, 3)))))


def some_rewrite(graph: Graph, rng: np.random.Generator) -> Rewrite | None:
    change = [InsertBlock(), InsertBlock(), RemoveBlock(), Resize(int(rng.integers(99)))][rng.integers(4)]
    sites = list(change.sites(graph))
    try:
        return change.attempt(graph, sites[rng.integers(len(sites))]) if sites else None
    except Decline:
        return None


def rebuilt(model: Model) -> Model:
    return Model.from_graph(parse(str(model.graph)))


def names_of(optimizer: torch.optim.Optimizer, model: Model) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("seed", range(12))
def test_any_history_of_rewrites_leaves_the_order_of_the_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Model.from_graph(random_graph(seed) if seed % 2 else small_resnet())
    plain = [p for p in model.parameters() if p.ndim < 2]
    heavy = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": heavy, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups if seed % 3 else model.parameters())
    done = 0
    for _ in range(12):
        if (rewrite := some_rewrite(model.graph, rng)) is None:
            continue
        model.apply(rewrite, optimizers=[optimizer])
        done += 1
        other = rebuilt(model)
        wanted = [name for name, _ in other.named_parameters()]
        assert [name for name, _ in model.named_parameters()] == wanted
        assert list(model.state_dict()) == list(other.state_dict())
        held = names_of(optimizer, model)
        assert sorted(name for names in held for name in names) == sorted(wanted)
        assert all(names == [name for name in wanted if name in set(names)] for names in held)
    assert done > 3


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_network_rebuilt_from_the_graph_goes_on_bit_for_bit(kind: str) -> None:
    """Graph and state dicts are all that a checkpoint of a user's own has."""
    model = Model.from_graph(small_resnet((1, 1)))
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer, seed=0)
    for count, site in enumerate(["s1", "s2"]):
        model.apply(InsertBlock(), site, optimizers=[optimizer])
        step(model, optimizer, seed=count + 1)
    widened = next(space for space in model.graph.infer.spaces if space.name == "s1.0.conv1")
    model.apply(Resize(3), widened, optimizers=[optimizer])
    step(model, optimizer, seed=3)
    other = rebuilt(model)
    other.load_state_dict(model.state_dict())
    again = OPTIMIZERS[kind](other.parameters())
    again.load_state_dict(deepcopy(optimizer.state_dict()))  # torch would share the tensors
    for seed in range(4, 7):
        step(model, optimizer, seed=seed)
        step(other, again, seed=seed)
    differ = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])]
    assert not differ


@pytest.mark.parametrize("order", ["before", "behind", "between"])
def test_parameters_of_other_models_keep_their_places_around_those_of_the_model(order: str) -> None:
    model, other = Model.from_graph(pyramid((1, 1), 4)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    mine, theirs = list(model.parameters()), list(other.parameters())
    members = {
        "before": [*theirs, *mine],
        "behind": [*mine, *theirs],
        "between": [theirs[0], *mine[:3], *theirs[1:3], *mine[3:], theirs[3]],
    }[order]
    optimizer = torch.optim.SGD(members, lr=0.1)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    now = list(model.parameters())
    wanted = {"before": [*theirs, *now], "behind": [*now, *theirs], "between": [theirs[0], *now, *theirs[1:]]}[order]
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, wanted))


@pytest.mark.parametrize("prefix", ["", "net."])
def test_names_in_the_groups_follow(prefix: str) -> None:
    model = Model.from_graph(pyramid((1, 1), 4))
    whole: Any = nn.ModuleDict({"net": model, "head": nn.Linear(2, 2)}) if prefix else model
    optimizer = torch.optim.SGD(list(whole.named_parameters()), lr=0.1)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    model.apply(RemoveBlock(), "s1.0", optimizers=[optimizer])
    (group,) = optimizer.param_groups
    assert group["param_names"] == [name for name, _ in whole.named_parameters()]


def test_the_groups_of_a_run_follow_the_model_too() -> None:
    model = Model.from_graph(small_resnet((1, 1)))
    slots, keys = model.graph.infer.slots, model.keys()
    tagged = [(name, p, slots[keys[name].node][keys[name].slot].tags) for name, p in model.named_parameters()]
    optimizer = build_optimizer(tagged, OptimizerPlan("sgd", lr=0.1, momentum=0.9))
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    order = [name for name, _ in model.named_parameters()]
    for group, names in zip(optimizer.param_groups, names_of(optimizer, model), strict=True):
        assert group["param_names"] == names == [name for name in order if name in set(names)]
