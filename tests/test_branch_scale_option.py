"""`branch_scale`: the option of residual blocks, by number, by rule and learned."""

from __future__ import annotations

from typing import Any

import pytest

import nasir
from nasir.analysis.residuals import residual_sums
from nasir.blocks import build_block
from nasir.errors import NasirError, TypeRuleError
from nasir.ir import Draft, Graph

SPEC = """\
nasir: 1
name: scaled
input: {{image: [3, 8, 8]}}
blocks:
  mine: {{branch: [{{conv: {{out: out, stride: stride}}}}, relu], shortcut: projection}}
network:
  - conv_bn_relu: {{out: 4, kernel: 3}}
  - stage: {{name: s1, block: {block}, out: 4, depth: 2, branch_scale: {scale}}}
  - stage: {{name: s2, block: {block}, out: 8, depth: 1, stride: 2, branch_scale: {scale}}}
  - classifier: {{classes: 10}}
data: {{dataset: digits}}
phases:
  - {{name: train, epochs: 1, optimizer: {{sgd: {{lr: 0.1}}}}}}
"""


def built(block: str, scale: str) -> Graph:
    return nasir.build(SPEC.format(block=block, scale=scale))


def scales(graph: Graph) -> dict[str, Any]:
    """Attributes of the scale at the end of every branch, by label."""
    ends = [graph.nodes[item.branch.node] for item in residual_sums(graph)]
    return {node.label: dict(node.attrs) for node in ends if node.facts.family == "scale"}


@pytest.mark.parametrize("block", ["basic", "preact_basic", "resbuilder", "mine"])
@pytest.mark.parametrize(
    ("scale", "value"),
    [("1/n", 1 / 3), ("1/sqrt(n)", 3**-0.5), ("fischer", 0.7908755820535631), ("0.25", 0.25), ("-1", -1.0)],
)
def test_every_branch_of_a_spec_has_the_number_of_its_rule(block: str, scale: str, value: float) -> None:
    graph = built(block, scale)
    labels = ["s1.0.scale", "s1.1.scale", "s2.0.scale"]
    assert scales(graph) == {label: {"value": pytest.approx(value, rel=1e-15), "learnable": False} for label in labels}


def test_the_template_keeps_the_rule() -> None:
    graph = built("basic", "1/sqrt(n)")
    for path in ("s1", "s1.0", "s2.0"):
        assert (graph.regions[path].template or {})["options"]["branch_scale"] == "1/sqrt(n)"


@pytest.mark.parametrize(("scale", "value"), [("skipinit", 0.0), ("{skipinit: 0.5}", 0.5)])
def test_a_learned_scale_starts_where_it_is_told_to(scale: str, value: float) -> None:
    graph = built("basic", scale)
    assert set(scales(graph)) == {"s1.0.scale", "s1.1.scale", "s2.0.scale"}
    assert all(attrs == {"value": value, "learnable": True} for attrs in scales(graph).values())
    model = nasir.Model.from_graph(graph, seed=0)
    assert model.get_parameter("s1.0.scale.weight").item() == value


def test_the_rules_count_the_sums_of_the_whole_network_whatever_its_blocks_are() -> None:
    text = SPEC.format(block="basic", scale="1/n").replace("block: basic, out: 8", "block: mine, out: 8")
    graph = nasir.build(text.replace("depth: 2, branch_scale: 1/n", "depth: 2"))
    assert scales(graph) == {"s2.0.scale": {"value": 1 / 3, "learnable": False}}  # the others have none, and count


def test_both_sums_of_a_transformers_block_are_scaled_and_count() -> None:
    text = """\
nasir: 1
name: tokens
input: {image: [3, 8, 8]}
network:
  - patchify: {out: 8, patch: 4}
  - stage: {name: s1, block: transformer, heads: 2, depth: 3, dropout: 0.1, branch_scale: 1/n}
  - classifier: {classes: 10}
data: {dataset: digits}
phases:
  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}
"""
    graph = nasir.build(text)
    found = scales(graph)
    assert list(found) == [f"s1.{block}.scale_{number}" for block in range(3) for number in (1, 2)]
    assert {attrs["value"] for attrs in found.values()} == {1 / 6}


def test_bottlenecks_are_scaled() -> None:
    graph = nasir.build(SPEC.format(block="bottleneck", scale="1/n").replace("out: 4, depth", "expansion: 2, depth"))
    assert [attrs["value"] for attrs in scales(graph).values()] == [1 / 3] * 3


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("1/srt(n)", "found the text '1/srt(n)'; did you mean '1/sqrt(n)'?"),
        ("skipint", "did you mean 'skipinit'?"),
        ("{skipint: 0.5}", "branch_scale.skipint: unknown value 'skipint'; did you mean 'skipinit'?"),
        ("true", "one of 1/n, 1/sqrt(n), fischer, skipinit or a number or a mapping or nothing, found true"),
        (".nan", "finite number"),
    ],
)
@pytest.mark.parametrize("block", ["basic", "mine"])
def test_wrong_scales_are_told_at_their_line(block: str, scale: str, message: str) -> None:
    with pytest.raises(NasirError) as caught:
        built(block, scale)
    assert "<spec>:8:" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize("block", ["dense", "plain"])
def test_blocks_that_add_no_branch_have_no_such_option(block: str) -> None:
    with pytest.raises(NasirError, match="branch_scale: unknown option"):
        built(block, "1/n")


def test_a_definition_without_a_shortcut_has_nothing_to_scale() -> None:
    with pytest.raises(NasirError, match="shortcut: none leaves no sum"):
        nasir.build(SPEC.format(block="mine", scale="1/n").replace("shortcut: projection", "shortcut: none"))


def test_a_block_that_is_added_to_a_network_counts_itself() -> None:
    graph = built("basic", "1/n")
    draft = graph.draft()
    before = graph.outputs[0]
    pooled = graph.nodes[before.node].inputs[0]
    stream = graph.nodes[pooled.node].inputs[0]
    after = build_block(draft, stream, "s2.1", graph.regions["s2"].template or {})
    draft.rewire(stream, after, only=[pooled.node])
    made = draft.commit()
    assert scales(made)["s2.1.scale"]["value"] == 1 / 4 and scales(made)["s2.0.scale"]["value"] == 1 / 3


def test_a_block_of_no_network_needs_the_number() -> None:
    template = {"block": "basic", "options": {"branch_scale": "1/n"}}

    def block(**given: int) -> Graph:
        draft = Draft()
        draft.output(build_block(draft, draft.add("input", (), "x", shape=[4, 8, 8]), "b", template, **given))
        return draft.commit()

    with pytest.raises(TypeRuleError, match=r"block 'b': branch_scale 1/n asks .* give build_block `sums=`"):
        block()
    with pytest.raises(TypeRuleError, match="no residual sum"):
        block(sums=0)
    assert scales(block(sums=8)) == {"b.scale": {"value": 1 / 8, "learnable": False}}
