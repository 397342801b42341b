"""The networks of docs/your-model.md by the dead-channel oracle: what is pruned of them is what was silent."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nasir
from nasir.backends.torch.importing import runner
from nasir.testing import dead_unit_difference, silenced, unit_axes

PAGE = Path(__file__).parents[2] / "docs/your-model.md"
BLOCK = re.compile(r"<!-- run -->\n```python\n(.*?)\n```", re.S)
ROUNDING = 1e-10
NETWORKS = {
    "Net": (lambda: torch.randn(3, 3, 16, 16, dtype=torch.float64), ("encoder", "bottom", "head")),
    "GPT": (lambda: torch.randint(64, (3, 16)), ("layers",)),
}


def classes() -> dict[str, Any]:
    """What the page defines, without its loops."""
    names: dict[str, Any] = {"__name__": "your_model"}
    for text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        exec(text.partition("\ntorch.manual_seed(0)\n")[0], names)  # the repository's own text
    return names


def lively(net: nn.Module) -> nn.Module:
    """In float64 and evaluation, with biases, norms and running statistics away from 0 and 1."""
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data += 0.1 * torch.rand_like(tensor)
    return net.double().eval()


def writers(graph: nasir.Graph) -> Iterator[tuple[Any, dict[str, Any], range]]:
    """Every space that may be resized and that no norm runs over, where it is written, and a third of its units."""
    for space in graph.infer.spaces:
        if space.resizable and space.size > 1 and not space.mixed:
            yield space, unit_axes(graph, space, ("write", "along")), range(0, space.size, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_tutorial_are_pruned_right(name: str) -> None:
    torch.manual_seed(0)
    examples, stages = NETWORKS[name]
    example: Tensor = examples()
    net = lively(classes()[name]())
    model = nasir.from_module(copy.deepcopy(net), example).eval()
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    quiet, places = dict(state), list(writers(model.graph))
    assert places
    for _, axes, units in places:
        quiet = silenced(quiet, axes, units)
    model.load_state_dict({key: torch.as_tensor(value) for key, value in quiet.items()})
    before = model.graph.cost().params
    rewrite = model.apply(nasir.get_pass("prune-channels")(score="group_lasso", threshold=0.0), "network")
    assert rewrite is not None and model.graph.cost().params < before
    outputs = [value.detach().numpy() for value in tree_leaves(model(example))]
    run = runner(net, (example,))
    _, axes, units = places[-1]
    others = {**quiet, **{key: state[key] for key in axes}}
    assert dead_unit_difference(run, quiet, axes, units, outputs) < ROUNDING
    assert dead_unit_difference(run, others, axes, [unit + 1 for unit in units[:-1]], outputs) > 1e-6  # not these units
    for stage in stages:
        depth, wanted = model.graph.depths()[stage], tree_leaves(model(example))
        grown = model.apply(nasir.get_pass("insert-block")(init="zero"), stage)
        assert grown is not None and grown.preserves == "exact" and model.graph.depths()[stage] == depth + 1
        assert all(map(torch.equal, tree_leaves(model(example)), wanted))
