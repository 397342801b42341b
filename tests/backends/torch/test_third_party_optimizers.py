"""Optimizers of other packages go on right through every rewrite, or are refused before anything changes.

A package that is not installed is skipped; `schedulefree`, `timm` and `lion-pytorch` are in the extra `dev`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import lived
from networks import small_resnet
from optimizer_laws import REWRITES, Subject, check_replicas, check_rewrite, refused
from torch import Tensor
from torch.optim import Optimizer

from nasir.registry import optimizer_states
from nasir.testing.backend_contract import Resize
from nasir.training import Keeps
from nasir.training.shipped_states import LION_PYTORCH, SCHEDULE_FREE, TIMM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

MANY = [pytest.mark.slow, pytest.mark.zoo]
QUICK = {("schedulefree.SGDScheduleFree", "prune"), ("schedulefree.AdamWScheduleFree", "insert"),
         ("lion_pytorch.Lion", "widen the stream"), ("timm.optim.Adan", "insert")}  # fmt: skip
OPTIONS: Mapping[str, Mapping[str, Any]] = {  # with which each keeps all that it can
    "AdaBelief": {"amsgrad": True},
    "AdafactorBigVision": {"momentum_dtype": torch.float32},
    "Lamb": {"max_grad_norm": None},  # the length of all gradients together is not that of one network's
    "Lars": {"momentum": 0.9},
    "RMSpropTF": {"momentum": 0.9, "centered": True},
    "SGDP": {"momentum": 0.9},
    "SGDW": {"momentum": 0.9, "nesterov": True},
}
TINY = 1e-300  # a rate at which no weight moves
APART: Mapping[str, Sequence[str]] = {  # keys that are not what gradients made of them, so early or at rate 0
    "Adafactor": ("RMS",),  # of the weights at the last step
    "Lars": ("momentum_buffer",),  # of lengths of whole layers
    "RMSpropTF": ("square_avg", "momentum_buffer"),  # begins with ones
}


def registered() -> list[str]:
    names = [f"schedulefree.{name}" for name in SCHEDULE_FREE if "Wrapper" not in name]
    names += [f"lion_pytorch.{name}" for name in LION_PYTORCH]
    return names + [f"timm.optim.{name}" for name in TIMM if name != "Lookahead"]


def all_of(package: str) -> list[Any]:
    """Its optimizers."""
    found = pytest.importorskip(package if package != "timm" else "timm.optim", reason=f"{package} is not installed")
    if package == "timm":
        kinds = [found.get_optimizer_info(name).opt_class for name in found.list_optimizers()]
    elif package == "torch_optimizer":
        kinds = [kind for kind in vars(found).values() if inspect.isclass(kind)]
    else:
        kinds = list(found.OPTIMIZERS.values())
    return [
        kind
        for kind in dict.fromkeys(kinds)
        if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind.__module__.startswith(package)
    ]


def kind_of(path: str) -> Any:
    package, _, name = path.rpartition(".")
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    found = getattr(module, name, None)
    if found is None:
        pytest.skip(f"this release of {package} has no {name}")
    return found


def made(kind: Any, lr: float, options: Mapping[str, Any], named: Sequence[tuple[str, Tensor]]) -> Any:
    optimizer = kind([p for _, p in named], lr=lr, **options)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def how(kind: Any) -> dict[str, Any]:
    return {"curved": "essian" in kind.__name__, "closure": kind.__name__.endswith("Closure")}


@pytest.mark.parametrize(
    ("path", "what"),
    [
        pytest.param(path, what, marks=[] if (path, what) in QUICK else MANY)
        for path in registered()
        for what in REWRITES
    ],
)
def test_what_is_registered_goes_on_right(path: str, what: str, tmp_path: Path) -> None:
    kind = kind_of(path)
    make = partial(made, kind, 0.01, OPTIONS.get(kind.__name__, {}))
    assert check_rewrite(what, make, tmp_path / "kept", **how(kind)) is None


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("path", registered())
def test_its_state_of_replicas_is_that_of_units_that_always_were(path: str) -> None:
    kind = kind_of(path)
    make = partial(made, kind, TINY, OPTIONS.get(kind.__name__, {}))
    assert check_replicas(make, APART.get(kind.__name__, ()), **how(kind)) is None


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("package", ["timm"])
@pytest.mark.parametrize("what", [*REWRITES, "replicas"])
def test_of_all_others_each_goes_on_right_or_is_refused(package: str, what: str, tmp_path: Path) -> None:
    """By what can be seen of it alone."""
    wrong: dict[str, str] = {}
    for kind in (kind for kind in all_of(package) if "essian" not in kind.__name__):  # which need second gradients
        options = OPTIONS.get(kind.__name__, {})
        subject = Subject(partial(made, torch.optim.SGD, 0.1, {}))
        try:
            made(kind, 0.01, options, list(subject.model.named_parameters()))
        except Exception:  # it wants more than parameters and a rate
            continue
        try:
            if what == "replicas":
                check_replicas(partial(made, kind, TINY, options), APART.get(kind.__name__, ()), **how(kind))
            else:
                check_rewrite(what, partial(made, kind, 0.01, options), tmp_path / "kept", **how(kind))
        except Exception as error:
            wrong[kind.__name__] = f"{type(error).__name__}: {error}"
    assert not wrong


class Sharp(Optimizer):
    """Sharpness-aware minimization as it is usually written: another optimizer steps with the gradients nearby."""

    def __init__(self, params: Any, base: type[Optimizer], rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.stack([p.grad.norm() for p in moving]).norm() if moving else torch.ones(())
            for p in moving:
                self.state[p]["old_p"] = p.clone()
                p.add_(p.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)))
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p in moving:
                p.copy_(self.state[p]["old_p"])
        self.base_optimizer.step()


class Registered(Sharp):
    """The same, with what it keeps registered."""


@pytest.fixture(autouse=True)
def registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_states, "_objects", dict(optimizer_states._objects))
    optimizer_states.register(f"{__name__}.Registered")(Keeps({"old_p": "weight"}))


def sharp(kind: type[Sharp], named: Sequence[tuple[str, Tensor]], lr: float = 0.01) -> Optimizer:
    return kind([p for _, p in named], torch.optim.AdamW, lr=lr, amsgrad=True)


@pytest.mark.parametrize("what", REWRITES)
def test_an_optimizer_around_another_goes_with_it(what: str, tmp_path: Path) -> None:
    """The state of both, also where the inner one is given too."""
    subject = Subject(partial(sharp, Registered), closure=True)
    subject.optimizers.append(subject.optimizers[0].base_optimizer)
    subject.apply(*REWRITES[what])
    assert check_rewrite(what, partial(sharp, Registered), tmp_path / "kept", closure=True) is None


def test_an_optimizer_around_another_that_keeps_what_nobody_knows_is_refused() -> None:
    subject = Subject(partial(sharp, Sharp), closure=True)
    subject.train(2)
    told = refused(subject, *REWRITES["prune"])
    assert told is not None
    assert "optimizer Sharp(AdamW): nothing says what its state 'old_p' holds" in told
    assert f'optimizer_states.register("{__name__}.Sharp")' in told


def test_an_optimizer_around_another_with_groups_of_its_own_is_refused() -> None:
    def apart(named: Sequence[tuple[str, Tensor]]) -> Optimizer:
        made = sharp(Registered, named)
        made.param_groups = [dict(group) for group in made.param_groups]
        return made

    told = refused(Subject(apart, closure=True), *REWRITES["prune"])
    assert told is not None and "it wraps AdamW, and both have groups of their own" in told


@pytest.mark.parametrize("what", REWRITES)
@pytest.mark.parametrize("around", ["schedulefree.ScheduleFreeWrapper", "timm.optim.Lookahead"])
def test_wrappers_of_packages_go_on_right(around: str, what: str, tmp_path: Path) -> None:
    def make(named: Sequence[tuple[str, Tensor]]) -> Any:
        options = {"k": 2} if around.endswith("Lookahead") else {}
        wrapper = kind_of(around)(torch.optim.SGD([p for _, p in named], lr=0.01, momentum=0.9), **options)
        if hasattr(wrapper, "train"):
            wrapper.train()
        return wrapper

    assert check_rewrite(what, make, tmp_path / "kept") is None


@pytest.mark.parametrize("what", REWRITES)
def test_the_optimizer_of_a_launcher_goes_on_right(what: str, tmp_path: Path) -> None:
    """It hands out the state of the one that it wraps."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerate.Accelerator(cpu=True)

    def make(named: Sequence[tuple[str, Tensor]]) -> Any:
        inner = torch.optim.AdamW([p for _, p in named], lr=0.01)
        return accelerate.optimizer.AcceleratedOptimizer(inner, device_placement=False)

    assert check_rewrite(what, make, tmp_path / "kept") is None


@pytest.mark.parametrize("kind", ["SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree"])
def test_a_schedule_free_network_is_rewritten_in_either_mode(kind: str) -> None:
    """What it evaluates and what it trains are both rewritten, whichever of the two the network has at the time."""
    networks = []
    for evaluating in (False, True):
        subject = Subject(partial(made, kind_of(f"schedulefree.{kind}"), 0.01, {}))
        subject.train(3)
        if evaluating:
            subject.optimizers[0].eval()
        subject.apply(*REWRITES["branches"])
        subject.apply(Resize((*range(4), 0)), "conv1")
        subject.apply(*REWRITES["insert"])
        subject.optimizers[0].train()
        subject.train(2, first=3)
        subject.optimizers[0].eval()
        networks.append(subject.model)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


class Quantized(torch.optim.SGD):
    """Keeps its averages in eight bits, under the names of torch and as optimizers of low precision do."""

    how = "bytes"

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            code = (p.detach() * 100).to(torch.int8)
            kept = {
                "bytes": code,
                "blocks": code.float().reshape(-1),
                "sparse": code.float().to_sparse(),
                "list": [code],
            }
            self.state[p]["exp_avg"] = kept[self.how]


@pytest.mark.parametrize("form", ["bytes", "blocks", "sparse", "list"])
@pytest.mark.parametrize("what", ["prune", "widen the stream", "split"])
def test_state_that_is_not_a_dense_number_for_each_weight_is_refused(
    form: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quantized, "how", form)
    subject = Subject(partial(made, Quantized, 0.1, {}))
    subject.train(1)
    told = refused(subject, *REWRITES[what])
    assert told is not None
    assert "optimizer Quantized: its state 'exp_avg' is a" in told and "make it anew" in told


@pytest.mark.parametrize("path", ["bitsandbytes.optim.AdamW8bit", pytest.param("torchao.optim.AdamW8bit", marks=MANY)])
def test_optimizers_in_eight_bits_are_refused_where_state_has_to_move(path: str) -> None:
    kind = kind_of(path)
    for what, carried in (("prune", False), ("insert", True), ("remove", True)):
        wide = lived(small_resnet((2, 1), width=32))
        subject = Subject(partial(made, kind, 0.01, {}), wide, dtype=torch.float32)
        try:
            subject.train(1)
        except Exception as error:
            pytest.skip(f"{path} does not run here: {type(error).__name__}")
        change, site = REWRITES[what]
        told = refused(subject, Resize(tuple(range(16))) if what == "prune" else change, site)
        assert (told is None) == carried, told


class Likely(Optimizer):
    """Nothing is registered for it, and it uses a name of torch's."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["momentum_buffer"] = p.detach().clone()


@pytest.mark.parametrize(
    ("index", "fits"), [((2, 0), True), ((0, 1, 2, 3, -1), False), ((0, 1, 2, 3, 0), False), ((3, 1, 0, 2), True)]
)
def test_what_is_likely_is_picked_and_no_more(index: tuple[int, ...], fits: bool) -> None:
    subject = Subject(lambda named: Likely([p for _, p in named], {}))
    subject.train(1)
    told = refused(subject, Resize(index), "s1.0.conv1")
    if fits:
        weight = subject.model.get_parameter("s1.0.conv1.weight")
        assert told is None and torch.equal(subject.state(weight)["momentum_buffer"], weight)
    else:
        assert told is not None and "'momentum_buffer' has to be made up for new units or scaled" in told


def test_new_parameters_of_an_optimizer_that_counts_by_group_need_one_without_a_schedule() -> None:
    subject = Subject(partial(made, kind_of("schedulefree.SGDScheduleFree"), 0.01, {}))
    torch.optim.lr_scheduler.StepLR(subject.optimizers[0], 5)
    subject.train(1)
    told = refused(subject, *REWRITES["insert"])
    assert told is not None and "it counts k, lr_max, weight_sum for all parameters of a group" in told
