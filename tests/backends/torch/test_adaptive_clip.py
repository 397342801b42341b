"""Adaptive gradient clipping against the definition, unit by unit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from grown import images, lived, pyramid
from test_clip import branched, gradients
from torch import nn

from nasir.backends.torch import Model
from nasir.backends.torch.train.adaptive import adaptive_clipper
from nasir.backends.torch.train.clip import clipping
from nasir.errors import OptionError, UsageError
from nasir.ir import Draft, Graph
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.remove_norms import RemoveNorms
from nasir.rewriting.rewrite import WHOLE
from nasir.training.plans import AdaptiveClip, TrainPlan

CLIP = AdaptiveClip(factor=0.05)


def by_definition(gradient: np.ndarray, weight: np.ndarray, clip: AdaptiveClip) -> np.ndarray:
    """A unit after the other; arrays of [units, ...]."""
    out = gradient.copy()
    for unit in range(len(weight)):
        longest = clip.factor * max(float(np.sqrt((weight[unit] ** 2).sum())), clip.eps)
        length = float(np.sqrt((gradient[unit] ** 2).sum()))
        if length > longest:
            out[unit] = gradient[unit] * longest / length
    return out


def every_kind() -> Graph:
    """Layers of all kinds of kernels: plain, grouped, depthwise, transposed, standardized, linear; scalars, a norm."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 6, 6])
    x = draft.add("conv2d", x, "plain", out=4, kernel=3, padding=1)
    x = draft.add("batch_norm", x, "norm")
    x = draft.add("conv2d", x, "grouped", out=6, kernel=2, groups=2, bias=True)
    x = draft.add("scale", x, "scale", value=0.0)
    x = draft.add("scalar_bias", x, "shift")
    x = draft.add("conv2d", x, "depthwise", out=6, kernel=3, groups=6, bias=True)
    x = draft.add("conv_transpose2d", x, "transposed", out=4, kernel=2, bias=True)
    x = draft.add("conv_transpose2d", x, "transposed_groups", out=6, kernel=2, groups=2)
    x = draft.add("ws_conv2d", x, "standardized", out=3, kernel=2)
    x = draft.add("linear", draft.add("global_avg_pool", x, "pool"), "hidden", out=5)
    draft.output(draft.add("linear", x, "fc", out=3))
    return draft.commit()


def units_first(name: str, array: np.ndarray) -> Iterator[np.ndarray]:
    """The array as [units, ...]; whole arrays as one unit."""
    if name == "transposed.weight":
        yield array.swapaxes(0, 1)
    elif name == "transposed_groups.weight":
        yield from (part.swapaxes(0, 1) for part in (array[:2], array[2:]))
    else:
        yield array if array.ndim > 1 and name != "standardized.gain" else array.reshape(1, -1)


@pytest.mark.parametrize("clip", [CLIP, AdaptiveClip(), AdaptiveClip(factor=0.3, eps=0.5, head=True, scalars=False)])
def test_every_unit_is_clipped_as_by_the_definition(clip: AdaptiveClip) -> None:
    model = lived(every_kind(), dtype=torch.float64)
    with torch.no_grad():
        model.state_dict()["scale.weight"].fill_(0.1)
    model(images(8, 6, dtype=torch.float64).repeat(1, 2, 1, 1)[:, :4]).square().sum().mul(50.0).backward()
    with torch.no_grad():
        model.state_dict()["scale.weight"].fill_(0.0)  # it counts as long as eps
    before = {name: p.grad.clone().numpy() for name, p in model.named_parameters() if p.grad is not None}
    adaptive_clipper(model, clip)()
    clipped, free = 0, 0
    for name, parameter in model.named_parameters():
        spared = (name.startswith("fc.") and not clip.head) or (parameter.ndim == 0 and not clip.scalars)
        assert parameter.grad is not None
        for old, new, weight in zip(
            units_first(name, before[name]),
            units_first(name, parameter.grad.numpy()),
            units_first(name, parameter.detach().numpy()),
            strict=True,
        ):
            wanted = old if spared else by_definition(old, weight, clip)
            assert np.allclose(new, wanted, rtol=1e-12, atol=0.0), name
            clipped, free = clipped + int(not np.array_equal(wanted, old)), free + int(np.array_equal(wanted, old))
    assert clipped and free


def test_a_unit_that_has_no_gradient_and_weights_that_do_not_learn_stay() -> None:
    model = lived(every_kind(), dtype=torch.float64)
    model.get_parameter("plain.weight").requires_grad_(False)
    model(torch.ones(2, 4, 6, 6, dtype=torch.float64)).sum().backward()
    gradient = model.get_parameter("hidden.weight").grad
    assert gradient is not None
    gradient[0] = 0.0
    adaptive_clipper(model, CLIP)()
    assert not gradient[0].any() and bool(torch.isfinite(gradient).all())
    assert model.get_parameter("plain.weight").grad is None


def test_of_accumulated_gradients_it_acts_on_the_sum_and_of_scaled_ones_after_they_are_unscaled() -> None:
    x = images(8, 6, dtype=torch.float64).repeat(1, 2, 1, 1)[:, :4]
    models = [lived(every_kind(), dtype=torch.float64).eval() for _ in range(3)]
    whole, parts, scaled = models
    whole(x).square().sum().backward()
    for part in x.chunk(4):
        parts(part).square().sum().backward()
    (scaled(x).square().sum() * 1024.0).backward()
    for parameter in scaled.parameters():
        assert parameter.grad is not None
        parameter.grad /= 1024.0
    for model in models:
        adaptive_clipper(model, CLIP)()
    for other in (parts, scaled):
        for mine, wanted in zip(other.parameters(), whole.parameters(), strict=True):
            assert mine.grad is not None and wanted.grad is not None
            assert torch.allclose(mine.grad, wanted.grad, rtol=1e-10, atol=1e-14)


def test_merged_branches_are_clipped_as_they_were_apart() -> None:
    apart, together = (lived(branched(), dtype=torch.float64) for _ in range(2))
    together.apply(MergeBranches().attempt(together.graph, WHOLE))
    for model in (apart, together):
        gradients(model)
        clip = AdaptiveClip(factor=1e-3, head=True)
        adaptive_clipper(model, clip)()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.eval()
    x = images(size=8, dtype=torch.float64)
    assert float((apart(x) - together(x)).detach().abs().max()) < 1e-9


def test_the_classifiers_of_branches_are_last_layers() -> None:
    model = lived(branched(), dtype=torch.float64)
    before = gradients(model)
    adaptive_clipper(model, AdaptiveClip(factor=1e-6))()
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    same = {name for name in before if torch.equal(after[name], before[name])}
    assert same == {name for name in before if name.rpartition(".")[0].endswith("fc")} and len(same) == 6


def backward(model: Model) -> dict[str, torch.Tensor]:
    model(images(size=8, dtype=torch.float64)).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_both_clips_one_after_the_other() -> None:
    model = Model.from_graph(pyramid((1,), 4, size=8), dtype=torch.float64)
    backward(model)
    assert clipping(model, TrainPlan()) is None
    clip = clipping(model, TrainPlan(adaptive_clip=CLIP, gradient_clip=1e-3))
    assert clip is not None
    clip()
    total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert float(total) == pytest.approx(1e-3, rel=1e-2)


def test_a_network_without_norms_is_clipped() -> None:
    model = lived(pyramid((1,), 4, size=8), dtype=torch.float64)
    model.apply(RemoveNorms(form="fixup"), WHOLE)
    before = backward(model)
    adaptive_clipper(model, AdaptiveClip(factor=1e-6))()
    assert all(not torch.equal(p.grad, before[n]) for n, p in model.named_parameters() if n in before and "fc" not in n)


def test_what_it_cannot_do_is_told() -> None:
    with pytest.raises(UsageError, match="adaptive_clip asks what a Linear is made of; train a nasir"):
        clipping(nn.Linear(2, 2), TrainPlan(adaptive_clip=CLIP))
    with pytest.raises(OptionError, match=r"adaptive_clip: factor: must be above 0, found 0\.0; use a value above 0"):
        AdaptiveClip(factor=0.0)
