"""Optimizer state of values that move to other parameters: it follows them, and copies of living ones start anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from grown import images, lived, same_tensors
from networks import small_resnet
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.backends.torch.arrays import TorchArrays
from nasir.ir import Draft, Fill, Graph, Port
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.transfer import AxisTake, Blob, Key, Stack, Take

pytestmark = pytest.mark.usefixtures("kernels")

HALVES = {"conv.0": [0, 1], "conv.1": [2, 3]}


def take(node: int, slot: str, rows: list[int] | None, rest: int) -> Take:
    first = None if rows is None else AxisTake(np.array(rows))
    return Take(Key(node, slot), (first, *[None] * rest))


@dataclass(frozen=True)
class Split(Pass):
    """Turn the convolution "conv1" into two that write its channels between them; or keep it beside copies."""

    keep: bool = False

    def sites(self, graph: Graph) -> list[str]:
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        graph = draft.base
        assert graph is not None
        old = graph.labels["conv1"]
        made = []
        for label, rows in HALVES.items():
            attrs = {**graph.nodes[old].attrs, "out": len(rows)}
            port = draft.add("conv2d", graph.nodes[old].inputs, label, **attrs)
            draft.source(port.node, "weight", take(old, "weight", rows, 3))
            made.append(port)
        joined = draft.add("concat", made, "join")
        readers = [n for n, node in graph.nodes.items() if Port(old) in node.inputs]
        if self.keep:
            joined = draft.add("mean", [joined, Port(old)], "both")
        else:
            draft.remove(old)
        draft.rewire(Port(old), joined, only=readers)


@dataclass(frozen=True)
class Join(Pass):
    """Turn "conv.0" and "conv.1" back into one; `last` is where the second half comes from."""

    last: Literal["conv", "blob", "fill"] = "conv"

    def sites(self, graph: Graph) -> list[str]:
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        graph = draft.base
        assert graph is not None
        first, second, join = (graph.labels[label] for label in ("conv.0", "conv.1", "join"))
        port = draft.add("conv2d", graph.nodes[first].inputs, "joined", **{**graph.nodes[first].attrs, "out": 4})
        draft.rewire(Port(join), port)
        draft.remove([first, second, join])
        zeros = np.zeros((2, 3, 3, 3), dtype=np.float32)
        half = take(second, "weight", None, 3) if self.last == "conv" else Blob(draft.blob(zeros), zeros.shape)
        whole = Stack(0, (take(first, "weight", None, 3), half))
        draft.source(port.node, "weight", Fill("ones") if self.last == "fill" else whole)


def trained(kind: type[torch.optim.Optimizer], **options: object) -> tuple[Model, torch.optim.Optimizer]:
    model = lived(small_resnet(), dtype=torch.float64)
    groups = [
        {"params": [p for n, p in model.named_parameters() if (n == "conv1.weight") is mine], "name": name}
        for mine, name in ((False, "rest"), (True, "stem"))
    ]
    optimizer = kind(groups, lr=1e-2, **options)
    for seed in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model.train()(images(6, 8, seed, torch.float64)), torch.arange(6) % 3)
        loss.backward()
        optimizer.step()
    return model, optimizer


def clones(state: dict) -> dict:
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_weight_that_is_cut_and_joined_again_has_the_state_it_had(kind: str) -> None:
    model, optimizer = (
        trained(torch.optim.Adam, amsgrad=True) if kind == "adam" else trained(torch.optim.SGD, momentum=0.9)
    )
    whole = clones(optimizer.state[model.get_parameter("conv1.weight")])
    model.apply(Split(), WHOLE, optimizers=[optimizer])
    for label, rows in HALVES.items():
        part = optimizer.state[model.get_parameter(f"{label}.weight")]
        assert part.keys() == whole.keys()
        for key, value in part.items():
            assert torch.equal(value, whole[key] if key == "step" else whole[key][rows]), (label, key)
    stem = [id(p) for p in optimizer.param_groups[1]["params"]]
    assert stem == [id(model.get_parameter(f"{label}.weight")) for label in HALVES]  # the group of what they were
    if kind == "adam":
        steps = [optimizer.state[model.get_parameter(f"{label}.weight")]["step"] for label in HALVES]
        assert steps[0].data_ptr() != steps[1].data_ptr()
        steps[1] += 5
    model.apply(Join(), WHOLE, optimizers=[optimizer])
    joined = model.get_parameter("joined.weight")
    assert same_tensors(optimizer.state[joined], whole)  # the step counter is that of the first part
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(joined)]
    assert set(optimizer.state) == set(model.parameters())
    optimizer.step()


def test_copies_of_a_living_weight_start_without_state() -> None:
    model, optimizer = trained(torch.optim.Adam)
    before = optimizer.state[model.get_parameter("conv1.weight")]
    model.apply(Split(keep=True), WHOLE, optimizers=[optimizer])
    assert optimizer.state[model.get_parameter("conv1.weight")] is before
    for label in HALVES:
        parameter = model.get_parameter(f"{label}.weight")
        assert parameter not in optimizer.state
        assert any(parameter is p for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("last", ["blob", "fill"])
def test_a_weight_of_which_a_part_is_new_starts_without_state(last: str) -> None:
    model, optimizer = trained(torch.optim.Adam)
    model.apply(Split(), WHOLE, optimizers=[optimizer])
    model.apply(Join(last=last), WHOLE, optimizers=[optimizer])
    joined = model.get_parameter("joined.weight")
    assert joined not in optimizer.state and set(optimizer.state) == set(model.parameters()) - {joined}
    expected = torch.ones(4, 3, 3, 3) if last == "fill" else torch.zeros(2, 3, 3, 3)
    assert torch.equal(joined.detach()[-len(expected) :], expected.double())


def test_parts_of_two_optimizers_join_without_state_and_in_one_of_them() -> None:
    model, _ = trained(torch.optim.Adam)
    model.apply(Split(), WHOLE)
    named = dict(model.named_parameters())
    parts = [[p for n, p in named.items() if (n == "conv.1.weight") is mine] for mine in (False, True)]
    pair = [torch.optim.Adam(part) for part in parts]
    model(images(6, 8, dtype=torch.float64)).square().sum().backward()
    for optimizer in pair:
        optimizer.step()
    model.apply(Join(), WHOLE, optimizers=pair)
    joined = model.get_parameter("joined.weight")
    assert not any(joined in optimizer.state for optimizer in pair)
    assert sum(joined is p for o in pair for group in o.param_groups for p in group["params"]) == 1


def test_a_part_without_state_yet_leaves_the_whole_without() -> None:
    model, optimizer = trained(torch.optim.SGD, momentum=0.9)
    model.apply(Split(), WHOLE, optimizers=[optimizer])
    optimizer.state.pop(model.get_parameter("conv.1.weight"))
    model.apply(Join(), WHOLE, optimizers=[optimizer])
    assert model.get_parameter("joined.weight") not in optimizer.state
    assert set(optimizer.state) == set(model.parameters()) - {model.get_parameter("joined.weight")}


def test_the_old_model_runs_on_until_the_new_one_takes_over() -> None:
    model, _ = trained(torch.optim.Adam)
    x = images(4, 8, dtype=torch.float64)
    before, weights = model.eval()(x).detach(), {name: t.clone() for name, t in model.state_dict().items()}
    new = model.rewritten(Split().attempt(model.graph, WHOLE))
    assert torch.equal(model(x), before) and same_tensors(model.state_dict(), weights)
    assert float((new.eval()(x) - before).detach().abs().max()) <= 1e-12


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_rewrite_that_fails_at_any_array_leaves_model_and_optimizer_as_they_were(
    kind: type[torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained(kind, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    rewrite = Split().attempt(model.graph, WHOLE)
    weights = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    gradients = {p: p.grad.clone() for p in model.parameters() if p.grad is not None}
    states = {p: {n: torch.as_tensor(v).clone() for n, v in s.items()} for p, s in optimizer.state.items()}
    members = [list(map(id, group["params"])) for group in optimizer.param_groups]
    whole, left = TorchArrays.take, 0

    def take(self: TorchArrays, *args: Any) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return whole(self, *args)

    monkeypatch.setattr(TorchArrays, "take", take)
    failures = 0
    while True:
        left = failures
        try:
            model.apply(rewrite, optimizers=[optimizer])
            break
        except MemoryError:
            failures += 1
        assert model.graph is rewrite.before
        now = model.state_dict(keep_vars=True)
        assert all(now[name] is t and torch.equal(t, copy) for name, (t, copy) in weights.items())
        assert all(same_tensors(dict(optimizer.state[p]), state) for p, state in states.items())
        assert gradients and all(p.grad is not None and torch.equal(p.grad, copy) for p, copy in gradients.items())
        assert [list(map(id, group["params"])) for group in optimizer.param_groups] == members
        assert optimizer.state.keys() == states.keys()
    # two halves of the weight, of its gradient and of each moment
    assert failures == (6 if kind is torch.optim.SGD else 8)
    assert model.graph is rewrite.graph and optimizer.state.keys() == set(model.parameters())
