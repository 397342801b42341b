"""The ensemble of branches in training: each branch as if alone, accuracy of the averaged prediction."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from grown import images, pyramid
from torch import Tensor
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.backends.torch.lower.ensemble import cross_entropy, mean_prediction
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.backends.torch.train.loop import evaluate, train_epoch
from nasir.ir import Graph, Port
from nasir.passes.split_branches import SplitBranches
from nasir.training.plans import OptimizerPlan, TrainPlan

PLAN = TrainPlan(optimizer=OptimizerPlan("adamw", lr=1e-2, weight_decay=0.01), precision="fp32", channels_last=False)


class Batches:
    """Four fixed batches, as a data source."""

    steps_per_epoch = 4

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start_step, 4):
            yield images(size=8, seed=step), torch.arange(4) + step


def branched(branches: int = 3, **options: str) -> Graph:
    split = SplitBranches(branches=branches, how="random", **options)  # type: ignore[arg-type]
    return split.attempt(pyramid((1, 1), 8, size=8), "s2").graph


def train(model: Model, plan: TrainPlan = PLAN) -> dict[str, float]:
    """Two epochs in which only the branches learn."""
    slots = model.graph.infer.slots
    names = [name for name, _ in model.named_parameters() if name.startswith("branches.")]
    keys = model.keys()
    tagged = [(n, p, slots[keys[n].node][keys[n].slot].tags) for n, p in model.named_parameters() if n in names]
    optimizer = build_optimizer(tagged, plan.optimizer)
    metrics: dict[str, float] = {}
    for epoch in range(2):
        metrics = train_epoch(
            model, optimizer, Batches(), plan, seed=0, epoch=epoch, phase_epoch=epoch, phase_epochs=2, trainable=names
        ).metrics
    return metrics


def alone(model: Model, branch: int) -> Model:
    """The network with one of the branches only, weights copied."""
    graph = model.graph
    draft = graph.draft()
    end = graph.outputs[0].node
    others = [n for n, port in enumerate(graph.nodes[end].inputs) if n != branch]
    draft.outputs = [graph.nodes[end].inputs[branch]]
    draft.remove(end)
    for other in others:
        draft.remove_region(f"branches.{other}")
    single = Model.from_graph(draft.commit())
    state = model.state_dict()
    single.load_state_dict({name: state[name].clone() for name in single.state_dict()})
    return single


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_branches_trained_together_are_those_trained_alone(smoothing: float) -> None:
    plan = TrainPlan(optimizer=PLAN.optimizer, precision="fp32", channels_last=False, label_smoothing=smoothing)
    model = Model.from_graph(branched())
    singles = [alone(model, branch) for branch in range(3)]
    train(model, plan)
    state = model.state_dict()
    for branch, single in enumerate(singles):
        before = single.state_dict()[f"branches.{branch}.fc.weight"].clone()
        train(single, plan)
        assert not torch.equal(single.state_dict()[f"branches.{branch}.fc.weight"], before)
        for name, tensor in single.state_dict().items():
            assert torch.allclose(tensor.double(), state[name].double(), rtol=0.0, atol=1e-6), name


def test_a_frozen_stem_stays_bit_for_bit_while_the_branches_train() -> None:
    draft = pyramid((1, 1), 8, size=8).draft()
    stem = sorted({node.label.partition(".")[0] for node in draft.nodes.values()} - {"s2", "fc", "avgpool", "x"})
    for part in stem:
        draft.freeze(part)
    graph = SplitBranches(branches=3, how="random").attempt(draft.commit(), "s2").graph
    model = Model.from_graph(graph)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all(name.startswith("branches.") for name in learning)
    train(model)
    for name, tensor in model.state_dict().items():
        moved = name.startswith("branches.")  # their norms' statistics too
        assert torch.equal(tensor, before[name]) is not moved, name


def test_joint_training_is_another_thing() -> None:
    separate, joint = Model.from_graph(branched()), Model.from_graph(branched(train="joint"))
    joint.load_state_dict(separate.state_dict())
    train(separate), train(joint)
    gap = separate.state_dict()["branches.0.fc.weight"] - joint.state_dict()["branches.0.fc.weight"]
    assert float(gap.abs().max()) > 1e-4


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_evaluation_is_that_of_the_averaged_prediction(average: str) -> None:
    model = Model.from_graph(branched(average=average))
    train(model)
    x, y = images(16, size=8, seed=9), torch.arange(16) % 10
    heads = {}
    for branch in range(3):
        leaf = model.leaf(model.graph.find(f"branches.{branch}.fc"))
        assert leaf is not None
        leaf.register_forward_hook(lambda module, inputs, output, b=branch: heads.__setitem__(b, output))
    with torch.no_grad():
        out = model.eval()(x)
    stacked = torch.stack([heads[b] for b in range(3)])
    if average == "logits":
        assert torch.allclose(out, stacked.mean(0), atol=1e-6)
        wanted = functional.cross_entropy(stacked.mean(0), y)
    else:
        shares = stacked.softmax(2).mean(0)
        assert torch.equal(out.argmax(1), shares.argmax(1))
        assert torch.allclose(out.exp(), shares, atol=1e-6)
        wanted = -shares[torch.arange(16), y].log().mean()
    metrics = evaluate(model, [(x, y)], PLAN)
    assert metrics["loss"] == pytest.approx(float(wanted), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx(float((out.argmax(1) == y).float().mean()))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_training_reports_the_mean_loss_and_the_accuracy_of_the_average(average: str) -> None:
    plan = TrainPlan(optimizer=OptimizerPlan("sgd", lr=1e-30), precision="fp32", channels_last=False)
    model = Model.from_graph(branched(average=average))
    metrics = train(model, plan)
    losses, right = [], 0
    with torch.no_grad():
        for x, y in Batches().batches(0):
            out = model.train()(x)
            assert out.shape == (4, 3, 10)
            losses += [float(functional.cross_entropy(out[:, b], y)) for b in range(3)]
            right += int((mean_prediction(out, average).argmax(1) == y).sum())
    assert metrics["train.loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert metrics["train.accuracy"] == right / 16


def test_the_loss_of_branches_is_the_sum_of_their_cross_entropies() -> None:
    random = torch.Generator().manual_seed(0)
    out, y = torch.randn(5, 3, 7, generator=random, dtype=torch.float64), torch.arange(5)
    wanted = sum(float(functional.cross_entropy(out[:, b], y, label_smoothing=0.1)) for b in range(3))
    assert float(cross_entropy(out, y, 0.1)) == pytest.approx(wanted, abs=1e-12)


def test_branches_within_branches_train_apart_too() -> None:
    graph = branched(2)
    draft = graph.draft()
    inner, _ = graph.nodes[graph.outputs[0].node].inputs
    both = draft.add("ensemble", [graph.outputs[0], inner], "outer")
    draft.outputs = [both]
    model = Model.from_graph(draft.commit())
    x = images(size=8)
    assert model.train()(x).shape == (4, 3, 10)
    assert model.eval()(x).shape == (4, 10)
    assert model.graph.infer.types[Port(both.node)].shape == (10,)
