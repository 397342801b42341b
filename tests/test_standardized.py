"""Standardized convolutions in networks: what passes claim of them, and what they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grown import images, lived, logits

import nasir
from nasir.backends.torch import Model
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.widen import Widen
from nasir.testing import evaluate, random_batch, random_weights, transferred
from nasir.transfer import Key

SPEC = """\
nasir: 1
name: standardized
input: {image: [3, 8, 8]}
blocks:
  unit:
    branch: [relu, {ws_conv2d: {out: out, kernel: 3, stride: stride, padding: 1%s}}]
    shortcut: identity
network:
  - conv: {out: 4}
  - stage: {name: s1, block: unit, out: 4, depth: 2}
  - classifier: {classes: 5}
data: {dataset: synthetic}
phases:
  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}
"""


def test_a_block_that_ends_in_one_starts_silent_by_its_gain() -> None:
    model = lived(nasir.build(SPEC % ""), dtype=torch.float64)
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x)
    rewrite = model.apply(InsertBlock(), "s1")
    assert rewrite is not None and rewrite.preserves == "exact" and torch.equal(logits(model, x), before)
    names = [name for name, _ in model.named_parameters() if name.startswith("s1.2.")]
    model(x).square().sum().backward()
    assert all(model.get_parameter(name).grad is not None for name in names)
    assert bool(model.get_parameter(next(name for name in names if name.endswith("gain"))).grad.any())


def test_without_a_gain_it_cannot_be_silent() -> None:
    model = Model.from_graph(nasir.build(SPEC % ", gain: false"))
    with pytest.raises(Decline, match=r"the branch ends in 's1\.2\.\w+' \(ws_conv2d\), which has no weights to set"):
        InsertBlock().attempt(model.graph, "s1")


def two_layers() -> Graph:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 6, 6]), "first", out=4, kernel=1)
    x = draft.add("ws_conv2d", x, "second", out=4, kernel=3)
    x = draft.add("conv2d", draft.add("relu", x, "act"), "third", out=4, kernel=1)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=3))
    return draft.commit()


def test_removing_silent_outputs_is_exact_and_removing_inputs_is_not_claimed() -> None:
    graph = two_layers()
    read, written = (graph.infer.slots[graph.find(label)]["weight"].axes[0].space for label in ("first", "second"))
    assert read.mixed == "second" and not written.mixed
    weights = dict(random_weights(graph, 0))
    for label in ("first", "second"):
        key = Key(graph.find(label), "gain" if label == "second" else "weight")
        weights[key] = np.where(np.arange(4).reshape(-1, 1, 1, 1) == 2, 0.0, weights[key])
    weights[Key(graph.find("second"), "bias")][2] = 0.0
    told = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in weights.items()}
    scores = {space.name: np.array([1.0, 1.0, 0.0, 1.0][: space.size]) for space in (read, written)}
    seen = nasir.Evidence({"weights": told, "weight_l2": scores})
    for space in (read, written):
        rewrite = PruneChannels(score="l2", fraction=0.25, floor=1).attempt(graph, space, seen)
        after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
        batch = random_batch(graph, 1)
        change = abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max()
        assert rewrite.preserves == "no"  # whether its gain is zero, no analysis asks
        assert bool(change < 1e-12) is (space is written)


def test_widening_what_it_reads_is_not_exact_and_what_it_writes_is() -> None:
    graph = two_layers()
    read, written = (graph.infer.slots[graph.find(label)]["weight"].axes[0].space for label in ("first", "second"))
    weights, batch = random_weights(graph, 0), random_batch(graph, 1)
    for space, claim in ((read, "no"), (written, "exact")):
        rewrite = Widen(units=2, how="fresh").attempt(graph, space)
        assert rewrite.preserves == claim
        after = transferred(rewrite.plan, rewrite.graph, weights)
        change = abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max()
        assert bool(change < 1e-12) is (claim == "exact")


def test_every_kernel_has_the_same_length_whatever_its_weights_are() -> None:
    model = lived(nasir.build(SPEC % ", gamma: 2.0, eps: 0.0"), dtype=torch.float64)
    for name, module in model.named_modules():
        if hasattr(module, "standardized"):
            kernel = module.standardized()
            assert torch.allclose(kernel.sum(dim=(1, 2, 3)), torch.zeros(4, dtype=torch.float64), atol=1e-12), name
            lengths = kernel.square().sum(dim=(1, 2, 3))
            assert torch.allclose(lengths, torch.full((4,), 4.0, dtype=torch.float64), rtol=1e-12), name
