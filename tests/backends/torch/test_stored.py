"""`nasir.save` and `nasir.load`: a loop of one's own goes on bit for bit in a fresh process; odd files are refused."""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import warm
from fuzzing import watched
from networks import small_resnet
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, ReduceLROnPlateau, SequentialLR

import nasir
from nasir.backends.torch.train.ema import Ema
from nasir.backends.torch.weights.stored import _digest
from nasir.errors import CheckpointError, NasirError, UsageError
from nasir.ir import Draft
from nasir.passes import Freeze, InsertBlock

# a loop with all that may have state; the same source makes the objects before and after the restart
LOOP = """
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from nasir.backends.torch.train.ema import Ema
from nasir.backends.torch.weights.stored import _digest


def make(kind, model):
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0, "lr": 0.02}]
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=torch.tensor(1e-3), betas=(0.8, 0.99), amsgrad=True)
    else:
        optimizer = torch.optim.Adafactor(groups, lr=1e-3)
    parts = [LinearLR(optimizer, total_iters=3), CosineAnnealingLR(optimizer, 20)]
    return optimizer, SequentialLR(optimizer, parts, milestones=[3]), Ema(model, 0.9)


def train(model, optimizer, scheduler, ema, steps):
    for _ in range(steps):  # data from torch's generator, whose state is stored
        x = functional.dropout(torch.randn(6, 3, 8, 8), 0.2)
        optimizer.zero_grad()
        functional.cross_entropy(model(x), torch.arange(6) % 3).backward()
        optimizer.step()
        scheduler.step()
        ema.update(model)
"""
AGAIN = """
import sys, torch, nasir
torch.set_num_threads(THREADS)
kind, path, out = sys.argv[1:]
stored = nasir.load(path)
optimizer, scheduler, ema = make(kind, stored.model)
stored.restore(optimizers=[optimizer], schedulers=[scheduler], averages=[ema])
assert stored.extra == {"step": 9}
train(stored.model, optimizer, scheduler, ema, 4)
nasir.save(out, stored.model, optimizers=[optimizer], schedulers=[scheduler], averages=[ema], extra={"step": 13})
"""


def loop_names() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(LOOP, "loop", "exec"), names)
    return names


def contents(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return safetensors.torch.load(data), json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["nasir"])


@pytest.mark.parametrize("kind", ["sgd", "adamw", "adafactor"])
def test_a_fresh_process_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    loop = loop_names()
    torch.manual_seed(3)
    model = nasir.Model.from_graph(small_resnet((1, 1)), seed=5)
    optimizer, scheduler, ema = loop["make"](kind, model)
    loop["train"](model, optimizer, scheduler, ema, 4)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer])
    ema = Ema(model, 0.9)
    loop["train"](model, optimizer, scheduler, ema, 5)
    everything: dict[str, Any] = {"optimizers": [optimizer], "schedulers": [scheduler], "averages": [ema]}
    nasir.save(tmp_path / "middle", model, **everything, extra={"step": 9})
    loop["train"](model, optimizer, scheduler, ema, 4)
    nasir.save(tmp_path / "through", model, **everything, extra={"step": 13})
    script = tmp_path / "again.py"
    script.write_text(LOOP + AGAIN.replace("THREADS", str(torch.get_num_threads())))
    done = warm.completed(str(script), kind, str(tmp_path / "middle"), str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    (tensors, body), (others, other) = contents(tmp_path / "through"), contents(tmp_path / "again")
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert body == other  # the digest among it


def test_what_is_stored_of_a_model_comes_back(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1, 2)), seed=7, channels_last=True)
    model.apply(InsertBlock(), "s1")
    model.apply(Freeze(), "s1.0")
    model.hold(["s2.0"])
    assert model.leaf(model.keys()["fc.weight"].node) is model.fc
    model.fc.bias.requires_grad_(False)
    model.s2.get_submodule("1.bn1").eval()
    nasir.save(str(tmp_path / "file"), model)
    stored = nasir.load(str(tmp_path / "file"))
    other = stored.model
    assert (other.graph, other.seed, other.ordinal, other.channels_last) == (model.graph, 7, 2, True)
    assert stored.extra == {} and "2 nodes" not in repr(stored) and repr(stored).startswith("<Stored: ")
    mine, its = model.state_dict(), other.state_dict()
    assert list(mine) == list(its)
    assert all(torch.equal(t, its[name]) and t.stride() == its[name].stride() for name, t in mine.items())
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    assert flags == [(name, p.requires_grad) for name, p in other.named_parameters()]
    modes = [(name, module.training) for name, module in model.named_modules()]
    assert modes == [(name, module.training) for name, module in other.named_modules()]
    for each in (model, other):
        each.hold()  # what was frozen by the graph stays so, what was held is released
        each.apply(InsertBlock(), "s2")  # new weights from the same stream
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in model.state_dict().items())


def test_what_was_set_by_hand_on_layers_comes_back(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    model.bn1.momentum, model.fc.note = 0.02, ("mine", 1)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.get_submodule("s1"))
    model.get_submodule("s1.0.bn2").eps = 0.5  # type: ignore[assignment]
    nasir.save(tmp_path / "file", model)
    other = nasir.load(tmp_path / "file").model
    assert other.bn1.momentum == 0.02 and other.fc.note == ("mine", 1)
    mine, its = dict(model.named_modules()), dict(other.named_modules())
    assert list(mine) == list(its) and all(type(its[name]).__name__ == type(mine[name]).__name__ for name in mine)
    assert type(its["s1.0.bn2"]) is torch.nn.SyncBatchNorm and its["s1.0.bn2"].eps == 0.5
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(other.eval()(x), model.eval()(x))

    class Own(torch.nn.Linear):
        pass

    model.fc = Own(4, 3)
    with pytest.raises(UsageError, match="'fc': Own was put there by hand"):
        nasir.save(tmp_path / "file", model)
    model.fc = torch.nn.Linear(4, 3)
    model.fc.act = torch.relu
    with pytest.raises(UsageError, match="settings/fc/act: builtin_function_or_method cannot be stored"):
        nasir.save(tmp_path / "file", model)


def test_extra_and_schedulers_come_back_with_their_types(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedulers: list[Any] = [
        MultiStepLR(optimizer, [2, 2, 5]),
        ReduceLROnPlateau(optimizer),
        SequentialLR(optimizer, [LinearLR(optimizer), CosineAnnealingLR(optimizer, 4)], [2]),
    ]
    extra = {
        "plain": [1, 2.5, None, True, "text", -0.0, 1e-310, 2**70],
        "odd": {"nan": math.nan, "inf": math.inf, 3: (1, (2,)), None: {4, 5}},
        "kinds": (OrderedDict(a=1), Counter([1, 1, 2])),
        "numpy": np.float64(0.1),
        "tensor": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
        "weight": model.fc.weight,  # shares the memory of one that is stored already
    }
    nasir.save(tmp_path / "file", model, optimizers=[optimizer], schedulers=schedulers, extra=extra)
    stored = nasir.load(tmp_path / "file")
    again = stored.extra
    assert again["plain"] == extra["plain"] and math.copysign(1, again["plain"][5]) == -1
    assert math.isnan(again["odd"].pop("nan")) and again["odd"] == {"inf": math.inf, 3: (1, (2,)), None: {4, 5}}
    assert again["kinds"] == extra["kinds"] and list(map(type, again["kinds"])) == [OrderedDict, Counter]
    assert again["numpy"] == 0.1 and type(again["numpy"]) is float
    assert torch.equal(again["tensor"], extra["tensor"]) and torch.equal(again["weight"], model.fc.weight)
    fresh = torch.optim.SGD(stored.model.parameters(), lr=9.0)
    theirs: list[Any] = [
        MultiStepLR(fresh, [1]),
        ReduceLROnPlateau(fresh),
        SequentialLR(fresh, [LinearLR(fresh), CosineAnnealingLR(fresh, 9)], [7]),
    ]
    stored.restore(optimizers=[fresh], schedulers=theirs)
    assert [s.state_dict() for s in theirs] == [s.state_dict() for s in schedulers]
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_groups_are_those_stored(tmp_path: Path) -> None:
    """A rewrite sorts new parameters by kind, the user's code perhaps by name: the stored membership goes on."""
    model = nasir.Model.from_graph(small_resnet((1,)))
    weights, others = [model.fc.weight], [p for p in model.parameters() if p is not model.fc.weight]
    optimizer = torch.optim.SGD([{"params": weights, "lr": 1.0}, {"params": others, "lr": 2.0}], momentum=0.5)
    nasir.save(tmp_path / "file", model, optimizers=[optimizer])
    stored = nasir.load(tmp_path / "file")
    every = list(stored.model.parameters())
    fresh = torch.optim.SGD([{"params": every[:3]}, {"params": every[3:]}], lr=0.1)
    stored.restore(optimizers=[fresh])
    assert list(map(id, fresh.param_groups[0]["params"])) == [id(stored.model.fc.weight)]
    assert [(group["lr"], group["momentum"]) for group in fresh.param_groups] == [(1.0, 0.5), (2.0, 0.5)]


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    scheduler = LinearLR(optimizer)
    everything: dict[str, Any] = {"schedulers": [scheduler], "averages": [average]}
    nasir.save(tmp_path / "file", model, optimizers=[optimizer], **everything)
    stored = nasir.load(tmp_path / "file")
    named = list(stored.model.parameters())
    wrong: list[tuple[list[Any], str]] = [
        ([], "1 optimizers were stored, 0 are given"),
        ([torch.optim.Adam(named)], "was a AdamW, given is a Adam"),
        ([torch.optim.AdamW([{"params": named[:1]}, {"params": named[1:]}])], "had 1 groups, given are 2"),
        ([torch.optim.AdamW(named[1:])], "differs in conv1.weight"),
        ([torch.optim.AdamW([*named, torch.zeros(1)])], "differs in a parameter of another model"),
    ]
    for given, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            stored.restore(optimizers=given, **everything)
    fresh, other = torch.optim.AdamW(named, lr=0.1), torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 2))
    before = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"averages\[0\] differs from that stored in module.weight"):
        stored.restore(optimizers=[fresh], schedulers=[LinearLR(fresh)], averages=[other])
    with pytest.raises(CheckpointError, match=r"schedulers\[0\] was a LinearLR"):
        stored.restore(optimizers=[fresh], schedulers=[CosineAnnealingLR(fresh, 2)], averages=[average])
    assert fresh.param_groups[0]["initial_lr"] == 0.1 and not fresh.state
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_stored_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    path = tmp_path / "file"
    nasir.save(path, model)
    before = path.read_bytes()
    foreign = torch.optim.SGD([*model.parameters(), torch.zeros(2, 5, requires_grad=True)], lr=0.1)
    sparse = torch.eye(3).to_sparse()
    for options, message in (
        ({"extra": {"a": [1, {"b": object()}]}}, "extra/a/1/b: object cannot be stored"),
        ({"extra": {"a": sparse}}, "extra/a: a tensor of layout torch.sparse_coo"),
        ({"optimizers": [foreign]}, r"group 0, holds 1 parameters that are not of the model.*\(2, 5\)"),
    ):
        with pytest.raises(UsageError, match=message):
            nasir.save(path, model, **options)  # type: ignore[arg-type]
    model.fc = torch.nn.Linear(8, 5)
    with pytest.raises(UsageError, match=r"fc\.weight, fc\.bias .* not as its graph says"):
        nasir.save(path, model)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    with pytest.raises(CheckpointError, match="not written"):
        nasir.save(tmp_path / "nowhere" / "file", model)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nasir.Model.from_graph(small_resnet((1,)))
    path = tmp_path / "file"
    nasir.save(path, model)
    before = path.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(CheckpointError, match="No space left"):
        nasir.save(path, model, extra={"other": 1})
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    nasir.save(path, nasir.Model.from_graph(small_resnet((1,))), extra={"step": 1})
    good = path.read_bytes()
    foreign = safetensors.torch.save({"a": torch.zeros(2)})
    odd = safetensors.torch.save({"a": torch.zeros(2)}, {"nasir": "[]"})
    cases = [b"", b"text", good[:-1], good[:100], good + b"0", foreign, odd, b"PK\x03\x04" * 50]
    cases += [good[: len(good) - 9] + bytes([good[-9] ^ 1]) + good[-8:]]  # one bit of a weight
    cases += [good.replace(b'\\"seed\\":0', b'\\"seed\\":1', 1)]  # one of the description
    for data in cases:
        assert data != good
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"file: (damaged|safetensors, but not)"):
            nasir.load(path)
    with pytest.raises(CheckpointError, match="missing: cannot be read"):
        nasir.load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"cannot be read|damaged"):
        nasir.load(tmp_path)


def test_any_damaged_byte_gives_an_error_of_nasir(tmp_path: Path) -> None:
    path = tmp_path / "file"
    nasir.save(path, nasir.Model.from_graph(small_resnet((1,), width=2, size=4)), extra={"step": 1})
    good = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(good), 150):
        data = bytearray(good)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(NasirError):
            nasir.load(path)


def resealed(path: Path, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Change what a file holds, with its digest made right: as another version might write it, or an enemy."""
    tensors, body = contents(path)
    edit(body, tensors)
    body["sha256"] = _digest(body, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"nasir": json.dumps(body)}))


def wider(body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """A network of 10^10 weights, none of which the file has."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[100_000])
    draft.output(draft.add("linear", x, "fc", out=100_000))
    body["graph"] = draft.commit().to_json()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (wider, "its network has 10000100000 weights and statistics, "),
        (lambda body, tensors: tensors.pop("model/fc.bias"), "weights and statistics, "),
        (
            lambda body, tensors: tensors.update({"model/fc.bias": torch.zeros(3, dtype=torch.int64)}),
            r"fc.bias is stored as \(3,\) of torch.int64, its network has \(3,\)",
        ),
        (
            lambda body, tensors: tensors.update({"model/fc.bias": torch.zeros(4)}),
            r"fc.bias is stored as \(4,\) of torch.float32, its network has \(3,\)",
        ),
        (lambda body, tensors: body["strides"].update({"fc.bias": [10**12]}), r"fc.bias is stored with strides"),
        (lambda body, tensors: body["strides"].update({"fc.bias": [-1]}), r"fc.bias is stored with strides"),
        (lambda body, tensors: body.update(extra={"type": "dict", "value": [[[], 1]]}), "not what this version"),
        (lambda body, tensors: body.update(schedulers=[{}]), "not what this version of nasir stores"),
        (lambda body, tensors: body.update(random=None), "not what this version of nasir stores"),
        (lambda body, tensors: body.update(seed="x"), "not what this version of nasir stores"),
        (lambda body, tensors: body.pop("format"), "format None, this version of nasir reads 1"),
    ],
)
def test_what_save_never_writes_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], object], told: str
) -> None:
    path = tmp_path / "file"
    nasir.save(path, nasir.Model.from_graph(small_resnet((1,), width=2, size=4)))
    resealed(path, edit)
    with pytest.raises(CheckpointError, match=told), watched():
        nasir.load(path)


def test_a_device_that_torch_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    nasir.save(path, nasir.Model.from_graph(small_resnet((1,), width=2, size=4)))
    for device in ("gpu", "cuda:x", "cpu\0", "cuda:99999999999999999999", ""):
        with pytest.raises(UsageError, match="none that torch knows; give cpu, cuda or cuda:N"):
            nasir.load(path, device=device)
        with pytest.raises(UsageError, match="none that torch knows"):
            nasir.Model.from_graph(small_resnet((1,)), device=device)
