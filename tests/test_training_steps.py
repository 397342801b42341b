"""Single training steps on every device against float64: gradients, updates of every optimizer, averages.

Whole epochs are not compared with bounds: training amplifies rounding, so that after an epoch two right devices differ
by whatever that network amplifies. One step from one state can be bounded from what is computed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from device_sessions import DEVICES, OPTIMIZERS, opened
from grown import pyramid
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from nasir.backends.torch.model import Model
from nasir.backends.torch.optimizers.groups import build_optimizer, decays
from nasir.backends.torch.session import TorchSession
from nasir.training.plans import OptimizerPlan, TrainPlan

UNIT = 2.0**-24  # unit roundoff of float32: an operation's result is within this, relatively, of the true one
SMOOTHING, CLIP, EMA = 0.1, 0.5, 0.9
SIZE, BATCH = 8, 8
# the longest sum of the network and its gradients: over the batch and all positions (statistics and scales of norms,
# weights of convolutions); a convolution sums 9 * 16 products at most
TERMS = BATCH * SIZE * SIZE
# Rounding errors that are independent with mean 0 leave a sum of n terms within LIKELY * sqrt(n) * u of the sum of the
# terms' magnitudes, but for a probability of 2 n exp(-LIKELY**2 / 2) (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019,
# theorem 2.4): 2e-5 here
LIKELY = 6.0
# A sum of perturbed terms moves by a norm of its terms, not by their magnitudes' sum, and several perturbations add as
# squares: sqrt(n) of the theorem is counted once, as a factor of what perturbing by u does
BOUND = LIKELY * TERMS**0.5 * UNIT
NUDGE = 1e-9  # relative perturbation in float64: far above its rounding, far below every distance to a kink


class Altered(TorchDispatchMode):
    """In a `with`: operations read altered operands, forwards and backwards, and give altered results.

    `kept` are addresses of tensors that stay themselves: batch norm moves its statistics in place without saying so.
    `nearest` is the smallest magnitude that a ReLU was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[int] = set()
        self.nearest = float("inf")

    def alter(self, value: Any, operation: str) -> Any:
        """What is read in the place of an operand, or given in the place of a result."""
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        schema = func._schema
        if schema.name in ("aten::relu", "aten::relu_"):
            self.nearest = min(self.nearest, float(args[0].abs().min()))
        aliases = [argument.alias_info for argument in schema.arguments]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return func(*args, **(kwargs or {}))  # a view: a name for memory, no numbers
        written = {index for index, alias in enumerate(aliases) if alias is not None}

        def altered(value: Any) -> Any:
            floats = isinstance(value, Tensor) and value.dtype == torch.float64
            return self.alter(value, schema.name) if floats and value.data_ptr() not in self.kept else value

        read = [arg if index in written else tree_map(altered, arg) for index, arg in enumerate(args)]
        result = func(*read, **(kwargs or {}))
        return result if written else tree_map(altered, result)


class Perturbed(Altered):
    """Every operand and every result is wrong by an independent relative error of standard deviation `NUDGE`.

    What that changes, divided by NUDGE, is the condition of a result: how many times the relative errors of single
    operations it magnifies, to first order.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def alter(self, value: Tensor, operation: str) -> Tensor:
        return value * (1 + NUDGE * torch.randn(value.shape, generator=self.random, dtype=torch.float64))


class Tf32(Altered):
    """Products of matrices and convolutions read operands of 11 significant bits, as TF32 does."""

    def alter(self, value: Tensor, operation: str) -> Tensor:
        if not any(word in operation for word in ("convolution", "mm")):
            return value
        mantissa, exponent = torch.frexp(value)
        return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


def reference(state: Mapping[str, Tensor], x: Tensor, y: Tensor, mode: Altered) -> dict[str, Tensor]:
    """Loss, gradients and moved statistics of one step in float64 on the CPU."""
    model = Model.from_graph(network(), dtype=torch.float64)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in state:
                tensor.copy_(state[name])
    mode.kept = {buffer.data_ptr() for buffer in model.buffers()}
    with mode:
        loss = F.cross_entropy(model(x), y, label_smoothing=SMOOTHING)
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    moved = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {"loss": loss.detach(), **grads, **moved}


def conditions(state: Mapping[str, Tensor], x: Tensor, y: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """The condition of every tensor of `reference`, in the norm: the largest of four perturbations."""
    shaken = [reference(state, x, y, Perturbed(seed)) for seed in range(4)]
    return {name: max(float((s[name] - t).norm()) for s in shaken) / NUDGE for name, t in wanted.items()}


def shares(
    actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor], condition: Mapping[str, float]
) -> dict[str, float]:
    """Errors as shares of their bounds. What is written in place is not perturbed, so that the two products and the sum
    that move an average count by themselves."""
    bound = {name: BOUND * condition[name] + 3 * UNIT * float(tensor.norm()) for name, tensor in wanted.items()}
    return {name: float((actual[name] - tensor).norm()) / bound[name] for name, tensor in wanted.items()}


def network() -> Any:
    return pyramid((1, 1, 1), 4, size=SIZE)


@contextmanager
def recorded(session: TorchSession) -> Iterator[list[dict[str, Tensor]]]:
    """In a `with`: the gradients of each step as they come out of the backward pass, before they are clipped."""
    steps: list[dict[str, Tensor]] = []

    def keep(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if not steps or name in steps[-1]:
                steps.append({})
            assert parameter.grad is not None
            steps[-1][name] = parameter.grad.detach().clone()

        return hook

    handles = [p.register_post_accumulate_grad_hook(keep(name)) for name, p in session.model.named_parameters()]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in float64 on the CPU, copied."""
    return {name: t.detach().cpu().double().clone() for name, t in tensors.items() if t.is_floating_point()}


def plan_of(kind: str) -> TrainPlan:
    return TrainPlan(OPTIMIZERS[kind], precision="fp32", gradient_clip=CLIP, label_smoothing=SMOOTHING, ema_decay=EMA)


def first_step(folder: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """(state before, what a session's first step computes, its batch) on a device, in float64 on the CPU."""
    session = opened(folder, plan_of("sgd"), network(), device=device, size=SIZE, batch=BATCH)
    before = host(session.model.state_dict())
    x, y = next(iter(session.source.batches(0)))
    with recorded(session) as steps:
        stretch = session.train(0, 0, None, lambda: True)
    moved = {name: t for name, t in session.model.named_buffers() if t.is_floating_point()}
    loss = torch.tensor(stretch.metrics["train.loss"], dtype=torch.float64)
    after = {"loss": loss, **host(steps[0]), **host(moved)}
    session.close()
    return before, after, x.cpu().double(), y.cpu()


def test_gradients_of_a_step_are_right_to_float32(device: str, tmp_path: Path) -> None:
    """For the loss, each gradient and each statistic, in the norm."""
    before, actual, x, y = first_step(tmp_path, device)
    plain = Altered()
    wanted = reference(before, x, y, plain)
    assert actual.keys() == wanted.keys()
    condition = conditions(before, x, y, wanted)
    assert plain.nearest > BOUND  # no ReLU, of inputs of order 1, stands so near its kink that rounding tips it
    share = shares(actual, wanted, condition)
    assert max(share.values()) <= 1, {name: value for name, value in share.items() if value > 1}


def test_tf32_would_miss_the_bound_of_float32(tmp_path: Path) -> None:
    before, _, x, y = first_step(tmp_path, "cpu")
    wanted = reference(before, x, y, Altered())
    condition = conditions(before, x, y, wanted)
    rounded = reference(before, x, y, Tf32())
    share = shares(rounded, wanted, condition)
    assert min(value for name, value in share.items() if name != "loss") > 1


# -- updates: the rule in float64, fed with the very gradients that the device computed


class Rule:
    """One parameter under an optimizer's published rule, in float64, with a bound on float32's error beside it.

    An update is a handful of operations on numbers of known magnitude; `moved` and the like are those magnitudes,
    computed like the values but of absolute values throughout, so that cancellation cannot make them small. Each
    step does at most `ROUNDED` roundings on the way to a parameter, each of relative size UNIT: after t steps the error
    is within t * ROUNDED * UNIT times the magnitudes.
    """

    # decay, gradient plus decay, two products and a sum for each moment, two bias corrections, root, epsilon, quotient,
    # product with the rate, difference; and, as kernels differ, the constants' own rounding
    ROUNDED = 20

    def __init__(self, value: Tensor, plan: OptimizerPlan, decay: float) -> None:
        self.plan, self.decay = plan, decay
        self.value, self.size = value.clone(), value.abs()
        self.first = self.first_size = self.second = torch.zeros_like(value)
        self.steps = 0

    def step(self, gradient: Tensor, blur: float = 0.0) -> None:
        """`blur`: relative error that the gradient already has, in units of UNIT."""
        self.steps += 1
        (self._sgd if self.plan.kind == "sgd" else self._adam)(gradient, gradient.abs() * (1 + blur))

    def _sgd(self, gradient: Tensor, size: Tensor) -> None:
        gradient, size = gradient + self.decay * self.value, size + self.decay * self.size
        m = self.plan.momentum
        self.first, self.first_size = m * self.first + gradient, m * self.first_size + size
        change, change_size = self.first, self.first_size
        if self.plan.nesterov:
            change, change_size = gradient + m * self.first, size + m * self.first_size
        self.value, self.size = self.value - self.plan.lr * change, self.size + self.plan.lr * change_size

    def _adam(self, gradient: Tensor, size: Tensor) -> None:
        lr, (b1, b2) = self.plan.lr, self.plan.betas
        if self.plan.kind == "adamw":
            self.value, self.size = self.value * (1 - lr * self.decay), self.size * (1 + lr * self.decay)
        else:
            gradient, size = gradient + self.decay * self.value, size + self.decay * self.size
        self.first, self.first_size = b1 * self.first + (1 - b1) * gradient, b1 * self.first_size + (1 - b1) * size
        self.second = b2 * self.second + (1 - b2) * gradient**2  # all terms positive: no cancellation to allow for
        root = (self.second / (1 - b2**self.steps)).sqrt() + self.plan.eps
        scale = lr / (1 - b1**self.steps)
        self.value, self.size = self.value - scale * self.first / root, self.size + scale * self.first_size / root

    def check(self, actual: Tensor, name: str) -> float:
        """The largest error as a share of its bound, which is asserted."""
        bound = self.steps * self.ROUNDED * UNIT * self.size
        error = (actual.detach().cpu().double() - self.value).abs()
        assert bool((error <= bound).all()), (name, float((error / bound).max()))
        return float((error / bound.clamp(min=1e-300)).max())


KINDS = {
    **OPTIMIZERS,
    "plain": OptimizerPlan("sgd", lr=0.1, momentum=0.0, weight_decay=1e-3),
    "adam": OptimizerPlan("adam", lr=1e-3, weight_decay=1e-2),
}


@pytest.mark.parametrize("fused", [False, True], ids=["stepwise", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_those_of_the_rule(kind: str, fused: bool, device: str) -> None:
    """Gradients of all magnitudes, among them those so near 0 that Adam's division blows them up to whole steps."""
    plan = KINDS[kind]
    random = torch.Generator().manual_seed(1)
    shapes = {"conv": ((6, 4, 3, 3), frozenset({"decay"})), "scale": ((16,), frozenset({"norm"}))}
    start = {name: torch.randn(shape, generator=random) for name, (shape, _) in shapes.items()}
    parameters = {name: torch.nn.Parameter(value.to(device)) for name, value in start.items()}
    tagged = [(name, parameters[name], tags) for name, (_, tags) in shapes.items()]
    optimizer = build_optimizer(tagged, plan, fused=fused)
    rules = {
        name: Rule(start[name].double(), plan, plan.weight_decay if decays(tags, plan) else 0.0)
        for name, _, tags in tagged
    }
    for _ in range(5):
        for name, parameter in parameters.items():
            gradient = torch.randn(parameter.shape, generator=random)
            gradient *= 10.0 ** -torch.randint(0, 13, parameter.shape, generator=random)
            parameter.grad = gradient.to(device)
            rules[name].step(gradient.double())
        optimizer.step()
        for name, parameter in parameters.items():
            rules[name].check(parameter, name)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_session_clips_updates_and_averages_by_the_rules(kind: str, device: str, tmp_path: Path) -> None:
    """Three steps of a session, each from the gradients that it computed itself."""
    plan = plan_of(kind)
    session = opened(tmp_path, plan, network(), device=device, size=SIZE, batch=BATCH)
    tags = {name: session.model.graph.infer.slots[k.node][k.slot].tags for name, k in session.model.keys().items()}
    decay = plan.optimizer.weight_decay
    before = host(dict(session.model.named_parameters()))
    rules = {
        name: Rule(value, plan.optimizer, decay if decays(tags[name], plan.optimizer) else 0.0)
        for name, value in before.items()
    }
    averages = {name: (value, value.abs()) for name, value in before.items()}
    values: list[dict[str, Tensor]] = []
    done = iter([False, False, True])

    def after_each() -> bool:
        values.append(host(dict(session.model.named_parameters())))
        return next(done)

    with recorded(session) as steps:
        session.train(0, 0, None, after_each)
    assert len(steps) == len(values) == 3
    clipped = 0
    for number, gradients in enumerate(steps):
        grads = host(gradients)
        norm = float(sum(g.square().sum() for g in grads.values())) ** 0.5
        clipped += norm > CLIP
        factor = min(1.0, CLIP / (norm + 1e-6))  # torch's
        # the norm is the root of a sum of positive terms: relative error LIKELY * sqrt(n) * u / 2 at most; once for the
        # gradient and once for the root of its square that Adam divides by
        blur = LIKELY * sum(g.numel() for g in grads.values()) ** 0.5
        for name, gradient in grads.items():
            rules[name].step(gradient * factor, blur / Rule.ROUNDED if norm > CLIP else 0.0)
            rules[name].check(values[number][name], name)
            old, size = averages[name]
            new, decay = values[number][name], min(EMA, (1 + number) / (10 + number))
            averages[name] = decay * old + (1 - decay) * new, decay * size + (1 - decay) * new.abs()
    assert clipped > 0
    assert session.ema is not None
    for name, (value, size) in averages.items():
        error = (session.ema.tensors[name].cpu().double() - value).abs()
        assert bool((error <= 3 * 4 * UNIT * size).all()), name  # a difference, a product, a sum, and the constant
    session.close()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
