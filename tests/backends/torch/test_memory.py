"""What a rewrite allocates: nothing of note beside what it changes, layouts kept, and the meter that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from grown import pyramid

from nasir.backends.torch import Model
from nasir.backends.torch.arrays import TorchArrays, _gather_at_once, _turned
from nasir.backends.torch.device.meter import Meter, nbytes, tensors_of
from nasir.ir import Draft, Graph
from nasir.passes.grow_kernel import GrowKernel
from nasir.passes.insert_block import InsertBlock
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.transfer import Blob, Key, TransferPlan, execute


@dataclass(frozen=True)
class Halve(Pass):
    """Every second unit of all spaces."""

    def sites(self, graph: Graph) -> list[str]:
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        assert draft.base is not None
        for space in draft.base.infer.spaces:
            if space.resizable:
                draft.select(space, np.arange(0, space.size, 2))


CASES = {
    "prune": (Halve(), WHOLE),
    "copies": (Widen(factor=1.5, noise=0.01), WHOLE),
    "fresh": (Widen(factor=1.5, how="fresh"), WHOLE),
    "pairs": (Widen(factor=1.5, how="paired"), WHOLE),
    "kernels": (GrowKernel(), WHOLE),
    "block": (InsertBlock(init="zero"), "s2"),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_the_peak_is_what_changes_and_a_tenth(case: str, channels_last: bool) -> None:
    """Weights and both moments of Adam; the old weights stay until the new network takes over."""
    model = Model.from_graph(pyramid((1, 1), 176, size=8), channels_last=channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        moments = {name: torch.full_like(parameter, 0.5, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(2.0), **moments}
    rule, site = CASES[case]
    rewrite = rule.attempt(model.graph, site)
    with Meter(tensors_of(model, [optimizer])) as meter:
        model.apply(rewrite, optimizers=[optimizer])
    changed = 0
    for key in rewrite.plan.sources:
        tensor = model.tensor(key)
        moments = [v for v in optimizer.state.get(tensor, {}).values() if v.shape == tensor.shape]
        changed += nbytes([tensor, *moments])
        if tensor.dim() == 4 and channels_last:
            assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (tensor, *moments))
    assert 2**22 < changed and meter.extra <= 1.1 * changed


def test_the_meter_sees_what_comes_and_goes() -> None:
    old = [torch.zeros(1 << 20)]
    with Meter(old) as meter:
        first = torch.ones(1 << 20)  # 4 MiB
        twice = first * 2  # 8
        del first
        view = twice[:10].add_(1.0)  # 4, no more
        old.clear()  # 0
        array = np.ones(1 << 19)  # 4
    assert 8 * 2**20 <= meter.extra < 8.1 * 2**20 and view[0] == 3.0 and len(array) == 1 << 19
    with Meter() as meter:
        array = torch.from_numpy(np.ones(1 << 20)).float()
    assert 12 * 2**20 <= meter.extra < 12.1 * 2**20


@pytest.mark.parametrize("last", [False, True])
def test_gathers_are_those_of_numpy_in_the_layout_of_what_they_read(last: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = TorchArrays(torch.device("cpu"), torch.float32)
    array = torch.randn(70, 90, 3, 5)
    if last:
        array = array.contiguous(memory_format=torch.channels_last)
    for number in range(16):
        index = [rng.integers(0, n, n + 7) if number >> axis & 1 else None for axis, n in enumerate(array.shape)]
        taken = arrays.take(array, index, None)
        wanted = array.numpy()[
            np.ix_(*[np.arange(n) if i is None else i for i, n in zip(index, array.shape, strict=True)])
        ]
        assert np.array_equal(taken.numpy(), wanted) and taken.data_ptr() != array.data_ptr()
        assert taken.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        chosen = [(axis, torch.from_numpy(i)) for axis, i in enumerate(index) if i is not None]
        at_once = torch.empty_like(taken)
        _gather_at_once(array, chosen, at_once)
        assert torch.equal(at_once, taken)


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (700, 64, 3, 3), (4, 1, 3, 3), (4, 6, 1, 1), (1, 2, 3, 1)])
def test_an_array_is_turned_in_its_own_memory(shape: tuple[int, ...]) -> None:
    array = torch.arange(float(np.prod(shape))).reshape(shape)
    wanted, place = array.clone(), array.data_ptr()
    turned = _turned(array)
    assert torch.equal(turned, wanted) and turned.data_ptr() == place
    assert turned.is_contiguous(memory_format=torch.channels_last)


def test_a_literal_array_is_not_trained_along_with_the_weight() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[2, 4, 4]), "conv", out=3, kernel=3)
    draft.output(x)
    graph = draft.commit()
    array = np.ones((3, 2, 3, 3), dtype=np.float32)
    key = Key(x.node, "weight")
    for channels_last in (False, True):
        arrays = TorchArrays(torch.device("cpu"), torch.float32, channels_last)
        plan = TransferPlan({key: Blob("a", array.shape)})
        made = execute(plan, graph, lambda key: torch.zeros(0), arrays, seed=0, ordinal=1, blobs={"a": array})[key]
        made.add_(1.0)
        assert (array == 1.0).all() and bool((made == 2.0).all())
