"""Signs, costs, names of spaces, and what a draft answers."""

from __future__ import annotations

import numpy as np
import pytest

from nasir.errors import GraphError
from nasir.ir import Draft, Graph, Port
from nasir.ir.regions import depth_text
from nasir.testing import random_batch, random_graph, random_weights, trace


@pytest.mark.parametrize("seed", range(15))
def test_streams_said_to_be_nonnegative_are(seed: int) -> None:
    graph = random_graph(seed)
    values = trace(graph, random_weights(graph, seed), random_batch(graph, seed))
    for port, value in values.items():
        if graph.nonnegative[port.node]:
            assert value.min() >= 0.0, graph.nodes[port.node].label


def chain(*ops: str) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    for n, op in enumerate(ops):
        x = draft.add(op, x, f"{op}{n}")
    draft.output(x)
    return draft.commit()


@pytest.mark.parametrize(
    "ops, sure",
    [
        (("relu",), True),
        (("relu", "dropout", "identity"), True),
        (("relu", "batch_norm"), False),
        (("relu", "scale"), False),
        (("identity",), False),
        (("gelu",), False),
        (("gelu", "sigmoid"), True),
    ],
)
def test_signs_follow_the_stream(ops: tuple[str, ...], sure: bool) -> None:
    graph = chain(*ops)
    assert graph.nonnegative[graph.outputs[0].node] is sure


def test_a_sum_is_nonnegative_only_if_all_its_terms_are() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    r = draft.add("relu", x, "r")
    both, mixed = draft.add("add", (r, r), "both"), draft.add("add", (r, x), "one")
    draft.output(draft.add("concat", (both, mixed), "c"))
    signs = draft.commit().nonnegative
    assert signs[both.node] and not signs[mixed.node]


def test_cost_counts_parameters_macs_and_every_output() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "s.conv", out=4, kernel=3, stride=2, padding=1, bias=True)
    x = draft.add("batch_norm", x, "s.bn")
    draft.region("s", "stage")
    parts = draft.add("split", x, "split", sizes=[1, 3])
    x = draft.add("concat", (parts, Port(parts.node, 1)), "cat")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=5))
    graph = draft.commit()
    image, conv = 3 * 64, 4 * 16
    assert graph.cost("s.conv").params == 4 * 3 * 9 + 4
    assert graph.cost("s").params == 4 * 3 * 9 + 4 + 8
    assert graph.cost("s.conv").macs == 4 * 3 * 9 * 16
    assert graph.cost().macs == 4 * 3 * 9 * 16 + 4 * 5
    assert graph.cost("split").activation_bytes == 4 * conv
    assert graph.cost().activation_bytes == 4 * (image + 4 * conv + 4 + 5)


@pytest.mark.parametrize("seed", range(15))
def test_spaces_have_unique_names_sizes_and_reasons(seed: int) -> None:
    spaces = random_graph(seed).infer.spaces
    assert len({space.name for space in spaces}) == len(spaces)
    assert all(space.size >= 1 and (space.resizable or space.pin) for space in spaces)


@pytest.mark.parametrize("index", [[0, 4], [-2], [], [[0]], [True, False, True, True], [0.0, 1.0]])
def test_wrong_indices_are_refused_and_masks_are_not_taken_for_indices(index: list[object]) -> None:
    draft = Draft()
    hidden = draft.add("linear", draft.add("input", (), "x", shape=[2]), "hidden", out=4)
    draft.output(draft.add("linear", hidden, "out", out=2))
    graph = draft.commit()
    space = next(space for space in graph.infer.spaces if space.name == "hidden")
    with pytest.raises(GraphError, match="'hidden'"):
        graph.draft().select(space, np.array(index))
    for pinned in graph.infer.spaces:
        if not pinned.resizable:
            with pytest.raises(GraphError, match="cannot be resized"):
                graph.draft().select(pinned, [0])
    with pytest.raises(GraphError, match=r"graph\.infer\.spaces"):
        Graph.from_json(graph.to_json()).draft().select(space, [0])


def test_a_draft_answers_shapes_after_edits() -> None:
    graph = random_graph(0, steps=0)
    stem = next(n for n in graph.order if graph.nodes[n].op == "conv2d")
    draft = graph.draft()
    relu = Port(graph.find("stem.relu"))
    channels, height, width = draft.shape(relu)
    draft.set_attrs(stem, stride=2)
    assert draft.shape(relu) == (channels, (height + 1) // 2, (width + 1) // 2)
    assert draft.shape(graph.nodes[stem].inputs[0])[1:] == (height, width)


def test_ids_are_never_handed_out_twice() -> None:
    graph = chain("relu", "gelu")
    draft = graph.draft()
    extra = draft.add("silu", graph.outputs[0], "extra")
    draft.remove(extra.node)
    later = draft.add("silu", graph.outputs[0], "extra")
    draft.outputs = [later]
    again = draft.commit()
    assert later.node > extra.node >= graph.minted
    assert again.minted == later.node + 1


def test_depths_in_one_line() -> None:
    assert depth_text({"s1": 3, "s2": 4}) == "3-4"
    split = {"branches.0.s2": 1, "branches.0.s3": 2, "branches.1.s2": 1, "branches.1.s3": 2, "s1": 2}
    assert depth_text(split) == "2-2x(1-2)"
    assert depth_text({"branches.0": 2, "branches.1": 3}) == "1x(2)-1x(3)"
    assert depth_text({}) == ""
