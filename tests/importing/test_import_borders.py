"""What goes into an imported network and comes out of it is what goes into the user's module and comes out of that."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from edges import check_same
from torch import Tensor, nn
from zoo import FAST, SLOW, named

import nasir
from nasir.backends.torch import from_module
from nasir.errors import NasirError, UsageError
from nasir.passes.prune_channels import PruneChannels


@dataclass
class Answer:
    """What Answering returns."""

    logits: Tensor
    loss: Tensor | None = None
    rows: int = 0


class Answering(nn.Module):
    """A dataclass with a part that is missing and the batch size, a dict, a list, a tensor twice, an input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = self.one(x).relu()
        y = self.two(hidden)
        return {"answer": Answer(y, None, len(x)), "all": [hidden, (y, None), 2.5, "text"], "x": x, "kind": y.dtype}


class Asking(nn.Module):
    """A mask and positions that all samples share, indices, an unused tensor, one number a sample, an option."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 3)

    def forward(
        self, ids: Tensor, places: Tensor, unused: Tensor | None, *, mask: Tensor, gain: Tensor, scale: float = 1.0
    ) -> Tensor:
        tokens = (self.embed(ids) + places) * mask[:, None] * scale
        return self.out(tokens.mean(1)) * gain[:, None]  # type: ignore[no-any-return]


def asked(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    named = {"mask": torch.ones(7), "gain": torch.rand(batch), "scale": 0.5}
    return (torch.randint(0, 11, (batch, 7)), torch.randn(7, 6), torch.randn(batch, 2)), named


def vectors(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(batch, 6),), {}


def test_outputs_come_back_as_the_module_gives_them() -> None:
    model = check_same(Answering(), vectors)
    given = model(torch.randn(7, 6))
    assert given["answer"].rows == 7 and given["kind"] is torch.float32
    prune = model.apply(PruneChannels(fraction=0.5), "network")
    assert prune is None  # both widths are outputs


def test_inputs_are_those_of_the_module_by_position_and_by_name() -> None:
    model = check_same(Asking(), asked)
    args, named = asked(4)
    wanted = model(*args, **named)
    assert torch.equal(model(args[0], mask=named["mask"], unused=None or args[2], places=args[1], **{
        key: value for key, value in named.items() if key != "mask"
    }), wanted)  # fmt: skip
    with pytest.raises(UsageError, match=r"argument scale is 2.0, and the network was imported with 0.5"):
        model(*args, **{**named, "scale": 2.0})
    with pytest.raises(UsageError, match=r"imported with the arguments ids, places, unused, mask, gain, scale, and"):
        model(*args)
    with pytest.raises(UsageError, match=r"argument unused: a NoneType, and it was imported with a tensor"):
        model(args[0], args[1], None, **named)


def test_one_argument_by_its_name() -> None:
    model = from_module(nn.Sequential(nn.Linear(6, 3)), torch.randn(2, 6))
    x = torch.randn(4, 6)
    assert torch.equal(model(input=x), model(x))


def test_several_inputs_in_containers() -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, batch: dict[str, Any], *more: Tensor) -> Tensor:
            return self.layer(batch["x"]) + batch["pair"][1] * more[0]  # type: ignore[no-any-return]

    def given(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        first = {"x": torch.randn(batch, 6), "pair": (torch.randn(batch, 3), torch.randn(batch, 3)), "id": "a"}
        return (first, torch.randn(batch, 3)), {}

    model = check_same(Fed(), given)
    (first, more), _ = given(3)
    with pytest.raises(UsageError, match=r"with the arguments batch, 1 by position alone, and is called with batch;"):
        model(first)
    with pytest.raises(UsageError, match=r"argument batch is given by position and by name; give it once"):
        model(first, more, batch=first)
    with pytest.raises(UsageError, match=r"argument batch.pair: was imported as a tuple of 0, 1; pass one like it"):
        model({**first, "pair": (first["x"],)}, more)
    with pytest.raises(UsageError, match=r"argument batch.id is 'b', and the network was imported with 'a'"):
        model({**first, "id": "b"}, more)


def test_a_batch_that_is_not_first_is_turned_by_call() -> None:
    net = nn.LSTM(6, 4)
    model = from_module(net, torch.randn(2, 5, 6), call=lambda module, x: module(x.transpose(0, 1))[0].transpose(0, 1))
    x = torch.randn(3, 5, 6)
    assert torch.equal(model(x), net(x.transpose(0, 1))[0].transpose(0, 1))


def test_passes_look_at_the_first_floating_output_of_both_modes() -> None:
    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.two(self.one(x).relu())
            return {"best": y.argmax(1), "logits": y}

    model = check_same(Ids(), vectors)
    outputs = [model.graph.infer.types[port].dtype for port in model.graph.outputs]
    assert outputs == ["float32", "int64"]
    labels = torch.tensor([0, 1, 2, 0])
    rewrite = model.apply(
        PruneChannels(fraction=0.5, score="taylor"), "network", images=torch.randn(4, 6), labels=labels
    )
    assert rewrite is not None and model(torch.randn(3, 6))["logits"].shape == (3, 3)


def test_copies_files_and_pickles_return_the_same(tmp_path: Any) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor, shift: Tensor) -> dict[str, Any]:
            return {"y": self.layer(x) + shift, "n": 3}

    shift = torch.randn(3)
    model = from_module(Named(), torch.randn(2, 6), shift=shift)
    x = torch.randn(4, 6)
    wanted = model(x, shift)
    torch.save(model, tmp_path / "model.pt")
    nasir.save(tmp_path / "model.nasir", model)
    others = [copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)]
    for other in (*others, nasir.load(tmp_path / "model.nasir").model):
        given = other(x=x, shift=shift)
        assert given.keys() == wanted.keys() and given["n"] == 3 and torch.equal(given["y"], wanted["y"])
    odd = from_module(Answering(), torch.randn(2, 6))
    with pytest.raises(UsageError, match=r"Answer.*torch.save"):
        nasir.save(tmp_path / "odd.nasir", odd)


def test_classes_that_cannot_be_found_again_are_refused() -> None:
    @dataclass
    class Local:
        y: Tensor

    class Given(nn.Module):
        def forward(self, x: Tensor) -> Local:
            return Local(x.relu())

    with pytest.raises(NasirError, match=r"takes or returns a .*Local, which cannot be found by that name; define"):
        from_module(Given(), torch.randn(2, 6))


@pytest.mark.parametrize(
    "name", named(["several", "lstm", "llama", "t5", "tiny vit", "tiny swin", "custom", "shared", "u-net"])
)
def test_networks_of_others_return_the_same(name: str) -> None:
    check_same(FAST[name].made(), FAST[name].arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    named(
        [
            *["fcn_resnet50", "lraspp_mobilenet_v3_large", "maxvit_t", "swin_v2_t"],
            *["timm mobileone_s0", "timm levit_128s"],
            *[
                f"transformers {name}"
                for name in ("bert", "gpt2", "whisper", "dinov2", "bart", "swin", "clip vision", "opt")
            ],
        ]
    ),
)
def test_more_networks_of_others_return_the_same(name: str) -> None:
    check_same(SLOW[name].made(), SLOW[name].arguments, steps=1)


class Twice(nn.Module):
    """A module without a rule that is called twice, by name, with weights that another one has, too."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(6, 6, batch_first=True)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.1, batch_first=True)
        self.out = nn.Linear(6, 6, bias=False)
        self.out.weight = self.attend.out_proj.weight

    def forward(self, x: Tensor) -> Tensor:
        x, last = self.cell(input=x)
        x, _ = self.cell(x, hx=last)
        y, weights = self.attend(query=x, key=x, value=x, average_attn_weights=False)
        y, _ = self.attend(y, x, x, need_weights=False)
        return self.out(y) + weights.mean()  # type: ignore[no-any-return]


def sequences(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(batch, 5, 6),), {}


def test_modules_without_a_rule_may_be_called_twice() -> None:
    net = Twice()
    model = check_same(net, sequences)
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.graph.cost().params == sum(p.numel() for p in net.parameters())
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.isfinite(other(*sequences(3)[0])).all() and other(*sequences(3)[0]).any()
    optimizer = torch.optim.AdamW(model.parameters())
    model(*sequences(3)[0]).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda: nn.Linear(6, 4), vectors),
        (lambda: nn.GRU(6, 4, batch_first=True), sequences),
        (nn.ReLU, vectors),
        (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), sequences),
    ],
)
def test_a_layer_may_be_the_whole(make: Any, arguments: Any) -> None:
    net = make()
    assert check_same(net, arguments).state_dict().keys() == net.state_dict().keys()


def test_whole_numbers_stay_whole_where_a_pass_looks() -> None:
    net = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    ids = torch.randint(0, 11, (4, 5))
    model = from_module(net, ids)
    prune = PruneChannels(fraction=0.5, score="taylor")
    assert model.apply(prune, "network", images=ids, labels=torch.tensor([0, 1, 2, 0])) is not None


def test_what_cannot_be_imported_is_told_with_its_remedy() -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 2)

    class Blind(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.zeros(len(x), 2) + y.sum()

    with pytest.raises(NasirError, match="reads no numbers of what it is called with"):
        from_module(Deaf(), torch.randn(2, 6))
    with pytest.raises(NasirError, match=r"torch.zeros in the root .*test_import_borders.py:\d+: takes its size from"):
        from_module(Blind(), torch.randn(2, 6), torch.randn(3))
    with pytest.raises(UsageError, match=r"wrapped in DataParallel; give what is in it, its `.module`"):
        from_module(nn.DataParallel(nn.Linear(6, 3)), torch.randn(2, 6))
    with pytest.raises(UsageError, match=r"wrapped in OptimizedModule; give what is in it, its `._orig_mod`"):
        from_module(torch.compile(nn.Linear(6, 3), backend="eager"), torch.randn(2, 6))  # type: ignore[arg-type]
