"""torch's fused optimizers, which are the default on CUDA devices, through rewrites; they run on the CPU too."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from grown import images, lived, pyramid, same_tensors
from networks import small_resnet
from torch.nn import functional

from nasir import get_pass
from nasir.backends.torch import Model
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.optimizers import groups as optim
from nasir.backends.torch.session import TorchSession
from nasir.errors import UsageError
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.testing.backend_contract import initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
FUSED: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "plain": lambda p: torch.optim.SGD(p, lr=0.05, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
}
PLANS = {
    "sgd": OptimizerPlan("sgd", lr=0.05, weight_decay=1e-3, decay_norms=False),
    "nesterov": OptimizerPlan("sgd", lr=0.05, nesterov=True),
    "adamw": OptimizerPlan("adamw", lr=1e-3),
}


def backward(model: Model, seed: int = 0) -> None:
    model.zero_grad()
    functional.cross_entropy(model(images(6, 8, seed)), torch.arange(6) % 3).backward()


def step(model: Model, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    backward(model, seed)
    optimizer.step()


@pytest.mark.parametrize("kind", FUSED)
def test_a_loop_of_ones_own_grows_prunes_widens_and_removes(kind: str) -> None:
    model = lived(small_resnet()).train()
    optimizer = FUSED[kind](list(model.parameters()))
    for number, (name, site, options) in enumerate(
        (
            ("insert-block", "s1", {"init": "gaussian"}),
            ("prune-channels", "network", {"fraction": 0.25}),
            ("widen", "s2.0.conv1", {"how": "fresh", "units": 2}),
            ("remove-block", "s1.1", {}),
        )
    ):
        step(model, optimizer, number)
        change = get_pass(name)(**options)
        sites = {getattr(site, "name", site): site for site in change.sites(model.graph)}
        assert model.apply(change, sites[site], optimizers=[optimizer]) is not None
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    step(model, optimizer, 9)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if kind != "plain":
        assert all(len(optimizer.state[p]) > 0 for p in held)


def test_the_first_step_of_newcomers_is_the_first_step_that_the_kernel_makes_by_itself() -> None:
    """Bit for bit: zeros in the place of a missing buffer give momentum * 0 + gradient."""
    model = lived(small_resnet()).train()
    optimizer = FUSED["sgd"](list(model.parameters()))
    step(model, optimizer)
    model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[optimizer])
    new = {name: p for name, p in model.named_parameters() if name.startswith("s1.1.")}
    assert new and all(not optimizer.state[p]["momentum_buffer"].any() for p in new.values())
    twins = {name: torch.nn.Parameter(p.detach().clone()) for name, p in new.items()}
    alone = FUSED["sgd"](list(twins.values()))
    for seed in (1, 2):
        backward(model, seed)
        for name, parameter in new.items():
            twins[name].grad = parameter.grad.clone()
        optimizer.step()
        alone.step()
        assert all(torch.equal(twins[name], parameter) for name, parameter in new.items())
        for name, parameter in new.items():
            actual, wanted = optimizer.state[parameter], alone.state[twins[name]]
            assert torch.equal(actual["momentum_buffer"], wanted["momentum_buffer"])


def test_what_a_rewrite_unfreezes_starts_to_learn() -> None:
    model = lived(small_resnet()).train()
    model.apply(get_pass("freeze")(), "s1", optimizers=[])
    optimizer = FUSED["sgd"](list(model.parameters()))
    step(model, optimizer)
    assert model.apply(get_pass("unfreeze")(), "s1", optimizers=[optimizer]) is not None
    before = model.get_parameter("s1.0.conv1.weight").detach().clone()
    step(model, optimizer, 1)
    assert not torch.equal(model.get_parameter("s1.0.conv1.weight"), before)


def test_another_optimizer_takes_the_state_of_a_grown_network_and_steps() -> None:
    """As a restart of one's own loop does: the hook is no part of the state, the zeros are."""
    model = lived(small_resnet()).train()
    optimizer = FUSED["sgd"](list(model.parameters()))
    step(model, optimizer)
    model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[optimizer])
    other = FUSED["sgd"]([p for group in optimizer.param_groups for p in group["params"]])
    other.load_state_dict(optimizer.state_dict())
    step(model, other, 1)
    copied, copy = deepcopy((list(model.parameters()), optimizer))
    for parameter in copied:
        parameter.grad = torch.ones_like(parameter)
    copy.step()


def test_gradients_from_a_closure_come_after_the_hook() -> None:
    model = lived(small_resnet()).train()
    optimizer = FUSED["sgd"](list(model.parameters()))
    step(model, optimizer)
    model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[optimizer])
    optimizer.zero_grad(set_to_none=True)

    def closure() -> torch.Tensor:
        backward(model, 1)
        return torch.zeros(())

    optimizer.step(closure)
    assert optimizer.state[model.get_parameter("s1.1.conv1.weight")]["momentum_buffer"].abs().sum() > 0


def test_dampening_is_refused_where_parameters_join_and_nowhere_else() -> None:
    model = lived(small_resnet()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, dampening=0.1, fused=True)
    step(model, optimizer)
    assert model.apply(get_pass("prune-channels")(fraction=0.25), "network", optimizers=[optimizer]) is not None
    step(model, optimizer, 1)
    before = model.graph, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=r"dampening.*foreach=True"):
        model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[optimizer])
    assert model.graph is before[0] and same_tensors(dict(model.state_dict()), before[1])
    step(model, optimizer, 2)


def test_under_dampening_a_head_that_is_never_used_stops_nothing() -> None:
    model = lived(small_resnet()).train()
    unused = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([*model.parameters(), unused], lr=0.05, momentum=0.9, dampening=0.1, fused=True)
    model.apply(get_pass("prune-channels")(fraction=0.25), "network", optimizers=[optimizer])
    for seed in range(3):
        step(model, optimizer, seed)


def test_dampening_of_an_optimizer_that_receives_nothing_stops_no_growth() -> None:
    model = lived(small_resnet()).train()
    stage = [p for name, p in model.named_parameters() if name.startswith("s2")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("s2")]
    damped = torch.optim.SGD(stage, lr=0.05, momentum=0.9, dampening=0.1, fused=True)
    plain = FUSED["sgd"](rest)
    backward(model)
    damped.step()
    plain.step()
    assert model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[damped, plain]) is not None
    with pytest.raises(UsageError, match="dampening"):
        model.apply(InsertBlock(init="gaussian"), "s2", optimizers=[damped, plain])


def test_a_parameter_that_begins_to_learn_under_dampening_stops_the_step_before_it_moves_a_weight() -> None:
    model = lived(small_resnet()).train()
    model.get_parameter("fc.weight").requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, dampening=0.1, fused=True)
    model.apply(get_pass("prune-channels")(fraction=0.25), "network", optimizers=[optimizer])
    step(model, optimizer)
    model.get_parameter("fc.weight").requires_grad_(True)
    backward(model, 1)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(UsageError, match="dampening"):
        optimizer.step()
    assert same_tensors(dict(model.named_parameters()), before)


# -- in a session, as it is on a device


def opened(folder: Path, graph: Graph, plan: TrainPlan) -> TorchSession:
    options = {"classes": 3, "size": 8, "channels": 3, "train": 64, "test": 24}
    data = DataPlan("synthetic", options, batch_size=16, validation=16)
    session = TorchBackend().open(Setup(data, folder, seed=3, device="cpu", precision="fp32", probe=16))
    session.build(graph, initial(graph))
    session.begin_phase(plan, 8, resumed=False)
    return session


@pytest.mark.parametrize("kind", PLANS)
def test_a_session_resumes_from_a_state_that_misses_buffers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grown and saved before the next step: the checkpoint has no moments of the new block."""
    monkeypatch.setattr(optim, "fuses", lambda parameters: True)
    plan = TrainPlan(PLANS[kind], precision="fp32")
    first = opened(tmp_path, pyramid((1, 1), 4, size=8, classes=3), plan)
    first.train(0, 0, None, lambda: False)
    first.propose(InsertBlock(init="gaussian").attempt(first.model.graph, "s1"))
    first.accept()
    first.save(tmp_path / "c", 1, {"ordinal": 1, "graph": first.model.graph.to_json()}, 2)
    wanted = first.train(1, 1, None, lambda: False).metrics
    first.close()
    second = TorchBackend().open(first.setup)
    saved = second.newest(tmp_path / "c")
    assert saved is not None
    second.load(saved, Graph.from_json(saved.meta["graph"]))
    second.begin_phase(plan, 8, resumed=True)
    assert second.optimizer is not None and all(group["fused"] for group in second.optimizer.param_groups)
    assert second.train(1, 1, None, lambda: False).metrics == wanted
    second.close()


def test_parts_that_a_phase_frees_train_on_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "fuses", lambda parameters: True)
    session = opened(tmp_path, pyramid((1, 1), 4, size=8, classes=3), TrainPlan(PLANS["sgd"], freeze=("s1",)))
    session.train(0, 0, None, lambda: False)
    session.begin_phase(TrainPlan(PLANS["sgd"]), 8, resumed=False)
    before = session.model.get_parameter("s1.0.conv1.weight").detach().clone()
    session.train(1, 1, None, lambda: False)
    assert not torch.equal(session.model.get_parameter("s1.0.conv1.weight"), before)
    session.close()
