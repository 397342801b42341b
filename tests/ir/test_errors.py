"""Refusals: each message has the place, the values and where they came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from nasir.errors import GraphError, NasirError, TextFormatError, TypeRuleError, UnknownName
from nasir.ir import Draft, Graph, Node, Port, op_named, parse


def vector(draft: Draft, size: int, label: str) -> Port:
    return draft.add("linear", draft.add("input", (), f"{label}_in", shape=[2]), label, out=size)


def test_a_sum_of_other_sizes_names_node_axis_sizes_and_origins() -> None:
    draft = Draft()
    left = draft.add("relu", vector(draft, 64, "wide"), "act")
    draft.output(draft.add("add", (left, vector(draft, 48, "narrow")), "sum3"))
    with pytest.raises(TypeRuleError) as caught:
        draft.commit()
    text = str(caught.value)
    for part in ("add 'sum3'", "axis 1", "64 (from 'act', written by 'wide')", "48 (from 'narrow')"):
        assert part in text, text


def build(op: str, shape: list[int], /, **attrs: Any) -> Callable[[], object]:
    def run() -> object:
        draft = Draft()
        draft.output(draft.add(op, draft.add("input", (), "x", shape=shape), "it", **attrs))
        return draft.commit()

    return run


@pytest.mark.parametrize(
    "run, parts",
    [
        (build("linear", [3, 4, 4], out=2), ["linear 'it'", "(3, 4, 4)", "flatten"]),
        (build("conv2d", [3], out=2, kernel=3), ["conv2d 'it'", "(3,)", "'x'", "image"]),
        (build("conv2d", [3, 2, 2], out=2, kernel=5), ["conv2d 'it'", "2x2", "kernel 5"]),
        (build("conv2d", [3, 4, 4], out=0, kernel=1), ["conv2d 'it'", "out", "at least 1", "0"]),
        (build("conv2d", [6, 4, 4], out=4, kernel=1, groups=4), ["groups 4", "6", "4"]),
        (build("conv2d", [3, 4, 4], out=2), ["conv2d 'it': kernel: this option is required; add `kernel: ...`"]),
        (
            build("conv2d", [3, 4, 4], out=2, kernel=1, strde=2),
            ["'it': strde: unknown option; did you mean 'stride'?"],
        ),
        (build("conv2d", [3, 4, 4], out=2.5, kernel=1), ["out", "whole number", "2.5"]),
        (build("conv2d", [3, 4, 4], out=True, kernel=1), ["out: expected a whole number, found true"]),
        (build("dropout", [3], p=1), ["p: must be below 1, found 1; use a value below 1"]),
        (build("max_pool", [3, 4, 4], kernel=2, padding=2), ["padding 2", "half the kernel 2"]),
        (build("split", [5], sizes=[2, 2]), ["[2, 2]", "4", "5"]),
        (build("slice", [5], start=3, stop=7), ["start 3", "stop 7", "5"]),
        (build("reshape", [5], shape=[2, 3]), ["(5,)", "(2, 3)", "6"]),
        (build("group_norm", [6, 2, 2], groups=4), ["groups 4", "6"]),
        (build("input", [3], shape=[2]), ["input 'it'", "takes 0 inputs, got 1"]),
        (build("no_such_op", [3]), ["no_such_op"]),
    ],
)
def test_refusals_name_place_and_values(run: Callable[[], object], parts: list[str]) -> None:
    with pytest.raises(NasirError) as caught:
        run()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_misspelt_ops_get_a_hint() -> None:
    with pytest.raises(UnknownName, match="batch_norm"):
        op_named("batchnorm")


def test_cycles_are_named() -> None:
    nodes = {
        0: Node("input", (), {"shape": (2,)}, "x"),
        1: Node("add", (Port(0), Port(2)), {}, "a"),
        2: Node("relu", (Port(1),), {}, "b"),
    }
    with pytest.raises(GraphError, match=r"'(a|b)' and '(a|b)' lie on a cycle"):
        _ = Graph(nodes, (Port(2),), {}, 3).order


def test_unused_nodes_are_named() -> None:
    draft = Draft()
    x = vector(draft, 3, "used")
    draft.add("relu", x, "forgotten")
    draft.output(x)
    with pytest.raises(GraphError, match="'forgotten'"):
        draft.commit()


def test_dangling_ports_missing_outputs_and_twin_labels_are_refused() -> None:
    draft = Draft()
    x = vector(draft, 3, "fc")
    with pytest.raises(GraphError, match="no output"):
        draft.commit()
    draft.output(x)
    draft.output(draft.add("relu", x, "fc"))
    with pytest.raises(GraphError, match="two nodes are labelled 'fc'"):
        draft.commit()
    draft = Draft()
    draft.output(draft.add("relu", Port(17), "r"))
    with pytest.raises(GraphError, match="17"):
        draft.commit()
    draft = Draft()
    draft.output(Port(vector(draft, 3, "fc").node, 1))
    with pytest.raises(TypeRuleError, match="'fc' has no such output"):
        draft.commit()


def test_unknown_labels_and_regions_get_hints() -> None:
    draft = Draft()
    draft.output(vector(draft, 3, "classifier"))
    graph = draft.commit()
    with pytest.raises(GraphError, match="'classifier'"):
        graph.find("clasifier")
    with pytest.raises(GraphError, match="there are none"):
        graph.members("s1")


def regions(**labels: str) -> Draft:
    """x -> a -> b -> (c, d) -> sum, with some labels replaced."""
    draft = Draft()
    names = {name: labels.get(name, name) for name in ("a", "b", "c", "d", "sum")}
    x = draft.add("input", (), "x", shape=[3])
    a = draft.add("relu", x, names["a"])
    b = draft.add("relu", a, names["b"])
    c, d = draft.add("relu", b, names["c"]), draft.add("gelu", b, names["d"])
    draft.output(draft.add("add", (c, d), names["sum"]))
    return draft


@pytest.mark.parametrize(
    "labels, problem",
    [
        ({"c": "s.c", "d": "s.d"}, "one exit.*'s.c', 's.d'"),
        ({"c": "s.c", "sum": "s.sum"}, "one entry.*'b', 'd'"),
        ({}, "holds no nodes"),
    ],
)
def test_regions_need_one_entry_and_one_exit(labels: dict[str, str], problem: str) -> None:
    draft = regions(**labels)
    draft.region("s", "stage")
    with pytest.raises(GraphError, match=problem):
        draft.commit()


def test_a_good_region_knows_its_boundary_and_branches_may_be_anything() -> None:
    draft = regions(b="s.b", c="s.c", d="s.d", sum="s.sum")
    draft.region("s", "stage")
    graph = draft.commit()
    assert graph.boundary("s") == (Port(graph.find("a")), graph.find("s.sum"))
    draft = regions(c="s.c", d="s.d")
    draft.region("s", "branch")
    draft.commit()
    with pytest.raises(GraphError, match="exists already"):
        draft.region("s", "stage")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"nodes": [[0, "input", [], {"shape": [2]}]]},
        {"nodes": [["0", "input", [], {"shape": [2]}, "x"]]},
        {"nodes": [[0, "input", [], ["shape"], "x"]]},
        {"nodes": [[0, "input", [], {"shape": [2]}, 5]]},
        {"nodes": [[0, "input", [], {"shape": [2]}, "x"]] * 2},
        {"nodes": [[9, "input", [], {"shape": [2]}, "x"]]},
        {"nodes": [[0, "input", [], {"shape": "2"}, "x"]]},
        {"outputs": [[3, 0]]},
        {"outputs": [[]]},
        {"outputs": [[0, 0, 0]]},
        {"outputs": 3},
        {"regions": [["x", "district", None]]},
        {"minted": "many"},
    ],
)
def test_malformed_data_is_a_graph_error_never_a_crash(change: dict[str, object]) -> None:
    data = {
        "format": 1,
        "nodes": [[0, "input", [], {"shape": [2]}, "x"]],
        "outputs": [[0, 0]],
        "regions": [],
        "minted": 1,
    }
    assert Graph.from_json(data).infer.types[Port(0)].shape == (2,)
    with pytest.raises(GraphError):
        Graph.from_json(data | change)


def test_text_errors_name_the_line() -> None:
    text = 'nasir graph 1 minted 2\n%0 "x" = input() shape=[2]\n%1 "r" relu(%0)\noutput %1\n'
    with pytest.raises(TextFormatError, match="line 3"):
        parse(text)
    with pytest.raises(TextFormatError, match="line 1"):
        parse("graph")
    with pytest.raises(TextFormatError, match="line 2"):
        parse(re.sub(r"\[2\]", "[2", text))


def _changed(**parts: object) -> dict[str, object]:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[2])
    draft.output(draft.add("relu", x, "relu"))
    return {**draft.commit().to_json(), **parts}


def _nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels):
        value = {"block": value}
    return value


def _nested_list(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"outputs": [[[0], 0]]}, "expected [node, output], two whole numbers, found a list of 2"),
        ({"outputs": [[True, 0]]}, "two whole numbers"),
        ({"outputs": [["0", "0"]]}, "two whole numbers"),
        ({"outputs": 5}, "'int' object is not iterable"),
        ({"nodes": [[0, 5, [], {}, "x"]]}, "node 0 (the text 'x'): expected a whole number as id, the name of an op"),
        ({"nodes": [[10**40, "relu", [], {}, "x"]]}, "is used twice or not below minted = 2"),
        ({"nodes": [[0, "input", [], {"shape": _nested_list(2000)}, "x"]]}, "its attributes are nested too deep"),
        ({"minted": "2"}, "minted: expected a whole number, the next free node id, found the text '2'"),
        ({"minted": 1e999}, "minted: expected a whole number"),
        ({"regions": [[["s"], "stage", None]]}, "region a list of 1: expected a path that no other region has"),
        ({"regions": [["s", "stage", None]] * 2}, "region the text 's': expected a path that no other region has"),
        ({"regions": [["s", ["stage"], None]]}, "region 's': expected one of stage, block, branch, and a template"),
        ({"regions": [["s", "stage", 5]]}, "found the text 'stage' and 5"),
        ({"regions": [["s", "stage", _nested(2000)]]}, "and a template, a mapping or nothing, found the text 'stage'"),
        ({"frozen": [["s"]]}, "frozen ['s']: no node is labelled so"),
    ],
)
def test_data_of_other_types_is_no_graph(parts: dict[str, object], told: str) -> None:
    with pytest.raises(TextFormatError) as caught:
        Graph.from_json(_changed(**parts))
    assert told in str(caught.value)


def test_a_graph_of_countless_nodes_is_refused() -> None:
    chain = [[0, "input", [], {"shape": [2]}, "x"]]
    chain += [[n, "relu", [[n - 1, 0]], {}, f"r{n}"] for n in range(1, 30_001)]
    data = _changed(nodes=chain, outputs=[[30_000, 0]], minted=30_001)
    with pytest.raises(GraphError, match="30001 nodes are more than the 30000 that a network may have"):
        Graph.from_json(data)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f'%{"9" * 5000} "x" = relu(%0)', "line 3: expected a whole number of at most 18 digits, found '999"),
        (f'%1 "x" = relu(%{"9" * 5000})', "line 3: expected a whole number of at most 18 digits"),
        ('%1 "x" = conv2d(%0) out=3 out=4', "line 3: an attribute is given twice"),
        (f'%1 "x" = conv2d(%0) out={"[" * 100_000}', "line 3: values are nested too deep"),
        ('%1 "\\ud800" = relu(%0)', "line 3: "),
        (f'stage "s" {{{"x" * 100_000}}}', "line 3: "),
        ("x" * 100_000, "line 3: cannot read 'xxx"),
    ],
)
def test_a_line_that_is_none_of_a_graph_is_named(line: str, told: str) -> None:
    with pytest.raises(TextFormatError) as caught:
        parse(f'nasir graph 1 minted 2\n%0 "x" = input() shape=[2]\n{line}\noutput %0\n')
    assert str(caught.value).startswith(told) and len(str(caught.value)) < 400
    with pytest.raises(TextFormatError, match="line 1: expected"):
        parse(f"nasir graph 1 minted {'9' * 5000}\noutput %0\n")
