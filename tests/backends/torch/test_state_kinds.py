"""What an optimizer keeps goes through a rewrite by its kind; what has none is refused before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived
from networks import small_resnet
from own_optimizers import ADAFACTOR, imported
from torch.nn import functional
from torch.optim import optimizer as base

from nasir.backends.torch import Model
from nasir.backends.torch.optimizers.groups import build_optimizer, tagged
from nasir.backends.torch.optimizers.named import KeptBy, export_state, import_state
from nasir.errors import CheckpointError, UsageError
from nasir.ir import Atom, Draft
from nasir.registry import optimizer_states, optimizers
from nasir.testing.backend_contract import Resize
from nasir.training import Keeps, Optimizer, OptimizerPlan

imported(ADAFACTOR)


class Copying(torch.optim.SGD):
    """Keeps a copy of each weight as it is after the step, and counts."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["copy"] = p.detach().clone()
                    self.state[p]["seen"] = self.state[p].get("seen", 0) + 1


@optimizers.register("copying")
@dataclass(frozen=True)
class CopyingSgd(Optimizer):
    """SGD that keeps copies."""

    factory = Copying
    state = {"momentum_buffer": "first", "copy": "weight", "seen": "number"}  # noqa: RUF012


class Pacing(torch.optim.SGD):
    """Changes an option of its groups."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            group["momentum"] += 0.01


@optimizers.register("pacing")
@dataclass(frozen=True)
class PacingSgd(Optimizer):
    """SGD whose momentum rises."""

    factory = Pacing
    state = {"momentum_buffer": "first"}  # noqa: RUF012


@optimizers.register("undecayed")
@dataclass(frozen=True)
class Undecayed(Optimizer):
    """One without weight decay."""

    def make(self, groups: list[dict[str, Any]], fused: bool) -> Any:
        made = torch.optim.SGD(groups, lr=self.lr)
        del made.defaults["weight_decay"]
        return made


@optimizers.register("maximal")
@dataclass(frozen=True)
class Maximal(Optimizer):
    """Adam that may keep the largest second moments."""

    factory = torch.optim.Adam
    state = {"exp_avg": "first", "exp_avg_sq": "second", "max_exp_avg_sq": "second", "step": "scalar"}  # noqa: RUF012

    amsgrad: bool = False

    def held(self) -> Mapping[str, Any]:
        return {key: kind for key, kind in self.state.items() if self.amsgrad or key != "max_exp_avg_sq"}


def trained(kind: str, steps: int = 2) -> tuple[Model, torch.optim.Optimizer]:
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = build_optimizer(tagged(model), OptimizerPlan(kind, lr=0.05))
    train(model, optimizer, steps)
    return model, optimizer


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for seed in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(images(6, 8, seed, torch.float64)), torch.arange(6) % 3).backward()
        optimizer.step()


def space(model: Model, name: str) -> Atom:
    return next(atom for atom in model.graph.infer.spaces if atom.name == name)


@pytest.mark.parametrize("name", ["conv1", "s1.0.conv1", "s2.0.conv2"])
def test_a_copy_of_the_weights_becomes_what_the_weights_become(name: str) -> None:
    """Replicas with their shares, new units at random, pruned ones: the copy is that of the new weights."""
    model, optimizer = trained("copying")
    size = space(model, name).size
    model.apply(Resize((*range(1, size), 1, -1, 1)), space(model, name), optimizers=[optimizer])
    moved = 0
    for label, parameter in model.named_parameters():
        copy = optimizer.state[parameter]["copy"]
        assert torch.equal(copy, parameter) and copy is not parameter and optimizer.state[parameter]["seen"] == 2, label
        moved += copy.shape[0] == size + 2 or copy.shape[1:2] == (size + 2,)
    assert moved
    train(model, optimizer, 1)


def test_a_factored_moment_is_that_of_the_moment_written_out() -> None:
    model, optimizer = trained("adafactor")
    index = [3, 0, 2]
    before = {name: dict(optimizer.state[p]) for name, p in model.named_parameters()}
    model.apply(Resize(tuple(index)), space(model, "s1.0.conv1"), optimizers=[optimizer])
    for name, axis in (("s1.0.conv1.weight", 0), ("s1.0.conv2.weight", 1)):
        for key in ("row_var", "col_var"):
            old, new = before[name][key], optimizer.state[model.get_parameter(name)][key]
            wanted = old.index_select(axis, torch.tensor(index))
            assert torch.allclose(new, wanted, rtol=1e-12, atol=0), (name, key)
    train(model, optimizer, 2)


def test_an_average_over_one_entry_says_nothing_about_more() -> None:
    """A state that cannot be carried starts anew, and training goes on."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[1, 8, 8])
    for label in ("a", "b"):
        x = draft.add("relu", draft.add("conv2d", x, label, out=1 if label == "a" else 3, kernel=1), f"{label}r")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=3))
    model = Model.from_graph(draft.commit())
    optimizer = build_optimizer(tagged(model), OptimizerPlan("adafactor", lr=0.05))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.rand(6, 1, 8, 8)), torch.arange(6) % 3).backward()
        optimizer.step()

    step()
    model.apply(Resize((0, 0)), space(model, "a"), optimizers=[optimizer])
    step()


def test_state_of_the_wrong_shape_belongs_to_another_network() -> None:
    model, optimizer = trained("adafactor")
    state = export_state(optimizer, model.named_parameters())
    import_state(optimizer, state, model.named_parameters())
    state["conv1.weight"]["row_var"] = torch.zeros(9, 9, 9, 1)
    with pytest.raises(CheckpointError, match=r"row_var of conv1\.weight has shape"):
        import_state(optimizer, state, model.named_parameters())


def test_plain_numbers_come_back_as_such() -> None:
    model, optimizer = trained("copying")
    state = export_state(optimizer, model.named_parameters())
    assert state["conv1.weight"]["seen"].dtype == torch.float64
    import_state(optimizer, state, model.named_parameters())
    seen = optimizer.state[model.get_parameter("conv1.weight")]["seen"]
    assert type(seen) is int and seen == 2


class Mystery(torch.optim.SGD):
    """Keeps something of the weights' shape under a name of its own."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["mystery"] = torch.ones_like(p)


def test_in_a_loop_of_ones_own_unknown_state_is_refused_before_anything_changes() -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = Mystery(model.parameters(), lr=0.01)
    train(model, optimizer, 1)
    graph, before = model.graph, {p: dict(state) for p, state in optimizer.state.items()}
    with pytest.raises(UsageError, match=r"optimizer Mystery: nothing says what its state 'mystery' holds"):
        model.apply(Resize((0, 1)), space(model, "conv1"), optimizers=[optimizer])
    assert model.graph is graph and {p: dict(state) for p, state in optimizer.state.items()} == before
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_options_of_groups_that_change_are_refused_at_a_checkpoint() -> None:
    model, optimizer = trained("pacing")
    with pytest.raises(UsageError, match="optimizer pacing: it changes momentum of its groups"):
        export_state(optimizer, model.named_parameters())


def test_a_decay_that_is_not_there_is_refused() -> None:
    model = Model.from_graph(small_resnet())
    build_optimizer(tagged(model), OptimizerPlan("undecayed", lr=0.1))
    with pytest.raises(UsageError, match=r"optimizer undecayed: weight_decay is 0\.1, and it has none"):
        build_optimizer(tagged(model), OptimizerPlan("undecayed", lr=0.1, weight_decay=0.1))


def test_state_serves_options_that_ask_for_nothing_more() -> None:
    plain, largest = OptimizerPlan("maximal", lr=0.1), OptimizerPlan("maximal", lr=0.1, amsgrad=True)
    assert KeptBy.of(plain).serves(plain) and KeptBy.of(largest).serves(plain)
    assert not KeptBy.of(plain).serves(largest) and not KeptBy.of(plain).serves(OptimizerPlan("adam"))
    old = KeptBy.read({"optimizer_kind": "maximal"})
    assert old is not None and old.serves(largest), "checkpoints from before do not say what was kept"
    assert KeptBy.read(KeptBy.meta(KeptBy.of(plain))) == KeptBy.of(plain)
    assert KeptBy.read(KeptBy.meta(None)) is None


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({}, "has neither `factory` nor a `make`"),
        ({"factory": torch.optim.SGD, "state": {"x": "third"}}, "has a state of unknown kind"),
    ],
)
def test_a_definition_that_lacks_something_is_refused(members: dict[str, Any], told: str) -> None:
    name = f"bad-{len(members)}"
    if name not in optimizers.names():
        optimizers.register(name)(dataclass(frozen=True)(type("Bad", (Optimizer,), {"__module__": name, **members})))
    with pytest.raises(UsageError, match=f"optimizer '{name}'.*{told}"):
        OptimizerPlan(name, lr=0.1)


def test_single_options_of_a_plan_are_replaced() -> None:
    plan = OptimizerPlan("adam", lr=0.1, weight_decay=0.5)
    assert replace(plan, lr=0.2, betas=(0.5, 0.6)) == OptimizerPlan("adam", lr=0.2, weight_decay=0.5, betas=(0.5, 0.6))
    assert np.isclose(plan.lr, 0.1) and hash(plan) == hash(replace(plan))


def test_new_units_of_rprop_begin_with_steps_as_long_as_the_others() -> None:
    """A step of size 0 would be the least there is, 1e-6, and take long to grow."""
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    train(model, optimizer, 3)
    old = optimizer.state[model.get_parameter("s1.0.conv1.weight")]["step_size"].clone()
    atom = space(model, "s1.0.conv1")
    model.apply(Resize((*range(atom.size), -1)), atom, optimizers=[optimizer])
    new = optimizer.state[model.get_parameter("s1.0.conv1.weight")]["step_size"]
    assert torch.equal(new[: atom.size], old)
    assert torch.allclose(new[atom.size :], old.mean().expand_as(new[atom.size :]), rtol=1e-12, atol=0)


class Around(torch.optim.SGD):
    """Wraps an optimizer that keeps averages of its own."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, lr=lr, momentum=0.9)
        self.inner = torch.optim.Adam(self.param_groups)


@optimizers.register("around")
@dataclass(frozen=True)
class AroundAdam(Optimizer):
    """One whose state is in two places."""

    factory = Around
    state = {"momentum_buffer": "first"}  # noqa: RUF012


def test_a_run_has_no_optimizer_whose_state_is_in_two_places() -> None:
    model = Model.from_graph(small_resnet())
    with pytest.raises(UsageError, match="optimizer around: it wraps an optimizer that keeps state of its own"):
        build_optimizer(tagged(model), OptimizerPlan("around", lr=0.1))


@pytest.mark.parametrize("wrong", [Keeps({"x": "third"}), {"x": "first"}, None])  # type: ignore[dict-item]
def test_a_registration_that_is_none_is_refused(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_states, "_objects", {f"{__name__}.Mystery": wrong})
    model = lived(small_resnet(), dtype=torch.float64)
    with pytest.raises(UsageError, match=r"Mystery: .* is registered; it has to be Keeps\(\{key: kind\}\)"):
        model.apply(Resize((0, 1)), space(model, "conv1"), optimizers=[Mystery(model.parameters(), lr=0.1)])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_nothing_is_added_to_a_step(kind: Any) -> None:
    """A rewrite that was given its optimizer leaves no hook that runs at each step."""
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = kind(model.parameters(), lr=0.1)
    train(model, optimizer, 1)
    before = len(base._global_optimizer_pre_hooks)
    model.apply(Resize((0, 1)), space(model, "conv1"), optimizers=[optimizer])
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert len(base._global_optimizer_pre_hooks) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
