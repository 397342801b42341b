"""What a user changed on a model by hand is kept by a rewrite, or refused before anything changes; never undone."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from grown import images, resize
from networks import small_resnet
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from nasir.backends.torch import Model
from nasir.errors import NasirWarning, UsageError
from nasir.ir import Port
from nasir.passes import InsertBlock, PruneChannels, RemoveBlock
from nasir.rewriting.rewrite import Rewrite
from nasir.transfer import derive


@pytest.fixture
def model() -> Model:
    """To resize `s1.0.conv1` rebuilds that, its norm and `s1.0.conv2`; `conv1` stem and stage 1; `s2.0.conv2` fc."""
    return Model.from_graph(small_resnet((1, 2)))


def at(model: nn.Module, path: str) -> Any:
    return model.get_submodule(path)


def put(model: Model, path: str, module: nn.Module | None) -> Any:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    return module


class Lora(nn.Module):
    """A low-rank adapter around a layer."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


class Loud(nn.Conv2d):
    """A convolution of the user's own, with the same weights."""

    gain = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class Block(nn.Module):
    """A block of the user's own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + 1
        return result


# -- layers that the rewrite leaves alone


REPLACEMENTS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "head": ("fc", lambda _: nn.Linear(8, 5)),
    "no head": ("fc", lambda _: nn.Identity()),
    "adapter": ("fc", Lora),
    "in a block": ("s1.0.conv2", lambda _: Loud(4, 4, 3, padding=1, bias=False)),
    "a block": ("s1.0", Block),
    "weight norm": ("s2.0.conv1", parametrizations.weight_norm),
    "spectral norm": ("fc", parametrizations.spectral_norm),
    "pruned": ("s1.0.conv1", lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
}


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_a_layer_that_is_not_touched_stays_what_it_was_made_by_hand(model: Model, kind: str) -> None:
    path, change = REPLACEMENTS[kind]
    mine = put(model, path, change(at(model, path)))
    inside = list(mine.parameters())
    model.eval()
    for site in ("s2", "s1"):
        before, x = model(images(2, 8)), images(2, 8)
        model.apply(InsertBlock(init="zero"), site)  # exact: the identity behind what is there
        assert at(model, path) is mine and torch.allclose(model(x), before, atol=1e-6)
    model.apply(RemoveBlock(), "s2.1")
    assert at(model, path) is mine and [id(p) for p in mine.parameters()] == [id(p) for p in inside]
    called: list[int] = []
    mine.register_forward_hook(lambda *_: called.append(1))
    model(images(2, 8))
    assert called == [1]


def test_an_adapter_in_a_block_that_is_built_anew_around_it_is_called_there(model: Model) -> None:
    mine = put(model, "s1.0.conv1", Loud(4, 4, 3, padding=1, bias=False))
    inner = at(model, "s1.0")
    draft = model.graph.draft()  # another op in the same block: the block's code changes, the layer does not
    bn = next(n for n, node in model.graph.nodes.items() if node.label == "s1.0.bn1")
    relu = next(n for n, node in model.graph.nodes.items() if node.label == "s1.0.relu")
    middle = draft.add("relu", Port(bn), "s1.0.extra")
    draft.rewire_node(relu, (middle,))
    new = draft.commit()
    model.apply(Rewrite(model.graph, new, derive(draft, new), {}, "s1.0", "approximate"))
    assert at(model, "s1.0") is not inner and at(model, "s1.0.conv1") is mine


# -- layers that the rewrite makes anew


@pytest.mark.parametrize("kind", ["head", "no head", "adapter", "weight norm", "spectral norm", "pruned", "a block"])
def test_what_cannot_go_through_a_rewrite_is_refused_with_its_name_and_changes_nothing(model: Model, kind: str) -> None:
    path, change = REPLACEMENTS[kind]
    mine = put(model, path, change(at(model, path)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graph, members = model.graph, list(optimizer.param_groups[0]["params"])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=rf"'{path}.*put back a module with the weights of this layer"):
        resize(model, {"fc": "s2.0.conv2", "s1.0": "s1.0.conv1"}.get(path, path), [0, 2, 1])
    assert model.graph is graph and at(model, path) is mine
    assert list(map(id, members)) == list(map(id, optimizer.param_groups[0]["params"]))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_was_refused_goes_through_once_it_is_put_back(model: Model) -> None:
    plain = at(model, "s1.0.conv1")
    parametrizations.weight_norm(plain)
    with pytest.raises(UsageError, match=r"s1\.0\.conv1"):
        resize(model, "s1.0.conv1", [0, 1])
    parametrize.remove_parametrizations(plain, "weight")
    weight = plain.weight.detach().clone()
    resize(model, "s1.0.conv1", [0, 1])
    assert torch.equal(at(model, "s1.0.conv1").weight, weight[[0, 1]])


def test_modules_with_the_same_weights_are_taken_for_the_layers(model: Model) -> None:
    head = put(model, "fc", nn.Linear(8, 3))
    loud = put(model, "s1.0.conv1", Loud(4, 4, 3, padding=1, bias=False))
    loud.gain = 3.0
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norm = at(model, "s1.0.bn1")
    assert type(norm) is nn.SyncBatchNorm
    weights = loud.weight.detach().clone()
    resize(model, "s1.0.conv1", [0, 2, 3])
    resize(model, "s2.0.conv2", [0, 1, 2])
    layer, fresh = at(model, "s1.0.conv1"), at(model, "s1.0.bn1")
    assert type(layer) is Loud and layer.gain == 3.0 and layer.out_channels == 3
    assert torch.equal(layer.weight, weights[[0, 2, 3]])
    assert type(fresh) is nn.SyncBatchNorm and fresh.num_features == 3 and fresh is not norm
    assert all(type(m) is not nn.BatchNorm2d for m in model.modules())
    assert torch.equal(at(model, "fc").weight, head.weight[:, [0, 1, 2]]) and torch.equal(
        at(model, "fc").bias, head.bias
    )
    model.eval()(images(2, 8))


def test_attributes_set_by_hand_stay_on_layers_that_are_made_anew(model: Model) -> None:
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum, norm.eps = 0.01, 1e-3
    at(model, "s1.0.conv1").note = ["mine"]
    resize(model, "s1.0.conv1", [0, 2])
    assert all((m.momentum, m.eps) == (0.01, 1e-3) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert at(model, "s1.0.conv1").note == ["mine"]
    resize(model, "s1.0.conv1", [0, 1, 1])  # and through the next one
    assert at(model, "s1.0.bn1").momentum == 0.01 and at(model, "s1.0.bn1").num_features == 3


@pytest.mark.parametrize("what", ["forward", "bound", "tensor"])
def test_attributes_that_belong_to_the_old_layer_are_refused(model: Model, what: str) -> None:
    layer = at(model, "s1.0.conv1")
    if what == "forward":
        layer.forward = types.MethodType(lambda self, x: nn.Conv2d.forward(self, x), layer)
    elif what == "bound":
        layer.other = layer.extra_repr
    else:
        layer.mask = torch.ones(4)
    graph = model.graph
    with pytest.raises(UsageError, match=r"'s1\.0\.conv1': its attribute"):
        resize(model, "s1.0.conv1", [0, 2])
    assert model.graph is graph
    model.apply(InsertBlock(), "s1")  # which leaves it alone
    assert at(model, "s1.0.conv1") is layer


def test_an_attribute_that_both_change_is_refused(model: Model) -> None:
    at(model, "s1.0.conv1").out_channels = 9
    with pytest.raises(UsageError, match=r"out_channels was set to 9 by hand, .*set it back to 4"):
        resize(model, "s1.0.conv1", [0, 2])


def test_hooks_move_to_layers_and_blocks_that_are_made_anew(model: Model) -> None:
    heard: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: heard.append(name)

    handles = [
        at(model, "s1.0.conv1").register_forward_hook(hook("forward")),
        at(model, "s1.0.conv1").register_forward_hook(lambda m, a, k, y: heard.append("kwargs"), with_kwargs=True),
        at(model, "s1.0.bn1").register_forward_pre_hook(hook("pre")),
        at(model, "s1.0.conv1").register_full_backward_hook(hook("backward")),
        at(model, "s1.0").register_forward_hook(hook("block")),
        model.register_forward_hook(hook("model")),
    ]
    resize(model, "s1.0.conv1", [0, 2])
    model(images(2, 8)).sum().backward()
    assert heard == ["forward", "kwargs", "pre", "block", "model", "backward"]
    for handle in handles:
        handle.remove()
    model(images(2, 8)).sum().backward()
    assert len(heard) == 6


def test_hooks_on_a_gradient_are_not_lost(model: Model) -> None:
    weight = at(model, "s1.0.conv1").weight
    handle = weight.register_hook(lambda g: g * 2)
    model.apply(InsertBlock(), "s1")
    with pytest.raises(UsageError, match=r"'s1\.0\.conv1\.weight' has hooks on its gradient"):
        resize(model, "s1.0.conv1", [0, 2])
    handle.remove()
    resize(model, "s1.0.conv1", [0, 2])


def test_a_hook_on_a_stage_which_is_never_called_is_warned_of(model: Model) -> None:
    for name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        with pytest.warns(NasirWarning, match=f"{name}: a stage only holds its blocks"):
            getattr(at(model, "s1"), name)(lambda *_: None)


def test_modules_that_were_added_stay(model: Model) -> None:
    model.projector = nn.Linear(3, 2)
    block = at(model, "s1.0")
    block.add_module("probe", nn.Linear(2, 2))
    at(model, "s2").add_module("aside", nn.Linear(1, 1))
    model.register_buffer("steps", torch.zeros(()))
    kept = [model.projector, at(model, "s1.0.probe"), at(model, "s2.aside")]
    resize(model, "s1.0.conv1", [0, 2])
    model.apply(InsertBlock(), "s2")
    assert at(model, "s1.0") is not block
    assert [at(model, name) for name in ("projector", "s1.0.probe", "s2.aside")] == kept
    assert "steps" in dict(model.named_buffers())
    model(images(2, 8))


def test_a_part_that_was_removed_is_told(model: Model) -> None:
    del model.fc
    with pytest.raises(UsageError, match="'fc': this part of the model was removed by hand"):
        model.apply(InsertBlock(), "s1")


def test_modes_of_containers_blocks_and_layers_are_kept(model: Model) -> None:
    at(model, "s1.0.bn1").eval()
    resize(model, "s1.0.conv1", [0, 2])
    assert not at(model, "s1.0.bn1").training and at(model, "s1.0").training
    model.eval()
    resize(model, "s1.0.conv1", [0, 1, 1])
    model.apply(InsertBlock(), "s1")
    resize(model, "s2.0.conv1", [0, 1])  # its block has a container for the shortcut
    assert not [name for name, module in model.named_modules() if module.training]
    at(model, "s2").train()
    model.apply(InsertBlock(), "s1")
    assert at(model, "s2").training and not at(model, "s1").training


def test_a_block_that_was_replaced_is_not_measured(model: Model) -> None:
    put(model, "s1.0", Block(at(model, "s1.0")))
    site = next(space for space in model.graph.infer.spaces if space.name == "s1.0.conv1")
    with pytest.raises(UsageError, match=r"'s1\.0"):
        model.apply(PruneChannels(fraction=0.5), site)
