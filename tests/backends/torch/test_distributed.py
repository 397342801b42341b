"""Two ranks: a rewrite of a model that is wrapped is refused, and the recipe of the message works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import warm

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed"),
]

HEAD = """
import sys
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import nasir
from nasir.passes import InsertBlock, PruneChannels
from networks import small_resnet

rank, store = int(sys.argv[1]), sys.argv[2]
model = nasir.Model.from_graph(small_resnet((1, 1)), seed=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def refused(change, *site, saying):
    graph, held = model.graph, list(map(id, optimizer.param_groups[0]["params"]))
    try:
        model.apply(change, *site, optimizers=[optimizer])
    except nasir.NasirError as error:
        assert saying in str(error), error
    else:
        raise AssertionError("not refused")
    assert model.graph is graph and held == list(map(id, optimizer.param_groups[0]["params"]))
"""
DDP = """
def step(seed):
    torch.manual_seed(10 * seed + rank)  # each rank has images of its own
    optimizer.zero_grad()
    functional.cross_entropy(parallel(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3).backward()
    optimizer.step()


def space(name):
    return next(space for space in model.graph.infer.spaces if space.name == name)


parallel = DistributedDataParallel(model)
step(0)
refused(InsertBlock(init="zero"), "s1", saying="wrapped in DistributedDataParallel")
refused(PruneChannels(fraction=0.5), space("s1.0.conv1"), saying="model = wrapped.module; del wrapped")
outer = DistributedDataParallel(torch.nn.Sequential(model))
del parallel
refused(InsertBlock(init="zero"), "s1", saying="wrapped in DistributedDataParallel")
del outer  # the recipe
for count, change in enumerate([InsertBlock(init="zero"), PruneChannels(fraction=0.5)]):
    site = space("s1.0.conv1") if count else "s1"
    assert model.apply(change, site, optimizers=[optimizer]) is not None
    parallel = DistributedDataParallel(model)
    step(2 * count + 1)
    step(2 * count + 2)
    del parallel
for name, tensor in model.named_parameters():
    every = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(every, tensor.detach())
    assert torch.equal(*every), name
assert len(list(model.parameters())) == 26
dist.destroy_process_group()
"""
SHARDED = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh

fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
refused(InsertBlock(init="zero"), "s1", saying="sharded")
dist.destroy_process_group()
"""


def on_two_ranks(script: str, tmp_path: Path) -> None:
    path = tmp_path / "ranks.py"
    path.write_text(HEAD + script)
    said = [tmp_path / f"said{rank}" for rank in range(2)]
    ranks = [warm.Process(str(path), str(rank), str(tmp_path / "store"), stderr=said[rank]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0], "\n".join(file.read_text() for file in said)


def test_a_wrapped_model_is_not_rewritten_and_the_recipe_keeps_the_ranks_equal(tmp_path: Path) -> None:
    on_two_ranks(DDP, tmp_path)


def test_a_sharded_model_is_not_rewritten(tmp_path: Path) -> None:
    on_two_ranks(SHARDED, tmp_path)
