"""Windows over one to three axes: sizes, what is refused, costs, and what graphs from before hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasir.analysis.resources import resource_terms
from nasir.backends.torch import Model
from nasir.errors import TypeRuleError
from nasir.ir import Draft, Graph, Port, op_named
from nasir.testing import OpCase, shipped_cases

CONVOLUTIONS = [case for op, cases in shipped_cases().items() if op.startswith("conv") for case in cases]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_multiply_accumulates_are_those_that_torch_counts(case: OpCase) -> None:
    graph = case.graph()
    model, x = Model.from_graph(graph), torch.randn(1, *case.shapes[0])
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert 2 * graph.cost().macs == counter.get_total_flops()


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_the_cost_by_widths_is_the_cost(case: OpCase) -> None:
    """Products of all spaces, groups among them, of networks in which every one of them may be resized."""
    graph = behind(case)
    node = graph.find("op")
    term = resource_terms(graph, "flops", lambda atom: False)[node]
    total = 0.0
    for factors, each in term.cost.items():
        for atom in factors:
            each *= atom.size
        total += each
    assert total == 2 * graph.costs[node].macs


def behind(case: OpCase) -> Graph:
    """The op between layers that let its spaces be resized."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=case.shapes[0], channel_axis=0)
    rank = len(case.shapes[0]) - 1
    x = draft.add(f"conv{rank}d", x, "first", out=case.shapes[0][0], kernel=1)
    x = draft.add(case.op, x, "op", **case.attrs)
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=3))
    return draft.commit()


def made(op: str, shape: tuple[int, ...], **attrs: Any) -> tuple[int, ...]:
    graph = OpCase(op, (shape,), attrs, 0).graph()
    return graph.infer.types[Port(graph.find("op"))].shape


def test_the_last_window_may_hang_over_the_end_if_it_starts_before_it() -> None:
    for size in range(1, 12):
        for kernel in (1, 2, 3):
            for stride in (1, 2, 3, 4):
                for padding in (0, 1) if kernel > 1 else (0,):
                    if size + 2 * padding < kernel:
                        continue
                    x = torch.zeros(1, 1, size, size)
                    pool = torch.nn.functional.avg_pool2d(x, kernel, stride, padding, ceil_mode=True)
                    given = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": True}
                    assert made("avg_pool", (1, size, size), **given) == tuple(pool.shape[1:])


WRONG = [
    ("conv2d", (3, 8, 8), {"kernel": [3, 2, 3]}, ["kernel", "3 numbers", "2 axes"]),
    ("conv3d", (3, 8, 8), {"kernel": 3}, ["needs a volume", "(3, 8, 8)"]),
    ("conv1d", (3, 8, 8), {"kernel": 3}, ["needs a signal", "(3, 8, 8)"]),
    ("conv2d", (3, 8, 8), {"kernel": 3, "padding": 8, "padding_mode": "reflect"}, ["reflect", "at most 7", "not 8"]),
    ("conv2d", (3, 8, 8), {"kernel": 3, "padding": 9, "padding_mode": "circular"}, ["circular", "at most 8", "not 9"]),
    ("conv_transpose2d", (3, 8, 8), {"kernel": 3, "output_padding": 1}, ["output_padding 1", "stride 1", "dilation 1"]),
    ("conv_transpose2d", (3, 8, 8), {"kernel": [3, 2, 2]}, ["kernel", "3 numbers", "2 axes"]),
    ("conv_transpose2d", (3, 1, 1), {"kernel": 2, "padding": 1}, ["padding 1", "takes away all"]),
    ("conv_transpose2d", (3, 8, 8), {"kernel": 3, "groups": 2}, ["groups 2 must divide", "3 input"]),
    ("max_pool", (3, 8, 8), {"kernel": 2, "stride": [0, 1]}, ["stride (0, 1)", "at least 1"]),
    ("max_pool", (3, 2, 2), {"kernel": 2, "padding": 1, "dilation": 3}, ["dilation 3", "padding only"]),
    ("avg_pool", (3, 8), {"kernel": 2, "divisor_override": 3}, ["divisor_override", "signal"]),
    ("adaptive_max_pool", (3, 8, 8), {"size": [1, 2, 3]}, ["size", "3 numbers", "2 axes"]),
    ("pad", (3, 8, 8), {"before": 8, "mode": "reflect"}, ["reflect padding adds at most 7", "not 8"]),
    ("pad", (3, 8, 8), {"before": 1, "mode": "circular", "value": 1.0}, ["value 1.0", "mode: constant"]),
    ("pad", (3, 8, 8), {"before": [1, 2, 3]}, ["before", "3 numbers", "2 axes"]),
    ("interpolate", (3, 8, 8), {}, ["one of size", "scale_factor"]),
    ("interpolate", (3, 8, 8), {"size": 4, "scale_factor": 2}, ["one of size", "scale_factor"]),
    ("interpolate", (3, 8, 8), {"size": 4, "mode": "linear"}, ["mode linear is for 1 axes", "use bilinear"]),
    ("interpolate", (3, 8, 8), {"size": 4, "align_corners": True}, ["align_corners", "nearest"]),
    ("interpolate", (3, 8, 8), {"size": 4, "antialias": True}, ["antialias", "bilinear", "nearest"]),
    ("bicubic", (3, 8), {"size": 4}, ["for images", "1 axes"]),
    ("bicubic", (3, 8, 8), {}, ["one of size", "scale_factor"]),
    ("interpolate", (3, 8, 8), {"scale_factor": 0.1}, ["scale_factor 0.1", "leaves nothing"]),
    ("interpolate", (3, 8, 8), {"scale_factor": [2.0, 2.5, 3.0]}, ["scale_factor", "3 numbers", "2 axes"]),
]


@pytest.mark.parametrize(("op", "shape", "attrs", "words"), WRONG, ids=[f"{case[0]}-{case[2]}" for case in WRONG])
def test_what_does_not_fit_is_refused_with_the_values(
    op: str, shape: tuple[int, ...], attrs: dict[str, Any], words: list[str]
) -> None:
    more = {"out": 4} if op.startswith("conv") else {}
    with pytest.raises(TypeRuleError) as caught:
        made(op, shape, **more, **attrs)
    text = str(caught.value)
    assert text.startswith(f"{op} 'op': ") and all(word in text for word in words), text


def test_tokens_are_no_signal_unless_nothing_can_resize_their_features() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5, 6])
    tokens = draft.add("linear", x, "fc", out=4)
    draft.output(draft.add("conv1d", tokens, "conv", out=3, kernel=3))
    with pytest.raises(TypeRuleError, match="needs a signal"):
        draft.commit()
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5, 6])
    x = draft.add("conv1d", x, "conv", out=3, kernel=3)
    assert draft.value(x).shape == (3, 4) and draft.value(x).channel_axis == 0


def test_graphs_from_before_state_no_more_than_they_did() -> None:
    for op, attrs, new in [
        ("conv2d", {"out": 4, "kernel": 3}, {"end_padding": 1}),
        ("max_pool", {"kernel": 2}, {"dilation": 2}),
        ("avg_pool", {"kernel": 2}, {"count_include_pad": False}),
    ]:
        facts = op_named(op)
        stated = facts.stated(facts.normalize(attrs, "op"))
        later = {"end_padding", "padding_mode", "dilation", "ceil_mode", "count_include_pad", "divisor_override"}
        assert stated.keys() & later == ({"dilation"} if op == "conv2d" else set())
        assert new.items() <= facts.stated(facts.normalize({**attrs, **new}, "op")).items()
