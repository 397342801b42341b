"""Networks as specs write them, lowered and given a past: what tests of passes and backends start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.ir import Graph
from nasir.rewriting.rewrite import Rewrite
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.transfer import derive


def pyramid(
    depths: Sequence[int] = (1, 1, 1),
    width: int = 16,
    *,
    block: str = "basic",
    options: str = "",
    size: int = 32,
    classes: int = 10,
) -> Graph:
    """AutoGrow's layout: 3x3 stem, a stage for each depth, widths doubling and sizes halving. `options`: YAML."""
    stages = [
        f"  - stage: {{name: s{n + 1}, block: {block}, out: {width << n}, depth: {depth}, "
        f"stride: {2 if n else 1}{', ' if options else ''}{options}}}\n"
        for n, depth in enumerate(depths)
    ]
    text = (
        f"nasir: 1\nname: pyramid\ninput: {{image: [3, {size}, {size}]}}\nnetwork:\n"
        f"  - conv_bn_relu: {{out: {width}}}\n{''.join(stages)}  - classifier: {{classes: {classes}}}\n"
        "data: {dataset: synthetic}\nphases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )
    return build(loads_spec(text))


def lived(graph: Graph, seed: int = 0, dtype: torch.dtype = torch.float32) -> Model:
    """A model whose norms have random statistics, scales and shifts, as after some training."""
    model = Model.from_graph(graph, seed, dtype=dtype)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=random) * 1.5 + 0.5)
            elif name.endswith("running_mean") or ("bn" in name and name.endswith("bias")):
                tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.3)
            elif "bn" in name and name.endswith("weight"):
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return model


def images(count: int = 4, size: int = 32, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal colour images."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step(model: Model, *optimizers: torch.optim.Optimizer, seed: int = 1) -> None:
    """A step of training on six images."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    functional.cross_entropy(model(images(6, 8, seed)), torch.arange(6) % 3).backward()
    for optimizer in optimizers:
        optimizer.step()


def resize(model: Model, name: str, index: Sequence[int], *optimizers: torch.optim.Optimizer) -> None:
    """Give a space the units `index` of its old ones."""
    draft = model.graph.draft()
    draft.select(next(space for space in model.graph.infer.spaces if space.name == name), index)
    new = draft.commit()
    made_by = {"pass": "resize"}
    model.apply(Rewrite(model.graph, new, derive(draft, new), made_by, name, "approximate"), optimizers=optimizers)


def logits(model: Model, x: torch.Tensor, training: bool = False) -> torch.Tensor:
    """Logits in eval or train mode; running statistics are put back."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    with torch.no_grad():
        out: torch.Tensor = model(x)
    for module, flag in flags:
        module.training = flag
    for name, tensor in model.state_dict().items():
        tensor.copy_(before[name])
    return out


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
