"""Fixup's blocks and initializer: where its numbers lie, how weights begin, and that growth starts exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid

import nasir
from nasir.backends.torch import Model
from nasir.blocks import build_block, starts_of
from nasir.errors import TypeRuleError
from nasir.ir import Draft, Fill, Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.reset_weights import ResetWeights
from nasir.rewriting.rewrite import WHOLE
from nasir.spec import loads_spec
from nasir.spec.network import initial_plan
from nasir.testing import evaluate, random_batch, random_weights
from nasir.transfer import Key

SPEC = """\
nasir: 1
name: fixup
init: {init}
input: {{image: [3, 8, 8]}}
network:
  - conv: {{out: 16, bias: false, label: conv1}}
  - stage: {{name: s1, block: {block}, out: 16, depth: 3{options}}}
  - stage: {{name: s2, block: {block}, out: 32, depth: 2, stride: 2{options}}}
  - classifier: {{classes: 5}}
data: {{dataset: synthetic}}
phases:
  - {{name: train, epochs: 1, optimizer: {{sgd: {{lr: 0.1}}}}}}
"""


def rules(block: str, init: str = "fixup", options: str = "") -> tuple[Graph, dict[str, Fill]]:
    spec = loads_spec(SPEC.format(block=block, init=init, options=options))
    graph = nasir.build(spec)
    return graph, {
        f"{graph.nodes[n].label}.{slot}": rule for (n, slot), rule in initial_plan(graph, spec).sources.items()
    }


BASIC = [f"{path}.{conv}" for path in ("s1.0", "s1.1", "s1.2", "s2.0", "s2.1") for conv in ("conv1", "conv2")]


@pytest.mark.parametrize(("block", "options"), [("fixup_basic", ""), ("basic", ", norm: none")])
def test_basic_blocks_begin_as_in_the_paper(block: str, options: str) -> None:
    _, known = rules(block, options=options)
    for name in BASIC:
        rule = known[f"{name}.weight"]
        if name.endswith("2"):
            assert rule == Fill("zeros")
        else:  # L = 5, m = 2
            assert rule == Fill("kaiming_normal", {"mode": "fan_out", "gain": 5**-0.5})
    assert known["fc.weight"] == known["fc.bias"] == Fill("zeros")
    assert known["conv1.weight"] == Fill("kaiming_uniform", {"a": math.sqrt(5.0)})  # the stem: torch's default
    biases = [rule for name, rule in known.items() if name.endswith("bias") and name.startswith("s")]
    assert biases and all(rule == Fill("zeros") for rule in biases if rule.rule != "ones")


def test_bottlenecks_have_another_exponent() -> None:
    _, known = rules("fixup_bottleneck", options=", expansion: 2")
    gains = {
        rule.args["gain"]
        for name, rule in known.items()
        if name.endswith(("conv1.weight", "conv2.weight")) and "s" in name[:1]
    }
    assert gains == {5**-0.25}  # m = 3
    assert all(rule == Fill("zeros") for name, rule in known.items() if name.endswith("conv3.weight"))
    assert known["s1.0.downsample.0.weight"] == Fill("kaiming_normal", {"mode": "fan_out"})


def test_fixups_blocks_begin_so_whatever_the_initializer_of_the_network() -> None:
    for init in ("default", "he_normal"):
        graph, known = rules("fixup_basic", init)
        assert known["s1.0.conv2.weight"] == Fill("zeros")
        assert known["s1.0.conv1.weight"].args["gain"] == 5**-0.5
        assert known["fc.weight"].rule == "kaiming_uniform"  # only the network's own initializer says so of the others
        assert known["conv1.weight"].rule == ("kaiming_normal" if init == "he_normal" else "kaiming_uniform")
        model = Model.from_graph(graph)
        assert not model.state_dict()["s1.0.conv2.weight"].any() and model.state_dict()["s1.0.conv1.weight"].any()


def test_the_spread_of_a_weight_is_that_of_the_formula() -> None:
    spec = loads_spec(SPEC.format(block="fixup_basic", init="fixup", options=""))
    graph = nasir.build(spec)
    model = Model.from_graph(graph, plan=initial_plan(graph, spec))
    weight = model.state_dict()["s2.1.conv1.weight"]
    wanted = math.sqrt(2.0 / (32 * 9)) * 5**-0.5
    assert float(weight.std()) == pytest.approx(wanted, rel=0.05)
    assert not logits(model, images(size=8)).any()  # the classifier is zero


def test_the_numbers_lie_where_the_paper_has_them() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 6, 6])
    draft.output(build_block(draft, x, "b", {"block": "fixup_basic", "options": {"out": 8}}, stride=2))
    graph = draft.commit()
    weights, batch = random_weights(graph, 0), random_batch(graph, 1)
    told = {graph.nodes[key.node].label.removeprefix("b."): array for key, array in weights.items()}

    def conv(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        made = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(told[name]), stride=stride, padding=1)
        return made.numpy()

    [given] = batch
    first = given + told["bias1a"]
    y = np.maximum(conv(first, "conv1", 2) + told["bias1b"], 0.0)
    y = conv(y + told["bias2a"], "conv2") * told["scale"] + told["bias2b"]
    shortcut = first[:, :, ::2, ::2]  # a 1x1 average of every second place
    wanted = np.maximum(y + np.concatenate([shortcut, np.zeros_like(shortcut)], axis=1), 0.0)
    assert abs(evaluate(graph, weights, batch) - wanted).max() <= 1e-12 * abs(wanted).max()


@pytest.mark.parametrize(("block", "options"), [("fixup_basic", ""), ("fixup_bottleneck", "expansion: 2")])
@pytest.mark.parametrize("init", ["zero", "default"])
def test_a_new_block_is_the_identity_and_the_others_keep_their_weights(block: str, options: str, init: str) -> None:
    model = lived(pyramid((2, 1), 4, block=block, size=8, options=options), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64)  # it has learned
    x = images(size=8, dtype=torch.float64)
    for training in (False, True):
        before, held = logits(model, x, training), {name: t.clone() for name, t in model.state_dict().items()}
        rewrite = model.apply(InsertBlock(init=init), "s2")
        assert rewrite is not None and rewrite.preserves == ("exact" if init == "zero" else "no")
        assert torch.equal(logits(model, x, training), before)
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in held.items())
    assert float(model.state_dict()["s2.1.scale.weight"]) == 1.0


def test_a_new_block_counts_the_blocks_of_now() -> None:
    graph = pyramid((2, 1), 4, block="fixup_basic", size=8)
    for count in (4, 5):
        rewrite = InsertBlock(init="default").attempt(graph, "s2")
        graph = rewrite.graph
        new = f"s2.{count - 3}"
        gain = {
            rule.args["gain"]
            for key, rule in rewrite.plan.sources.items()
            if graph.nodes[key.node].label == f"{new}.conv1" and isinstance(rule, Fill)
        }
        assert gain == {count**-0.5}
        others = [key for key in rewrite.plan.sources if not graph.nodes[key.node].label.startswith(f"{new}.")]
        assert not others  # trained blocks keep what they were scaled for


def test_the_first_step_moves_the_ends_of_branches_and_the_second_everything() -> None:
    spec = loads_spec(SPEC.format(block="fixup_basic", init="fixup", options=""))
    graph = nasir.build(spec)
    model = Model.from_graph(graph, plan=initial_plan(graph, spec), dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, labels = images(6, 8, dtype=torch.float64), torch.arange(6) % 5
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        moved.append({name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())})
        optimizer.step()
    assert moved[0] == {"fc.weight", "fc.bias"}
    assert {name for name in moved[1] if "conv2" in name} and not {name for name in moved[1] if "s1.0.conv1" in name}
    assert moved[2] == {name for name, _ in model.named_parameters()}


def test_weights_are_reset_as_they_began() -> None:
    graph = pyramid((2, 1), 4, block="fixup_basic", size=8)
    rewrite = ResetWeights().attempt(graph, WHOLE)
    ends = [Key(graph.labels[f"{path}.conv2"], "weight") for path in ("s1.0", "s1.1", "s2.0")]
    assert all(rewrite.plan.sources[key] == Fill("zeros") for key in ends)
    whole = ResetWeights(init="fixup").attempt(pyramid((2, 1), 4, size=8), WHOLE)
    assert whole.plan.sources[Key(whole.graph.labels["fc"], "weight")] == Fill("zeros")
    assert whole.plan.sources[Key(whole.graph.labels["s1.0.conv1"], "weight")] == Fill(
        "kaiming_normal", {"mode": "fan_out", "gain": 3**-0.5}
    )


def test_every_layer_of_a_transformers_branch_counts() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("tokens", draft.add("conv2d", x, "patch", out=8, kernel=4, stride=4), "tokens")
    draft.output(build_block(draft, x, "b", {"block": "transformer", "options": {"heads": 2, "mlp": 16}}))
    graph = draft.commit()
    known = {f"{graph.nodes[k.node].label}.{k.slot}": rule for k, rule in starts_of(graph, lambda n: "fixup").items()}
    assert known["b.self_attention.out_proj.weight"] == known["b.mlp.3.weight"] == Fill("zeros")
    for name in ("b.self_attention.in_proj.weight", "b.mlp.0.weight"):
        assert known[name].args["gain"] == 2**-0.5  # two branches of two layers


def test_a_bottleneck_needs_channels_that_divide() -> None:
    with pytest.raises(TypeRuleError, match="6 channels are no multiple of 4; give `out`"):
        draft = Draft()
        x = draft.add("input", (), "x", shape=[6, 6, 6])
        build_block(draft, x, "b", {"block": "fixup_bottleneck"})
