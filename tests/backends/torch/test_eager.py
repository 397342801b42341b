"""Optimizers without torch's compiler: the same steps, hooks and all, in a process that starts sooner."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from nasir.backends.torch.optimizers import eager
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.training.plans import OptimizerPlan

PLANS = [
    OptimizerPlan("sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    OptimizerPlan("adam", lr=0.01, weight_decay=0.01),
    OptimizerPlan("adamw", lr=0.01, weight_decay=0.01),
]


def trained(plan: OptimizerPlan, heard: list[str]) -> list[torch.Tensor]:
    """Weights and optimizer state after three steps."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = build_optimizer([("weight", weight, frozenset())], plan)
    optimizer.register_step_pre_hook(lambda *given: heard.append("before"))
    optimizer.register_step_post_hook(lambda *given: heard.append("after"))
    for _ in range(3):
        eager.clear_gradients(optimizer)
        (weight * torch.randn(3, 4)).square().sum().backward()
        eager.step(optimizer)
    assert weight.grad is not None
    eager.clear_gradients(optimizer)
    assert weight.grad is None
    state: dict[str, Any] = optimizer.state[weight]
    return [weight.detach(), *(value for value in state.values() if isinstance(value, torch.Tensor))]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kind)
def test_steps_are_those_of_the_optimizer_itself(plan: OptimizerPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: dict[str, list[torch.Tensor]] = {}
    heard: dict[str, list[str]] = {"os": [], "no.such.module": []}
    for compiler in heard:  # one that is loaded, and one that is not
        monkeypatch.setattr(eager, "COMPILER", compiler)
        tensors[compiler] = trained(plan, heard[compiler])
    assert all(torch.equal(*pair) for pair in zip(*tensors.values(), strict=True))
    assert heard["os"] == heard["no.such.module"] == ["before", "after"] * 3


def test_a_profiler_sees_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "COMPILER", "no.such.module")
    with torch.autograd.profiler.profile() as profile:
        trained(PLANS[0], [])
    assert any("Optimizer.step#SGD" in event.name for event in profile.function_events)


def test_a_process_that_compiles_nothing_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from nasir.backends.torch.optimizers import eager\n"
        "from nasir.backends.torch.optimizers.groups import build_optimizer\n"
        "from nasir.training.plans import OptimizerPlan\n"
        "weight = torch.nn.Parameter(torch.ones(2))\n"
        "for kind in ('sgd', 'adam', 'adamw'):\n"
        "    optimizer = build_optimizer([('weight', weight, frozenset())], OptimizerPlan(kind, lr=0.1))\n"
        "    weight.sum().backward()\n"
        "    if eager._plain(optimizer) is None:\n"
        "        sys.exit('wrapped otherwise')\n"
        "    eager.step(optimizer)\n"
        "    eager.clear_gradients(optimizer)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.stderr.startswith("wrapped otherwise"):
        pytest.skip(f"torch {torch.__version__} wraps its optimizers in another way, which is used as it is")
    assert done.returncode == 0, done.stderr
