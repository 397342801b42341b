"""What a recording says of a module: values and where they come from, calls and their places, both modes, any batch."""

from __future__ import annotations

import random
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import user_modules
from recorded import IMAGES, From, calls_of, recorded, rows
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.device.meter import Meter, nbytes, tensors_of
from nasir.backends.torch.importing import parity, record, replay
from nasir.errors import NasirError, NasirWarning, UsageError
from nasir.importing import Batch, Device, Recording, Ref, Structure, Switch, Symbol, to_text


def test_leaf_modules_are_one_call_with_their_attributes() -> None:
    recording = record(user_modules.UNet(), IMAGES)
    conv = recording.calls[0]
    assert (conv.operation, conv.module) == ("torch.nn.modules.conv.Conv2d", "down1.0")
    assert conv.attributes["kernel_size"] == (3, 3) and conv.attributes["groups"] == 1
    assert [scope.path for scope in conv.scope] == ["", "down1", "down1.0"]
    assert conv.scope[0].kind == "user_modules.UNet"
    pool = calls_of(recording, "max_pool2d")[0]
    assert pool.module is None and pool.args == (conv_result(recording, "down1.2"), 2)
    assert pool.source.endswith("user_modules.py:" + pool.source.rpartition(":")[2])
    line = int(pool.source.rpartition(":")[2])
    assert "F.max_pool2d(one, 2)" in Path(user_modules.__file__).read_text(encoding="utf-8").splitlines()[line - 1]


def conv_result(recording: Recording, path: str) -> Any:
    return next(call.result for call in recording.calls if call.module == path)


def test_every_value_says_where_it_comes_from_and_what_it_depends_on() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        table = self.scale[torch.arange(4).flip(0)]
        return self.linear(x) * table + self.seen + torch.rand(4) + torch.zeros_like(x) + torch.arange(4)

    recording = recorded(forward)
    by_name = {value.name: value for value in recording.values if value.origin != "call"}
    assert by_name["0"].origin == "input" and by_name["0"].depends == {"input"}
    assert by_name["scale"].origin == "parameter" and by_name["seen"].origin == "buffer"
    assert sorted(array.tolist() for array in recording.constants.values()) == [[0, 1, 2, 3], [3, 2, 1, 0]]

    def depends(name: str) -> set[str]:
        return set(recording.values[calls_of(recording, name)[0].result.number].depends)

    assert depends("__getitem__") == {"parameter"}
    assert depends("Linear") == {"input", "parameter"}
    assert depends("rand") == {"random"}
    assert depends("zeros_like") == set()  # its shape follows the batch, so it is no constant all the same
    assert recording.values[recording.outputs.number].depends == {"input", "parameter", "buffer", "random"}
    assert recording.used_state == {"linear.weight", "linear.bias", "scale", "seen"}


def test_integers_that_follow_the_batch_are_affine_in_it() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        n = x.shape[0]
        padded = torch.cat([x, x.new_ones(2 * n + 1, 4)])
        return padded[: n + 3].reshape(4 * (n + 3)) / n

    recording = recorded(forward)
    assert calls_of(recording, "new_ones")[0].args[1:] == (Batch(2, 1), 4)
    assert calls_of(recording, "reshape")[0].args[1] == Batch(4, 12)
    assert calls_of(recording, "div")[0].args[1] == Batch(1)
    stop = calls_of(recording, "__getitem__")[0].args[1]
    assert stop == Structure("slice", (("start", None), ("stop", Batch(1, 3)), ("step", None)))
    assert recording.values[recording.outputs.number].shape == (Batch(4, 12),)


@pytest.mark.parametrize(
    ("told", "function"),
    [
        ("0.5 with 2 samples and 0.333.* with 3", lambda self, x: x * (1 / x.shape[0])),
        ("neither one number nor a multiple", lambda self, x: x * (x.shape[0] // 2 * 2 // 2)),
        ("neither one number nor a multiple", lambda self, x: x * x.shape[0] ** 2),
        ("the batch size changes which calls", lambda self, x: x.relu() if x.shape[0] > 2 else x.tanh()),
        ("the batch size changes which calls", lambda self, x: x.relu() if x.shape[0] > 3 else x.tanh()),
    ],
)
def test_other_uses_of_the_batch_size_are_refused(told: str, function: Callable[..., Any]) -> None:
    with pytest.raises(NasirError, match=told):
        record(From(function), (rows(),))


def test_what_differs_between_the_modes_is_a_switch() -> None:
    recording = record(user_modules.Functional(), IMAGES)
    assert calls_of(recording, "dropout")[0].kwargs["training"] == Switch(False, True)
    norm = calls_of(recording, "batch_norm")[0]
    assert norm.updates == ("mean", "var") and norm.kwargs["training"] == Switch(False, True)
    assert calls_of(recording, "relu")[0].kwargs["inplace"] is False
    steps = calls_of(recording, "add")[0]
    assert steps.only == "train" and steps.args[1] == 1
    ref = next(entry.ref for entry in recording.state if entry.key == "steps")
    assert [(u.key, u.value) for u in recording.updates] == [("steps", Switch(ref, steps.result))]


def test_what_runs_in_one_mode_alone_says_so_and_outputs_may_differ() -> None:
    def forward(self: From, x: Tensor) -> Any:
        y = self.linear(x)
        if self.training:
            y = F.dropout(y.reshape(x.shape[0], 2, 2), 0.5).flatten(1)
            return y, y.sum()
        return y * 2

    recording = recorded(forward)
    only = {call.operation.rpartition(".")[2]: call.only for call in recording.calls}
    assert only == {
        "Linear": None,
        "reshape": "train",
        "dropout": "train",
        "flatten": "train",
        "sum": "train",
        "mul": "eval",
    }
    assert calls_of(recording, "reshape")[0].args[1] == Batch(1)
    assert isinstance(recording.outputs, Switch) and isinstance(recording.outputs.train, tuple)


def test_shared_modules_and_parameters_are_told_apart_and_together() -> None:
    recording = record(user_modules.Shared(), IMAGES)
    assert [call.label for call in recording.calls if call.module == "conv"] == ["conv", "conv@1"]
    assert [call.label for call in recording.calls if call.module == "act"] == ["act", "act@1"]
    aliases = {entry.key: entry.aliases for entry in recording.state if entry.aliases}
    assert aliases == {"head.weight": ("out.weight",)}
    assert "out.weight" not in recording.used_state and "head.weight" in recording.used_state


def test_parametrized_weights_are_computed_in_the_recording() -> None:
    recording = record(user_modules.Normalized(), IMAGES)
    conv = calls_of(recording, "conv2d")[0]
    made = next(call for call in recording.calls if call.result == conv.args[1])
    assert made.operation == "torch._weight_norm"
    used = {entry.key for entry in recording.state if entry.ref is not None}
    assert {f"first.parametrizations.weight.original{n}" for n in (0, 1)} <= used
    power = [call for call in recording.calls if call.updates or call.only == "train"]
    assert power  # spectral norm iterates in train mode


def test_several_inputs_and_outputs_keep_their_form() -> None:
    module = user_modules.Several()
    args = (torch.randint(0, 11, (2, 7)), torch.randn(2, 2))
    kwargs = {"image": torch.randn(2, 5), "mask": torch.rand(2, 7) > 0.3, "scale": 2.0}
    recording = record(module, args, kwargs)
    assert [(entry.path, entry.batched) for entry in recording.inputs] == [
        ("0", True), ("1", True), ("image", True), ("mask", True),
    ]  # fmt: skip
    assert [entry.path for entry in recording.inputs if entry.ref is None] == ["1"]
    answer = recording.outputs["answer"]
    assert answer.kind == "user_modules.Answer" and [name for name, _ in answer.parts] == ["logits", "hidden", "note"]
    assert recording.outputs["size"] == 3 and recording.outputs["ids"] == recording.inputs[0].ref
    out = replay(recording, module.eval(), *args, **kwargs)
    assert isinstance(out["answer"], user_modules.Answer) and torch.equal(
        out["answer"].logits, module(*args, **kwargs)["answer"].logits
    )


def test_inputs_without_a_batch_axis_stay_as_they_are() -> None:
    recording = record(From(lambda self, x, t, s: self.linear(x) * t * s), (rows(), torch.randn(4), torch.tensor(2.0)))
    assert [entry.batched for entry in recording.inputs] == [True, False, False]
    assert [recording.values[entry.ref.number].shape for entry in recording.inputs if entry.ref] == [
        (Batch(1), 4), (4,), (),
    ]  # fmt: skip


def test_call_records_another_method() -> None:
    module = user_modules.Custom()
    recording = record(module, (rows(),), call=lambda copy, x: copy.features(x))
    assert [call.operation for call in recording.calls] == ["torch.nn.modules.linear.Linear", "torch.Tensor.relu"]
    assert [scope.path for scope in recording.calls[0].scope] == ["", "inner"]
    assert torch.equal(replay(recording, module, rows(3)), module.features(rows(3)))


def test_autograd_functions_are_one_call_and_parts_without_gradient_say_so() -> None:
    recording = record(user_modules.Custom(), (rows(),))
    assert calls_of(recording, "apply")[0].operation == "user_modules.Doubled.apply"
    assert [call.gradient for call in recording.calls if call.module == "inner"] == [False, True]


def test_dtypes_and_devices_are_data() -> None:
    recording = recorded(
        lambda self, x: x.to(torch.float64) + torch.zeros(x.shape[0], 4, device=x.device, dtype=torch.float64)
    )
    assert calls_of(recording, "to")[0].args[1] == Symbol("torch.float64")
    assert calls_of(recording, "zeros")[0].kwargs["device"] == Device()


def test_the_module_and_the_generators_stay_as_they_are() -> None:
    module = user_modules.Functional().train()
    module.eval()
    module.get_submodule("").training = True  # a mixture of modes, here of one module alone
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    before = {key: (id(tensor), tensor._version, tensor.detach().clone()) for key, tensor in tensors.items()}
    attributes = dict(vars(module))
    images = IMAGES[0].clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    record(module, (images,))
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert dict(vars(module)) == attributes and module.training
    assert torch.equal(images, IMAGES[0])
    for key, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        assert (id(tensor), tensor._version) == before[key][:2] and torch.equal(tensor, before[key][2])
        assert tensor.grad is None


def test_recording_takes_the_memory_of_one_copy() -> None:
    module = nn.Sequential(nn.Linear(700, 700), nn.ReLU(), nn.Linear(700, 700, bias=False))
    record(nn.Linear(700, 2), (torch.zeros(2, 700),))  # what is set up once
    weights = nbytes(module.parameters())
    with Meter(tensors_of(module)) as meter:
        record(module, (torch.zeros(2, 700),))
    assert weights <= meter.extra < 1.5 * weights


def test_hooks_are_not_called_and_told_of() -> None:
    called: list[str] = []
    module = From(lambda self, x: self.linear(x))
    module.linear.register_forward_hook(lambda *_: called.append("after"))
    module.register_forward_pre_hook(lambda *_: called.append("before"))
    with pytest.warns(NasirWarning, match="forward hooks of the root, linear"):
        recording = record(module, (rows(),))
    assert called == []
    replay(recording, module.eval(), rows())
    assert called == []
    assert [call.module for call in recording.calls] == ["linear"]
    module(rows())
    assert called == ["before", "after"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_are_told_of_and_replayed_without(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    module = From(lambda self, x: checkpoint(lambda y: self.linear(y).relu(), x, use_reentrant=reentrant))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch: no input needs gradients
        warnings.simplefilter("always", NasirWarning)
        with pytest.warns(NasirWarning, match="activation checkpoints"):
            recording = record(module, (rows(),))
    assert [call.gradient for call in recording.calls] == [True, True]
    assert torch.equal(replay(recording, module.eval(), rows(3)), module.linear(rows(3)).relu())


def test_autocast_is_told_of_and_replayed() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.linear(x)
        return y.float() * 2

    module = From(forward)
    with pytest.warns(NasirWarning, match=r"under autocast \(bfloat16\)"):
        recording = record(module, (rows(),))
    assert [call.autocast for call in recording.calls] == ["bfloat16", None, None]
    assert parity(recording, module, (rows(5),)).largest == 0.0


def test_old_weight_norm_is_recorded_through_its_hook() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    recording = record(module, (rows(),))
    assert [call.operation for call in recording.calls] == ["torch._weight_norm", "torch.nn.functional.linear"]
    assert parity(recording, module, (rows(5),)).largest == 0.0


def test_attributes_that_forward_changes_are_told_of() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        self.count = getattr(self, "count", 0) + 1
        return self.linear(x) * self.count

    module = From(forward)
    module.count = 2  # type: ignore[assignment]
    with pytest.warns(NasirWarning, match="forward changes the attribute count"):
        record(module, (rows(),))
    assert module.count == 2


def test_train_methods_that_return_nothing_are_fine() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(False)

    module = Frozen(nn.BatchNorm1d(4))
    recording = record(module, (rows(),))
    assert [call.updates for call in recording.calls] == [()]
    assert torch.equal(replay(recording, module.eval() or module, rows(3)), module(rows(3)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "einsum": lambda self, x: torch.einsum("bi,ij->bj", x, self.linear.weight),
    "transposes": lambda self, x: x @ self.linear.weight.T + (x.T * 2).mT,
    "ops of a library": lambda self, x: torch.ops.aten.relu(x) + torch.ops.aten.relu.default(-x),
    "from_numpy": lambda self, x: x * torch.from_numpy(np.arange(4, dtype=np.float32)),
    "named results": lambda self, x: x.max(1).values[:, None] * torch.max(self.linear(x), 1).indices[:, None],
    "loops": lambda self, x: sum(part * n for n, part in enumerate(x.split(1, dim=1))) + sum(x.unbind(1))[:, None],
    "operators": lambda self, x: (1 - x) / (2.0 + x.abs()) + 2**x % 3 - (-x // 2) + ((x > 0) & ~(x > 1)).float(),
    "reflected": lambda self, x: 3 / (x.abs() + 1) - (5 - x) ** 2,
    "dtype by method": lambda self, x: x.double().type(torch.float32) + x.type_as(x.double()).float(),
    "attention": lambda self, x: F.scaled_dot_product_attention(*[x.view(-1, 1, 2, 2)] * 3, is_causal=True).flatten(1),
    "meshgrid": lambda self, x: x + torch.meshgrid(torch.arange(2.0), torch.arange(4.0), indexing="ij")[1][1],
    "where and masks": lambda self, x: torch.where(x > 0, x, self.scale).masked_fill(x.isnan(), 0.0),
    "cumulative": lambda self, x: x.cumsum(1).sort(1, descending=True)[0].topk(2).values,
    "numbers that are none": lambda self, x: torch.where(x > 9, torch.full((4,), float("nan")), x),
    "fft and linalg": lambda self, x: torch.fft.rfft(x).abs() + torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "statistics that are no buffer": lambda self, x: F.layer_norm(x, (4,), self.scale, torch.zeros(4)),
    "sizes": lambda self, x: x.expand(3, *x.shape).reshape(x.numel() * 3).view(-1, 4)[: x.size(0)],
    "noise of all kinds": lambda self, x: x + torch.randn_like(x) + torch.rand(x.shape) + x.new_empty(4).normal_(),
    "detached": lambda self, x: x * self.linear(x).detach() + self.scale.data,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_all_kinds_are_replayed_exactly(name: str) -> None:
    recorded(FUNCTIONS[name])


def test_own_leaf_classes_are_one_call() -> None:
    module = nn.Sequential(user_modules.Gated())
    assert len(record(module, IMAGES).calls) > 1
    recording = record(module, IMAGES, leaves=[user_modules.Gated])
    assert [(call.operation, call.module, call.random) for call in recording.calls] == [
        ("user_modules.Gated", "0", True)
    ]
    assert parity(recording, module, IMAGES).largest == 0.0


def test_subclasses_that_change_nothing_are_leaves_and_others_are_not() -> None:
    class Named(nn.Linear):
        def extra_repr(self) -> str:
            return "mine"

    class Changed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    recording = record(nn.Sequential(Named(4, 4), Changed(4, 4)), (rows(),))
    assert [call.module for call in recording.calls] == ["0", None, None]
    assert recording.calls[0].operation == "torch.nn.modules.linear.Linear"


def test_a_module_of_torch_by_itself_is_one_call() -> None:
    module = nn.LSTM(4, 3, batch_first=True)
    x = torch.randn(2, 5, 4)
    recording = record(module, (x,))
    assert [(call.module, call.label) for call in recording.calls] == [("", "")]
    assert recording.used_state == dict(module.named_parameters()).keys()
    assert parity(recording, module, (torch.randn(4, 5, 4),)).largest == 0.0


def test_dead_calls_are_left_out_but_random_ones_stay() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        (x * 2).relu()
        torch.rand(3)
        return F.dropout(x, 0.5, self.training)

    recording = recorded(forward)
    assert [call.operation.rpartition(".")[2] for call in recording.calls] == ["rand", "dropout"]


def test_the_text_has_a_line_for_every_call() -> None:
    recording = record(user_modules.Functional(), IMAGES)
    lines = to_text(recording).splitlines()
    assert len([line for line in lines if "# root" in line]) == len(recording.calls)
    assert any("training=<eval False | train True>" in line and "updates mean, var" in line for line in lines)
    assert lines[-1] == f"return %{recording.outputs.number}" and isinstance(recording.outputs, Ref)


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((torch.zeros(2, 5),), {}, r"input 0 is \(2, 5\) of torch.float32.*for \(2, 4\)"),
        ((torch.zeros(2, 4, dtype=torch.float64),), {}, "torch.float64"),
        ((torch.zeros(2, 4), 1), {}, "another form"),
        ((torch.zeros(2, 4),), {"more": 1}, "another form"),
    ],
)
def test_replay_refuses_other_inputs(args: Any, kwargs: Any, told: str) -> None:
    module = From(lambda self, x: self.linear(x))
    recording = record(module, (rows(),))
    with pytest.raises(UsageError, match=told):
        replay(recording, module, *args, **kwargs)


def test_replay_refuses_another_value_of_a_plain_argument() -> None:
    module = From(lambda self, x, scale: self.linear(x) * scale)
    recording = record(module, (rows(), 2.0))
    assert torch.equal(replay(recording, module.eval(), rows(3), 2.0), module(rows(3), 2.0))
    with pytest.raises(UsageError, match=r"argument 0.1 is 3.0, and 2.0 was recorded"):
        replay(recording, module, rows(), 3.0)


def test_replay_refuses_a_module_that_is_another_or_in_two_modes() -> None:
    recording = record(user_modules.UNet(), IMAGES)
    with pytest.raises(UsageError, match=r"has no 'down1\.0'"):
        replay(recording, nn.Linear(4, 4).eval(), *IMAGES)
    module = user_modules.UNet().eval()
    module.down2.train()
    with pytest.raises(UsageError, match="down2 is in train mode"):
        replay(recording, module, *IMAGES)


def test_parity_notices_another_network() -> None:
    module, other = user_modules.UNet(), user_modules.UNet()
    other.join[0].stride = (1, 1)
    other.join[0].weight.data.zero_()
    recording = record(module, IMAGES)
    assert parity(recording, module, IMAGES).largest == 0.0
    module.forward = lambda x: nn.Module.__call__(other, x)  # type: ignore[method-assign]
    assert parity(recording, module, IMAGES).largest > 1e-3


def test_a_run_holds_no_tensor_that_forward_has_let_go_of() -> None:
    gone: list[bool] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.linear(x))
            watched = weakref.ref(hidden)
            hidden = torch.tanh(hidden)
            gone.append(watched() is None)
            return hidden

    record(Watched(), (torch.randn(2, 4),))
    assert gone == [True] * 3


def test_tensors_that_get_the_identity_of_others_are_told_apart() -> None:
    class Passing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for step in range(30):
                rows = (x * 2).view(-1, 2, 2)
                rows[:, 0] += step
                x = rows.flatten(1) / 2
            return x

    module, x = Passing(), torch.randn(2, 4)
    assert parity(record(module, (x,)), module, (torch.randn(5, 4),)).largest == 0.0
