"""What cannot be recorded is refused with its place, and nothing of the module has changed by then."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasir.backends.torch.importing import record
from nasir.errors import NasirError, UsageError

OUTSIDE = torch.ones(4)


class Inner(nn.Module):
    """Calls a function with itself and its input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("seen", torch.zeros(4))
        self.norm = nn.BatchNorm1d(4)
        self.plain = torch.ones(4)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def caught(self: Inner, x: Tensor) -> Tensor:
    try:
        return x if bool(x.sum() > 0) else -x
    except Exception:
        return x


def branch(self: Inner, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def loop(self: Inner, x: Tensor) -> Tensor:
    for _ in range(int(x.argmax())):
        x = x + 1
    return x


def set_data(self: Inner, x: Tensor) -> Tensor:
    x.data = x.data * 2
    return x


def written_by_both(self: Inner, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.norm.running_mean.add_(1)
    return self.norm(x)


def assigned(self: Inner, x: Tensor) -> Tensor:
    y = x * self.scale
    self.scale = nn.Parameter(torch.zeros(4))
    return y


def statistics_of_a_view(self: Inner, x: Tensor) -> Tensor:
    mean, var = torch.zeros(2, 4), torch.ones(4)
    x = nn.functional.batch_norm(x, mean[0], var, training=self.training)
    return x - mean[1]


def two_views(self: Inner, x: Tensor) -> Tensor:
    y = self.linear(x)
    z = y.as_strided((4,), (1,))
    z.mul_(2)
    return y


def without_gradient(self: Inner, x: Tensor) -> Tensor:
    y = self.linear(x) * 1
    with torch.no_grad():
        y.mul_(2)
    return y


def compiled_to_script(thing: Any) -> Any:
    with warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):  # torch would like to be rid of it, in words of each release
            warnings.simplefilter("ignore", kind)
        return torch.jit.script(thing)


def twice(x: Tensor) -> Tensor:
    return x * 2


SCRIPTED = compiled_to_script(twice)


def local_function(self: Inner, x: Tensor) -> Tensor:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    return Twice.apply(x)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "bool": (branch, r"__bool__\), which depend on the input"),
    "caught": (caught, r"__bool__\), which depend on the input"),
    "int": (loop, r"__int__|__index__"),
    "item": (lambda self, x: x * x.max().item(), r"\(item\), which depend on the input"),
    "tolist": (lambda self, x: x * x.sum(1).tolist()[0], r"\(tolist\)"),
    "numpy": (lambda self, x: x + float(x.detach().numpy().max()), r"\(numpy\)"),
    "array": (lambda self, x: x + float(np.asarray(x.detach()).max()), r"\(__array__\)"),
    "float": (lambda self, x: x * float(x[0, 0]), r"\(__float__\)"),
    "equal": (lambda self, x: x if torch.equal(x, x * 2) else -x, r"\(equal\)"),
    "contains": (lambda self, x: x if 0.5 in x else -x, r"\(__contains__\)"),
    "parameter": (lambda self, x: x * self.scale.sum().item(), "which depend on a parameter"),
    "buffer": (lambda self, x: x if self.seen.sum() > 0 else -x, "which depend on a buffer"),
    "random": (lambda self, x: x if torch.rand(()) < 0.5 else -x, "which depend on random numbers"),
    "python random": (
        lambda self, x: x * random.random(),
        "draws random numbers from Python or numpy with 2 samples in eval mode",
    ),
    "python random in train mode": (
        lambda self, x: x * (random.random() if self.training else 1.0),
        "draws random numbers from Python or numpy with 4 samples in train mode",
    ),
    "numpy random": (lambda self, x: x * (int(np.random.rand() < 2) + 0), "draws random numbers from Python or numpy"),
    "global tensor": (lambda self, x: x + OUTSIDE, r"operand \(4\) of torch.float32 comes from is unknown"),
    "plain attribute": (lambda self, x: x + self.plain, "plain attribute"),
    "output": (lambda self, x: {"x": x, "plain": self.plain}, "the outputs: where its operand"),
    "TorchScript function": (lambda self, x: SCRIPTED(x) + 1, "TorchScript"),
    "legacy constructor": (lambda self, x: x + torch.Tensor([1, 2, 3, 4]), "is unknown"),
    "parameter written": (lambda self, x: x + self.scale.data.mul_(2), "writes into the parameter 1.scale"),
    "statistics of a view": (statistics_of_a_view, "batch_norm .* an operand beside its result"),
    "parameter assigned": (assigned, "forward assigns the parameter 1.scale"),
    "parameter's view written": (
        lambda self, x: x + self.linear.weight.detach()[0].add_(1),
        "writes into the parameter 1.linear.weight",
    ),
    "data": (set_data, r"assigns to `.data`"),
    "out": (lambda self, x: x + torch.add(torch.ones(4), 1, out=torch.empty(4)), "an operand beside its result"),
    "resize": (lambda self, x: x.clone().resize_(3), "resize_ .*gives a tensor other memory"),
    "detach_": (lambda self, x: self.linear(x).detach_(), "cuts gradients in place"),
    "form of shared memory": (lambda self, x: [y := x * 2, y[0], y.unsqueeze_(0)][2], "form of a tensor that others"),
    "gradient": (lambda self, x: torch.autograd.grad(self.linear(x).sum(), [self.scale])[0], "inside forward|failed"),
    "backward": (lambda self, x: self.linear(x).sum().backward(), "computes gradients inside forward"),
    "buffer written by both": (written_by_both, "writes into the buffer running_mean before this call"),
    "views": (two_views, "reads a tensor that has changed"),
    "without gradient": (without_gradient, "that gradients flow through, without gradient"),
    "local function": (local_function, "cannot be found again by name"),
    "object": (lambda self, x: {"x": x, "object": object()}, "builtins.object is neither a tensor nor data"),
    "sparse": (lambda self, x: x.to_sparse(), "layout torch.sparse_coo"),
    "generator": (lambda self, x: x + torch.rand(4, generator=torch.Generator()), "Generator is neither a tensor"),
    "raises": (lambda self, x: x @ torch.ones(3), "failed with 2 samples in eval mode: RuntimeError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_flow_is_refused_by_its_place(name: str) -> None:
    function, told = REFUSED[name]
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), Inner(function))
    before = {key: (tensor._version, tensor.clone()) for key, tensor in module.state_dict(keep_vars=True).items()}
    patched = inspect.getattr_static(torch.autograd.Function, "apply"), torch.from_numpy
    with pytest.raises(NasirError, match=told) as raised:
        record(module, (torch.randn(2, 4),))
    assert str(raised.value).startswith("record: ")
    if name in ("bool", "item", "parameter", "buffer", "random", "global tensor", "parameter written", "views"):
        assert "1 (test_record_refusals.Inner), " in str(raised.value)
        line = int(str(raised.value).partition(f"{Path(__file__).name}:")[2].split()[0].rstrip(":,"))
        assert 1 < line < len(Path(__file__).read_text(encoding="utf-8").splitlines())
    for key, tensor in module.state_dict(keep_vars=True).items():
        assert tensor._version == before[key][0] and torch.equal(tensor, before[key][1])
    assert (inspect.getattr_static(torch.autograd.Function, "apply"), torch.from_numpy) == patched


def test_sizes_that_follow_the_data_may_be_used_by_torch_but_not_by_python() -> None:
    routed = Inner(lambda self, x: torch.zeros(4).index_add(0, x.argmax(1), x.sum(1)) + x[x > 0].sum())
    recording = record(routed, (torch.randn(2, 4),))
    picked = next(c for c in recording.calls if c.operation == "torch.Tensor.__getitem__")
    assert recording.values[picked.result.number].shape == (None,)
    half = torch.tensor([[-1.0, 1, -1, 1], [1, 1, -1, -1]])  # as many above 0 in each sample: 2 * B in all
    for function in (
        lambda self, x: x * len(x[x > 0]),
        lambda self, x: x + torch.zeros(torch.nonzero(x > 0).shape[0]).sum(),
        lambda self, x: x + sum(row.sum() for row in torch.nonzero(x > 0)),
        lambda self, x: x * torch.where(x > 0)[0].add(1).numel(),
        lambda self, x: x * x[x > 0].relu().size(0),
    ):
        with pytest.raises(NasirError, match="gives Python a length that follows the numbers of a tensor"):
            record(Inner(function), (half,))


def test_a_comparison_that_is_false_whatever_is_drawn_may_be_asked() -> None:
    skipped = Inner(lambda self, x: x if torch.rand([]) < 0.0 else self.linear(x))
    assert [call.operation.rpartition(".")[2] for call in record(skipped, (torch.randn(2, 4),)).calls] == [
        "rand",
        "Linear",
    ]


def test_what_a_module_keeps_from_earlier_calls_is_refused_with_and_without_gradient() -> None:
    def cached(self: Inner, x: Tensor) -> Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale * 2
        return x * self.cache["scale"]

    module = Inner(cached)
    record(module, (torch.randn(2, 4),))
    assert module.cache == {}
    module(torch.randn(2, 4))
    with pytest.raises(NasirError, match="unknown"):
        record(module, (torch.randn(2, 4),))
    module.cache.clear()
    with torch.no_grad():
        module(torch.randn(2, 4))
    with pytest.raises(NasirError, match="empty what the module keeps"):
        record(module, (torch.randn(2, 4),))


def test_torchscript_modules_are_refused_by_path() -> None:
    module = nn.Sequential(nn.ReLU(), compiled_to_script(nn.ReLU()))
    with pytest.raises(NasirError, match="1 is TorchScript"):
        record(module, (torch.randn(2, 4),))


def test_modules_without_numbers_or_in_wrappers_are_refused() -> None:
    with pytest.raises(UsageError, match="meta device"):
        record(nn.Linear(4, 4, device="meta"), (torch.randn(2, 4),))
    with warnings.catch_warnings(), pytest.raises(UsageError, match="a lazy module has no parameters yet"):
        warnings.simplefilter("ignore", UserWarning)  # torch: lazy modules are new
        record(nn.LazyLinear(4), (torch.randn(2, 4),))
    with pytest.raises(UsageError, match=r"wrapped in DataParallel; give what is in it, its `.module`"):
        record(nn.DataParallel(nn.Linear(4, 4)), (torch.randn(2, 4),))
    with pytest.raises(UsageError, match="its arguments in a tuple"):
        record(nn.Linear(4, 4), torch.randn(2, 4))  # type: ignore[arg-type]


def test_modules_that_cannot_be_copied_are_refused() -> None:
    module = nn.Linear(4, 4)
    module.generator = (n for n in range(3))  # type: ignore[assignment]
    with pytest.raises(NasirError, match="cannot be copied"):
        record(module, (torch.randn(2, 4),))
