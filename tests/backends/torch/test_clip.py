"""Gradients kept below a norm: of all weights, or of each branch that is trained by itself, merged or not."""

from __future__ import annotations

import pytest
import torch
from grown import images, lived, logits, pyramid
from torch import nn

from nasir.backends.torch import Model
from nasir.backends.torch.lower.ensemble import cross_entropy
from nasir.backends.torch.train.clip import clipper
from nasir.branching.independent import independent
from nasir.ir import Graph
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.split_branches import SplitBranches
from nasir.rewriting.rewrite import WHOLE

BOUND = 0.3


def branched(block: str = "basic", train: str = "separate") -> Graph:
    split = SplitBranches(branches=3, how="random", train=train)  # type: ignore[arg-type]
    return split.attempt(pyramid((1, 1), 8, block=block, size=8), "s2").graph


def gradients(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    """Of one batch, whose loss weighs the branches apart."""
    model.train()
    model.zero_grad()
    x = images(size=8, dtype=next(model.parameters()).dtype, seed=seed)
    cross_entropy(model(x) * torch.tensor([1.0, 4.0, 9.0]).reshape(1, 3, 1), torch.arange(len(x))).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def norm(grads: dict[str, torch.Tensor], prefix: str) -> float:
    return float(sum(g.square().sum() for name, g in grads.items() if name.startswith(prefix))) ** 0.5


def test_each_branch_and_the_stem_are_clipped_by_norms_of_their_own() -> None:
    model = lived(branched(), dtype=torch.float64)
    before = gradients(model)
    clipper(model, BOUND)()
    after = {name: p.grad for name, p in model.named_parameters()}
    stem = {name: g for name, g in before.items() if not name.startswith("branches.")}
    assert stem
    parts = [(f"branches.{n}.", {k: g for k, g in before.items() if k.startswith(f"branches.{n}.")}) for n in range(3)]
    norms = [norm(part, "") for _, part in [*parts, ("", stem)]]
    assert sum(value > BOUND for value in norms) >= 2 and len({round(value, 3) for value in norms}) == 4
    for part, whole in zip([*(part for _, part in parts), stem], norms, strict=True):
        factor = min(1.0, BOUND / (whole + 1e-6))
        for name, gradient in part.items():
            assert torch.allclose(after[name], gradient * factor, rtol=1e-12, atol=0), name


def test_a_branch_below_the_bound_is_left_alone_whatever_the_others_do() -> None:
    model = lived(branched(), dtype=torch.float64)
    before = gradients(model)
    bound = norm(before, "branches.0.") * 1.01
    assert norm(before, "branches.2.") > 2 * bound
    clipper(model, bound)()
    for name, parameter in model.named_parameters():
        if name.startswith("branches.0."):
            assert torch.equal(parameter.grad, before[name]), name


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_merged_branches_are_clipped_as_they_were_apart(block: str) -> None:
    apart = lived(branched(block), dtype=torch.float64)
    together = lived(branched(block), dtype=torch.float64)
    together.apply(MergeBranches().attempt(together.graph, WHOLE))
    for seed in range(2):
        for model in (apart, together):
            gradients(model, seed)
            clipper(model, BOUND)()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
    x = images(size=8, dtype=torch.float64)
    assert float((logits(apart, x) - logits(together, x)).abs().max()) < 1e-9


def test_every_weight_belongs_to_one_learner() -> None:
    for graph in (branched(), MergeBranches().attempt(branched(), WHOLE).graph):
        learners = independent(graph)
        assert len(learners) == 4
        shares: dict[int, float] = {}
        for part in [part for learner in learners for part in learner]:
            shares[part.node] = shares.get(part.node, 0.0) + 1 / part.of
        assert shares.keys() == {node for node, slots in graph.infer.slots.items() if slots}
        assert all(abs(share - 1.0) < 1e-12 for share in shares.values())
    assert independent(branched(train="joint")) == () == independent(pyramid((1,), 4, size=8))


def test_any_other_network_is_clipped_as_by_torch() -> None:
    for model in (Model.from_graph(pyramid((1,), 4, size=8), dtype=torch.float64), nn.Linear(4, 2).double()):
        x = images(size=8, dtype=torch.float64) if isinstance(model, Model) else torch.ones(3, 4, dtype=torch.float64)
        model(x).square().sum().backward()
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        clipper(model, BOUND)()
        clipped = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        for parameter, gradient in zip((p for p in model.parameters() if p.grad is not None), before, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(model.parameters(), BOUND)
        assert all(torch.equal(a, p.grad) for a, p in zip(clipped, model.parameters(), strict=True))
