"""A Model is copied, pickled and averaged as any nn.Module, after rewrites and changes by hand too."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from grown import images
from networks import small_resnet
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.train.ema import Ema
from nasir.errors import SpecError, UsageError
from nasir.ir import Draft
from nasir.passes import Freeze, InsertBlock, PruneChannels, RemoveBlock
from nasir.rewriting.rewrite import Rewrite
from nasir.transfer import derive

Copy = Callable[[Model], Model]


def through_torch(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded, Model)
    return loaded


COPIES: dict[str, Copy] = {
    "deepcopy": deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch": through_torch,
}


class Mine(Model):
    """A model of the user's own."""


def test_files_of_torch_save_name_what_they_always_named() -> None:
    made_by, (kind, *_) = Model.from_graph(small_resnet()).__reduce__()
    assert kind is Model and (kind.__module__, kind.__qualname__) == ("nasir.backends.torch.model", "Model")
    assert (made_by.__module__, made_by.__qualname__) == ("nasir.backends.torch.model", "_revived")


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_model_of_ones_own_class_stays_one_through_rewrites_and_copies(copy: Copy) -> None:
    model = Mine.from_graph(small_resnet())
    rewrite = InsertBlock(init="zero").attempt(model.graph, "s1")
    new = model.rewritten(rewrite)
    assert type(new) is Mine and type(copy(new)) is Mine and new.graph is rewrite.graph
    assert model.apply(rewrite) is rewrite and type(model) is Mine


class Shift(nn.Module):
    """A head of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x) + 1
        return result


def noted(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    HEARD.append(type(module).__name__)


HEARD: list[str] = []


def used() -> Model:
    model = Model.from_graph(small_resnet((1, 1)), seed=3)
    model.apply(InsertBlock(), "s1")
    site = next(s for s in model.graph.infer.spaces if s.name == "s1.0.conv1")
    model.apply(PruneChannels(fraction=0.5), site)
    return model


def same(left: Model, right: Model) -> bool:
    mine, its = left.state_dict(), right.state_dict()
    return list(mine) == list(its) and all(torch.equal(tensor, its[name]) for name, tensor in mine.items())


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_computes_and_is_rewritten_as_the_original_and_shares_no_weight(how: str) -> None:
    model = used()
    copy = COPIES[how](model)
    x = images(4, 8)
    assert type(copy) is Model and copy.graph == model.graph and (copy.seed, copy.ordinal) == (3, 2)
    assert same(model, copy) and torch.equal(model.eval()(x), copy.eval()(x))
    assert not {id(p) for p in model.parameters()} & {id(p) for p in copy.parameters()}
    changes: list[tuple[Any, str]] = [(InsertBlock(), "s2"), (RemoveBlock(), "s1.1"), (Freeze(), "s1.0")]
    for change, site in changes:
        for each in (model, copy):
            assert each.apply(change, site) is not None
        assert same(model, copy) and torch.equal(model(x), copy(x))
    site = next(s for s in model.graph.infer.spaces if s.name == "s2.0.conv1")
    model.apply(PruneChannels(fraction=0.5), site)
    assert not same(model, copy) and copy(x).shape == (4, 3)
    assert copy.train() is copy and not copy.get_submodule("s1.0.bn1").training


@pytest.mark.parametrize("how", COPIES)
def test_what_was_changed_by_hand_is_in_the_copy(how: str) -> None:
    model = used()
    model.fc = Shift()
    model.get_submodule("s1.0.bn1").momentum = 0.02  # type: ignore[assignment]
    model.get_submodule("s1").add_module("1", nn.Sequential(model.get_submodule("s1.1")))  # a block of the user's
    model.projector = nn.Linear(2, 2)
    model.register_buffer("steps", torch.ones(()))
    model.get_submodule("s1.0").register_forward_hook(noted)
    model.get_submodule("s2").eval()
    model.hold(["s2.0.conv1"])
    copy = COPIES[how](model)
    assert [name for name, _ in copy.named_modules()] == [name for name, _ in model.named_modules()]
    assert [m.training for m in copy.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in copy.parameters()] == [p.requires_grad for p in model.parameters()]
    assert same(model, copy) and copy.get_submodule("s1.0.bn1").momentum == 0.02
    x = images(4, 8)
    HEARD.clear()
    assert (torch.equal(model.eval()(x), copy.eval()(x)) and HEARD == ["Block", "Block"]) or len(HEARD) == 2
    copy.apply(InsertBlock(), "s2")
    assert type(copy.fc) is Shift and copy.projector.weight.shape == (2, 2) and float(copy.steps) == 1.0
    with pytest.raises(UsageError, match=r"'s1\.1': Sequential was put there by hand"):
        copy.apply(PruneChannels(fraction=0.5), next(s for s in copy.graph.infer.spaces if s.name == "s1.1.conv1"))


@pytest.mark.slow
def test_a_copy_of_a_compiled_model_does_not_run_the_blocks_of_the_original() -> None:
    model = used().eval()
    for block in model.units.values():
        block.__dict__["forward"] = torch.compile(block.forward, backend="eager")
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert not copy(images(2, 8)).any()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_rewritten_and_copied(whole: bool) -> None:
    model, plain = used().eval(), used().eval()
    for part in [model] if whole else model.units.values():
        part.compile(backend="eager")
    x = images(2, 8)
    assert torch.equal(model(x), plain(x))
    for site in ("s1", "s2"):
        for each in (model, plain):
            each.apply(InsertBlock(), site)
        assert torch.equal(model(x), plain(x))
    copy = deepcopy(model)
    for parameter in copy.parameters():
        parameter.zero_()
    assert not copy(x).any() and model(x).any()


def averaged(kind: str, model: Model) -> Any:
    if kind == "ema":
        return Ema(model, 0.8, warmup=False)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=kind == "buffers")


def update(average: Any, model: Model) -> None:
    (average.update if isinstance(average, Ema) else average.update_parameters)(model)


def values(average: Any) -> dict[str, Tensor]:
    return average.tensors if isinstance(average, Ema) else average.module.state_dict()


@pytest.mark.parametrize("kind", ["parameters", "buffers", "ema"])
def test_averages_follow_the_rewrites_of_their_model(kind: str) -> None:
    model = Model.from_graph(small_resnet((1, 1)), seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    average = averaged(kind, model)

    def train(seed: int) -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images(6, 8, seed)), torch.arange(6) % 3).backward()
        optimizer.step()
        update(average, model)

    train(0)
    train(1)
    model.apply(InsertBlock(), "s1", optimizers=[optimizer], averages=[average])
    new = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("s1.1")}
    assert new and all(torch.equal(values(average)[name], tensor) for name, tensor in new.items())
    train(2)
    before = {name: tensor.clone() for name, tensor in values(average).items()}
    site = next(s for s in model.graph.infer.spaces if s.name == "s1.0.conv1")
    draft = model.graph.draft()
    draft.select(site, [2, 0])
    graph = draft.commit()
    rewrite = Rewrite(model.graph, graph, derive(draft, graph), {}, "s1", "approximate")
    model.apply(rewrite, optimizers=[optimizer], averages=[average])
    after = values(average)
    assert torch.equal(after["s1.0.conv1.weight"], before["s1.0.conv1.weight"][[2, 0]])
    assert torch.equal(after["s1.0.conv2.weight"], before["s1.0.conv2.weight"][:, [2, 0]])
    assert torch.equal(after["fc.weight"], before["fc.weight"])
    train(3)
    moved = values(average)["fc.weight"]
    if kind != "parameters":  # torch's AveragedModel takes its first weights as they are
        assert torch.allclose(moved, 0.8 * before["fc.weight"] + 0.2 * model.fc.weight.detach())
    assert values(average).keys() == model.state_dict().keys()


def test_what_is_no_average_of_the_model_is_refused_before_anything_changes() -> None:
    model = Model.from_graph(small_resnet((1, 1)))
    late = AveragedModel(model)
    model.apply(InsertBlock(), "s1")
    graph = model.graph
    cases: list[tuple[Any, str]] = [
        ([late], r"averages\[0\] \(AveragedModel\) is not of the network that the model has now"),
        ([Ema(late.module, 0.9)], r"averages\[0\] \(Ema\) is not of the network"),
        ([AveragedModel(nn.Linear(2, 2))], "no `module` that is a copy of the model"),
        (AveragedModel(model), r"write averages=\[ema\]"),
    ]
    for averages, message in cases:
        with pytest.raises(UsageError, match=message):
            model.apply(InsertBlock(), "s1", averages=averages)
        assert model.graph is graph
    with pytest.raises(UsageError, match="a function takes no averages"):
        model.apply(nn.init.zeros_, averages=[late])  # type: ignore[call-overload]


def test_norms_whose_statistics_are_the_average_of_all_batches() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    draft.output(draft.add("batch_norm", x, "bn", momentum=None))
    model = Model.from_graph(draft.commit())
    batches = [images(8, 4, seed) for seed in range(3)]
    for batch in batches:
        model(batch)
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    assert model.bn.momentum is None and torch.allclose(model.bn.running_mean, mean, atol=1e-6)


def test_a_spec_that_asks_for_no_momentum_is_told() -> None:
    text = (
        "nasir: 1\ninput: {image: [3, 8, 8]}\nnetwork:\n  - conv: {out: 4}\n  - batch_norm: {momentum: null}\n"
        "  - classifier: {classes: 3}\ndata: {dataset: synthetic}\n"
        "phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n"
    )
    with pytest.raises(SpecError, match=r":5:18: network\.1\.batch_norm\.momentum: null.*write a number such as 0\.1"):
        nasir.loads_spec(text)
