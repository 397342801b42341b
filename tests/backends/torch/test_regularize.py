"""Penalties: MorphNet's arithmetic, gradients against autograd, what dies, and what training sees of it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from networks import small_resnet
from torch import Tensor

from nasir.analysis.resources import alive_params, resource_terms
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.model import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.backends.torch.penalties.group import GroupPenalty
from nasir.backends.torch.penalties.norms import NormTerm
from nasir.backends.torch.penalties.regularize import Penalties, _penalties, alive
from nasir.backends.torch.penalties.tables import members_of, regularized
from nasir.backends.torch.train.loop import Sums, train_epoch
from nasir.errors import RunError
from nasir.ir import Atom, Draft, Graph, Port
from nasir.ir.space import Axis, Cat, resolve, size_of
from nasir.passes.insert_block import InsertBlock
from nasir.rewriting.evidence import Need
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import random_graphs
from nasir.training.plans import DataPlan, OptimizerPlan, PenaltyPlan, TrainPlan
from nasir.training.shipped_penalties import Peak

CPU = torch.device("cpu")
GROUP = PenaltyPlan("group-lasso", 1.0)
A = (0.15155, 0.00041, 0.67451, 0.94322)
HEAD = "nasir: 1\ndata: {dataset: synthetic}\nphases: [{name: t, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n"


def two_convolutions() -> Graph:
    """conv a 3 -> 4 and conv b 4 -> 2, both 3x3 on 8x8 outputs, and a classifier of one class."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    for label, out in (("a", 4), ("b", 2)):
        x = draft.add("conv2d", x, label, out=out, kernel=3, padding=1)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=1))
    return draft.commit()


def filled(graph: Graph, **values: tuple[float, ...]) -> Model:
    """A model in which all weights of each output channel of the labelled layers have one size, half of them minus."""
    model = Model.from_graph(graph, dtype=torch.float64)
    with torch.no_grad():
        for label, channels in values.items():
            weight = dict(model.named_parameters())[f"{label}.weight"]
            weight.copy_(torch.tensor(channels, dtype=torch.float64).view(-1, 1, 1, 1).expand_as(weight))
            weight[..., ::2] *= -1
    return model


def terms(model: Model, plan: PenaltyPlan = GROUP) -> dict[str, tuple[float, float]]:
    return GroupPenalty(model.graph, plan, CPU).by_node(model.tensor)


def gradients(model: Model, plan: PenaltyPlan) -> tuple[float, dict[str, Tensor]]:
    """The value of one term, and what it adds to the gradients, by name."""
    model.zero_grad()
    value = Penalties(model.graph, (plan,), CPU).add_gradients(model)
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# -- MorphNet's arithmetic


def test_the_worked_example() -> None:
    of_label = terms(filled(two_convolutions(), a=A, b=(0.5, 0.5)))
    assert of_label["a"][0] + of_label["b"][0] == 17_280
    penalty = of_label["a"][1] + of_label["b"][1]
    assert penalty == pytest.approx(1152 * (3 * sum(A)) + 1152 * (3 * 1.0 + 2 * sum(A)), rel=1e-12)
    # the published 13,649.4068 comes from r before they were rounded to five places: at most 1152 * 5 * 4 * 5e-6 away
    assert penalty == pytest.approx(13_649.4068, abs=0.12)
    # the classifier reads b and its own outputs cannot die: 2 * (a_b * 0 + 1 * R_b)
    assert of_label["fc"] == (4.0, pytest.approx(2.0))


def test_the_value_of_a_step_is_the_penalty_times_the_strength() -> None:
    model = filled(two_convolutions(), a=A, b=(0.5, 0.5))
    value, _ = gradients(model, PenaltyPlan("group-lasso", 1e-3))
    assert value == pytest.approx(1e-3 * (1152 * (5 * sum(A) + 3.0) + 2.0), rel=1e-12)


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet18_cifar", "resnext50_32x4d"])
def test_with_all_alive_the_cost_is_that_of_the_graph(model: str) -> None:
    size = 32 if model.endswith("cifar") else 224
    network = f"input: {{image: [3, {size}, {size}]}}\nnetwork: {{from: torchvision, model: {model}}}\n"
    graph = build(loads_spec(HEAD + network))
    of_label = resource_terms(graph, "flops", lambda atom: not atom.resizable)
    total = sum(c * np.prod([a.size for a in atoms]) for term in of_label.values() for atoms, c in term.cost.items())
    assert total == 2 * graph.cost().macs
    params = alive_params(graph, lambda atom: not atom.resizable)
    assert sum(c * np.prod([a.size for a in atoms]) for atoms, c in params.items()) == graph.cost().params


def test_a_depthwise_convolution_costs_its_channels_and_is_penalized_on_both_sides() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "a", out=4, kernel=3, padding=1)
    x = draft.add("conv2d", x, "depthwise", out=4, kernel=3, padding=1, groups=4)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=1))
    model = filled(draft.commit(), a=A, depthwise=(0.0, 0.0, 0.0, 0.0))
    cost, penalty = terms(model)["depthwise"]
    assert cost == 1152 * 3
    assert penalty == pytest.approx(1152 * (sum(A) + sum(A)))


def test_other_resources_by_hand() -> None:
    model = filled(two_convolutions(), a=A, b=(0.5, 0.5))
    r = sum(A)
    assert terms(model, PenaltyPlan("group-lasso", 1.0, resource="params"))["b"] == (54, pytest.approx(9 * (3 + 2 * r)))
    assert terms(model, PenaltyPlan("group-lasso", 1.0, resource="activations"))["a"] == (3, pytest.approx(r))
    of_layer = terms(model, PenaltyPlan("group-lasso", 1.0, resource="memory", batch=2))["b"]
    assert of_layer[0] == 4 * (2 * 64 * 3 + 2 * 64 * 2 + 54)
    assert of_layer[1] == pytest.approx(4 * (2 * 64 * r + 2 * 64 * 1 + 9 * (3 + 2 * r)))


def test_latency_takes_the_term_that_is_larger_now() -> None:
    model = filled(two_convolutions(), a=A, b=(0.5, 0.5))
    flops, memory = (terms(model, PenaltyPlan("group-lasso", 1.0, resource=r)) for r in ("flops", "memory"))  # type: ignore[arg-type]
    for peak, which in ((Peak(1e9, 1e15), flops), (Peak(1e15, 1e9), memory)):
        of_label = terms(model, PenaltyPlan("group-lasso", 1.0, resource="latency", profile=peak))
        for label, (cost, penalty) in which.items():
            assert of_label[label] == (pytest.approx(cost / 1e9), pytest.approx(penalty / 1e9))
    plan = PenaltyPlan("group-lasso", 1.0, resource="latency", profile="V100")
    value, found_gradients = gradients(model, plan)
    assert value == pytest.approx(sum(penalty for _, penalty in terms(model, plan).values()))
    assert set(found_gradients) == {"a.weight", "b.weight"}


# -- what dies


def test_a_channel_lives_while_one_operand_of_the_sum_does() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    left, right = (draft.add("conv2d", x, label, out=3, kernel=1) for label in ("left", "right"))
    x = draft.add("add", (left, right), "sum")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=2))
    model = filled(draft.commit(), left=(0.5, 0.0, 0.0), right=(0.0, 0.25, 0.001))
    assert alive(model, GROUP)["left"].tolist() == [True, True, False]
    _, grads = gradients(model, GROUP)
    # the maximum alone is pulled down
    assert [bool(grads["left.weight"][i].any()) for i in range(3)] == [True, False, False]
    assert [bool(grads["right.weight"][i].any()) for i in range(3)] == [False, True, True]


def test_input_logits_and_excluded_spaces_are_alive_without_penalty() -> None:
    graph = small_resnet()
    model = Model.from_graph(graph, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    plan = PenaltyPlan("group-lasso", 1.0, exclude=("s2.1.conv1", "s2.0.downsample"))
    alive_units = alive(model, plan)
    assert set(alive_units) == {space.name for space in graph.infer.spaces}
    assert {name for name, units in alive_units.items() if units.all()} == {"x", "fc", "s2.1.conv1", "s2.0.conv2"}
    assert {name for name, units in alive_units.items() if not units.any()} == {"conv1", "s1.0.conv1", "s2.0.conv1"}
    value, given_ = gradients(model, plan)
    assert value == 0.0 and not any(gradient.any() for gradient in given_.values())
    assert all(torch.isfinite(gradient).all() for gradient in given_.values())


def test_gamma_reads_the_scales_of_norms() -> None:
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    with torch.no_grad():
        model.get_parameter("s1.0.bn1.weight").copy_(torch.tensor([0.5, -0.02, 0.01, 0.0]))
    plan = PenaltyPlan("gamma", 1.0)
    assert alive(model, plan)["s1.0.conv1"].tolist() == [True, True, False, False]
    _, grads = gradients(model, plan)
    norms = {
        f"{model.graph.nodes[n].label}.weight" for n in model.graph.order if model.graph.nodes[n].op == "batch_norm"
    }
    assert set(grads) == norms
    assert grads["s1.0.bn1.weight"].sign().tolist() == [1, -1, 1, 0]
    # two norms run along the first stream and both say 1: they share its gradient
    assert torch.equal(grads["bn1.weight"], grads["s1.0.bn2.weight"])
    assert grads["bn1.weight"][0] > 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graph=random_graphs(steps=6), seed=strategies.integers(0, 999))
def test_alive_cost_is_the_cost_of_the_network_without_the_dead(graph: Graph, seed: int) -> None:
    model = Model.from_graph(graph, seed, dtype=torch.float64)
    probe = GroupPenalty(graph, GROUP, CPU)
    if not probe.atoms:
        return
    median = float(probe.values(model.tensor).units.median())
    plan = PenaltyPlan("group-lasso", 1.0, threshold=median)
    penalty = GroupPenalty(graph, plan, CPU)
    living = penalty.alive(model.tensor)
    draft = graph.draft()
    for atom in graph.infer.spaces:
        kept = np.flatnonzero(living[atom.name])
        if not len(kept):
            return  # a network without a width cannot be built
        if len(kept) < atom.size:
            draft.select(atom, kept)
    cost, alive_cost = draft.commit().cost(), penalty.alive_cost(model.tensor)
    assert (alive_cost["macs"], alive_cost["params"]) == (cost.macs, cost.params)
    assert alive_cost["channels"] == sum(int(living[atom.name].sum()) for atom in penalty.atoms)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(graph=random_graphs(steps=6), seed=strategies.integers(0, 999))
def test_passes_see_as_evidence_what_decides_here(graph: Graph, seed: int) -> None:
    model = Model.from_graph(graph, seed, dtype=torch.float64)
    seen = observe(model, [Need("group_lasso")])
    penalty = GroupPenalty(graph, GROUP, CPU)
    if penalty.atoms:
        units = penalty.values(model.tensor).units.split([atom.size for atom in penalty.atoms])
        for atom, values in zip(penalty.atoms, units, strict=True):
            assert np.allclose(seen.members("group_lasso", atom).max(axis=0), values.numpy(), rtol=1e-12, atol=0)


# -- gradients, against autograd on a direct transcription of the definition


def units_at(axis: Axis, path: tuple[int, ...] = ()) -> list[list[tuple[Any, Atom, int]]]:
    """For each position along an axis the (occurrence, atom, unit) it belongs to."""
    whole = resolve(axis)
    if isinstance(whole, int):
        return [[] for _ in range(whole)]
    if isinstance(whole, Atom):
        return [[(path, whole, unit)] for unit in range(whole.size)]
    parts = [units_at(part, (*path, number)) for number, part in enumerate(whole.parts)]
    if isinstance(whole, Cat):
        return [piece for part in parts for piece in part]
    return [[unit for units in combined for unit in units] for combined in product(*parts)]


class Naive:
    """The penalty as one autograd graph, slow and plain."""

    def __init__(self, model: Model, plan: PenaltyPlan) -> None:
        self.plan, self.graph = plan, model.graph
        atoms, _ = regularized(model.graph, plan)
        rows: dict[tuple[Atom, int], list[Tensor]] = {}
        for member in members_of(model.graph, plan.of_norms):
            weight = model.tensor(member.key).movedim(member.axis, 0)
            pieces: dict[Any, list[Tensor]] = {}
            for position, units in enumerate(units_at(member.space)):
                for unit in units:
                    pieces.setdefault(unit, []).append(weight[position].reshape(-1))
            for (_, atom, unit), parts in pieces.items():
                w = torch.cat(parts)
                l1 = 1.0 if plan.kind == "gamma" else plan.l1
                rows.setdefault((atom, unit), []).append((1 - l1) * w.square().mean().sqrt() + l1 * w.abs().mean())
        self.r = {}
        for atom in atoms:
            units = [torch.stack(rows[atom, unit]) for unit in range(atom.size)]
            self.r[atom] = torch.stack([u.amax() if plan.grouping == "max" else u.square().sum().sqrt() for u in units])

    def a(self, axis: Axis) -> float:
        whole = resolve(axis)
        if isinstance(whole, int) or (isinstance(whole, Atom) and whole not in self.r):
            return float(size_of(whole))
        if isinstance(whole, Atom):
            return float((self.r[whole] > self.plan.threshold).sum())
        values = [self.a(part) for part in whole.parts]
        return sum(values) if isinstance(whole, Cat) else float(np.prod(values))

    def big_r(self, axis: Axis) -> Tensor | float:
        whole = resolve(axis)
        if isinstance(whole, int) or (isinstance(whole, Atom) and whole not in self.r):
            return 0.0
        if isinstance(whole, Atom):
            return self.r[whole].sum()
        if isinstance(whole, Cat):
            return sum(self.big_r(part) for part in whole.parts)
        counts = [self.a(part) for part in whole.parts]
        return sum(
            self.big_r(part) * float(np.prod(counts[:i] + counts[i + 1 :])) for i, part in enumerate(whole.parts)
        )

    def penalty(self) -> Tensor:
        total: Any = torch.zeros((), dtype=torch.float64)
        types = self.graph.infer.types
        for node_id in self.graph.order:
            node = self.graph.nodes[node_id]
            if node.op not in ("conv2d", "linear"):
                continue
            x, y = types[node.inputs[0]], types[Port(node_id)]
            area, kernel = 1, 1
            if node.op == "conv2d":
                kernel = int(np.prod(self.graph.infer.slots[node_id]["weight"].shape[2:]))
                area = y.shape[1] * y.shape[2]
            groups = node.attrs.get("groups", 1)
            a_in, a_out = self.a(x.axes[0]), self.a(y.axes[0])
            if groups > 1:  # those of one group
                slot = self.graph.infer.slots[node_id]["weight"]
                a_in = self.a(slot.axes[1].space)
                depthwise = groups == x.shape[0] == y.shape[0]
                a_out = 1.0 if depthwise else self.a(slot.axes[0].space.parts[1])  # type: ignore[union-attr]
            r_in, r_out = self.big_r(x.axes[0]), self.big_r(y.axes[0])
            flops = 2 * area * kernel * (a_in * r_out + a_out * r_in)
            params = kernel * (a_in * r_out + a_out * r_in)
            memory = 4 * (np.prod(x.shape) / x.shape[0] * r_in + np.prod(y.shape) / y.shape[0] * r_out + params)
            total = (
                total + {"flops": flops, "params": params, "activations": r_out, "memory": memory}[self.plan.resource]
            )
        return self.plan.strength * total


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    graph=random_graphs(steps=6),
    seed=strategies.integers(0, 999),
    kind=strategies.sampled_from([("group-lasso", 0.0), ("group-lasso", 0.3), ("group-lasso", 1.0), ("gamma", 0.0)]),
    resource=strategies.sampled_from(["flops", "params", "activations", "memory"]),
    grouping=strategies.sampled_from(["max", "l2"]),
)
def test_gradients_are_those_of_autograd(graph: Graph, seed: int, kind: Any, resource: Any, grouping: Any) -> None:
    model = Model.from_graph(graph, seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    share = {"l1": kind[1]} if kind[0] == "group-lasso" else {}
    plan = PenaltyPlan(kind[0], 1e-3, **share, resource=resource, grouping=grouping, threshold=0.35)
    naive = Naive(model, plan).penalty()
    value, grads = gradients(model, plan)
    assert value == pytest.approx(naive.item(), rel=1e-10, abs=1e-12)
    named = dict(model.named_parameters())
    if not naive.requires_grad:
        assert not any(gradient.any() for gradient in grads.values())
        return
    wanted = torch.autograd.grad(naive, list(named.values()), allow_unused=True)
    for (name, parameter), gradient in zip(named.items(), wanted, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        scale = max(1.0, float(gradient.abs().max()) if gradient.numel() else 1.0)
        assert float((grads.get(name, torch.zeros_like(parameter)) - gradient).abs().max()) <= 1e-10 * scale, name


@pytest.mark.parametrize("on", ["kernels", "all", ("s1.0", "fc"), "convs", "blocks"])
@pytest.mark.parametrize("kind", ["l1", "l2", "layer-lasso"])
def test_norms_of_weights(kind: Any, on: Any) -> None:
    if (kind == "layer-lasso") is not (on in ("convs", "blocks")):
        with pytest.raises(ValueError, match=f"penalty {kind}: on"):
            PenaltyPlan(kind, 0.1, on=on)
        return
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    plan = PenaltyPlan(kind, 0.1, on=on)
    parameters = dict(model.named_parameters())
    chosen = {
        "all": set(parameters),
        "kernels": {name for name, p in parameters.items() if p.dim() > 1},
        "convs": {name for name, p in parameters.items() if p.dim() == 4},
        "blocks": {name for name, p in parameters.items() if p.dim() == 4 and name != "conv1.weight"},
        ("s1.0", "fc"): {"s1.0.conv1.weight", "s1.0.conv2.weight", "fc.weight"},
    }[on]
    power = 2 if kind == "l2" else 1
    wanted = 0.1 * sum(parameters[name].abs().pow(power).sum() for name in chosen)
    value, grads = gradients(model, plan)
    assert value == pytest.approx(wanted.item(), rel=1e-12)  # type: ignore[union-attr]
    assert set(grads) == chosen
    names = sorted(chosen)
    for name, gradient in zip(names, torch.autograd.grad(wanted, [parameters[n] for n in names]), strict=True):  # type: ignore[arg-type]
        assert torch.allclose(grads[name], gradient, rtol=0, atol=1e-13)


def test_frozen_weights_count_but_get_no_gradient() -> None:
    model = filled(two_convolutions(), a=A, b=(0.5, 0.5))
    before, _ = gradients(model, GROUP)
    model.a.weight.requires_grad_(False)
    after, grads = gradients(model, GROUP)
    assert after == before and set(grads) == {"b.weight"}
    _, norms = gradients(model, PenaltyPlan("l2", 1.0))
    assert set(norms) == {"b.weight", "fc.weight"}


# -- in training


def source() -> Any:
    plan = DataPlan("synthetic", {"classes": 3, "size": 8, "channels": 3, "train": 96, "test": 8}, batch_size=16)
    return open_source(plan, DataContext(Path(".")), CPU, channels_last=True)


def optimizer_of(model: Model, plan: TrainPlan) -> Any:
    return build_optimizer(((n, p, frozenset({"decay"})) for n, p in model.named_parameters()), plan.optimizer)


def epoch(model: Model, optimizer: Any, plan: TrainPlan, number: int = 0, **more: Any) -> Any:
    return train_epoch(
        model, optimizer, source(), plan, seed=3, epoch=number, phase_epoch=number, phase_epochs=4, **more
    )


PENALTIES = (PenaltyPlan("l2", 1e-4), PenaltyPlan("group-lasso", 1e-5), PenaltyPlan("gamma", 1e-6, resource="params"))
TRAINING = TrainPlan(OptimizerPlan("sgd", lr=0.05), precision="fp32", penalties=PENALTIES)


def test_a_penalized_epoch_resumes_bit_for_bit_and_tells_its_mean_penalty() -> None:
    whole, parted = Model.from_graph(small_resnet()), Model.from_graph(small_resnet())
    wanted = epoch(whole, optimizer_of(whole, TRAINING), TRAINING)
    optimizer, calls = optimizer_of(parted, TRAINING), iter(range(2))
    part = epoch(parted, optimizer, TRAINING, stop=lambda: next(calls, None) is None)
    assert not part.finished
    sums = Sums.from_json(part.sums.to_json(), CPU)
    rest = epoch(parted, optimizer, TRAINING, start_step=part.steps_done, sums=sums)
    assert rest.metrics == wanted.metrics
    assert set(wanted.metrics) == {"train.loss", "train.accuracy", "train.penalty"}
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))
    assert wanted.metrics["train.penalty"] > 0


def test_the_gradient_of_the_penalty_is_clipped_with_the_rest() -> None:
    model = Model.from_graph(small_resnet())
    before = torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])
    plan = TrainPlan(
        OptimizerPlan("sgd", lr=1.0, momentum=0.0),
        precision="fp32",
        gradient_clip=0.1,
        penalties=(PenaltyPlan("l2", 100.0),),
    )
    epoch(model, optimizer_of(model, plan), plan, stop=lambda: True)
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1, rel=1e-3)


def test_training_brings_the_penalty_down() -> None:
    model = Model.from_graph(small_resnet())
    plan = TrainPlan(OptimizerPlan("sgd", lr=0.02), precision="fp32", penalties=(PenaltyPlan("gamma", 5e-5),))
    optimizer = optimizer_of(model, plan)
    penalties = [epoch(model, optimizer, plan, number).metrics["train.penalty"] for number in range(4)]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[-1] < 0.5 * penalties[0]


def test_the_tables_are_made_once_for_each_graph() -> None:
    model = Model.from_graph(small_resnet())
    first = _penalties(model, PENALTIES)
    assert _penalties(model, PENALTIES) is first
    assert _penalties(model, PENALTIES[:1]) is not first
    model.apply(InsertBlock(), "s1")
    again = _penalties(model, PENALTIES)
    assert again is not first and again.graph is model.graph
    again.add_gradients(model)
    assert model.get_parameter("s1.1.conv1.weight").grad is not None


def test_penalties_need_a_graph_and_a_kind_that_knows_death() -> None:
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.raises(RunError, match="need a nasir Model"):
        epoch(plain, None, TRAINING)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="l2: units do not die under it; use one of gamma, group-lasso"):
        alive(Model.from_graph(small_resnet()), PENALTIES[0])


def test_nothing_to_act_on_is_a_penalty_of_zero() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    draft.output(draft.add("linear", x, "fc", out=2))
    model = Model.from_graph(draft.commit())
    assert PenaltyPlan("layer-lasso", 1.0).slots(model.graph) == []
    assert NormTerm(model.graph, PenaltyPlan("layer-lasso", 1.0), CPU).add_gradients(model.tensor) is None
    assert gradients(model, GROUP) == (0.0, {})
    assert GroupPenalty(model.graph, GROUP, CPU).alive_cost(model.tensor) == {"channels": 0, "macs": 8, "params": 10}
