"""What a value's type says beside its axes: which of them holds the channels, what numbers, rows for each sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nasir.errors import TypeRuleError, UsageError
from nasir.ir import Draft, Graph, ValueType, op, op_named, parse
from nasir.ir.infer import At
from nasir.ir.op import loaded
from nasir.registry import ops
from nasir.testing import evaluate, random_batch, random_weights, transferred
from nasir.transfer import derive


def network(shape: list[int], *steps: tuple[str, dict[str, Any]], **given: Any) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=shape, **given)
    for number, (name, attrs) in enumerate(steps):
        x = draft.add(name, x, f"{name}{number}", **attrs)
    draft.output(x)
    return draft.commit()


def out(graph: Graph) -> ValueType:
    return graph.infer.types[graph.outputs[0]]


@pytest.mark.parametrize(("axes", "axis"), [((5,), 0), ((7, 5), 1), ((5, 2, 3), 0), ((5, 2, 3, 4), 0), ((), 0)])
def test_the_usual_axis_of_channels(axes: tuple[int, ...], axis: int) -> None:
    value = ValueType(axes)
    assert value.channel_axis == axis and value.channels == (5 if axes else 1)
    assert value.channel_dim == axis + 1 and value.plain


def test_a_value_over_other_axes_stays_what_it_is() -> None:
    value = ValueType((2, 3, 5), 2, "int64", 4)
    assert value.over((2, 3, 6)).channel_axis == 2
    assert value.with_channels(6).shape == (2, 3, 6)
    shorter = value.over((6, 5))
    assert (shorter.channel_axis, shorter.dtype, shorter.batch) == (1, "int64", 4)
    assert value.entries == 2 * 3 * 5 * 4 and value.bytes == 8 * value.entries
    assert repr(value) == "ValueType(2, 3, 5) (channels on axis 3, int64, 4 rows a sample)"
    assert repr(ValueType((3, 2, 2))) == "ValueType(3, 2, 2)"
    assert ValueType((3,), batch=0).channel_dim == 0


def test_channels_may_be_the_last_axis_of_an_image() -> None:
    """(H, W, C), as ConvNeXt and Swin have it, in a network that is widened."""
    graph = network(
        [4, 5, 3],
        ("linear", {"out": 6}),
        ("layer_norm", {}),
        ("gelu", {}),
        ("split", {"sizes": [2, 4]}),
        ("pad_channels", {"before": 1}),
        channel_axis=2,
    )
    assert out(graph).shape == (4, 5, 3) and out(graph).channel_axis == 2
    assert graph.cost().macs == 4 * 5 * 3 * 6
    graph = network([4, 5, 3], ("linear", {"out": 6}), ("gelu", {}), ("linear", {"out": 2}), channel_axis=2)
    (hidden,) = [atom for atom in graph.infer.spaces if atom.resizable]
    draft = graph.draft()
    draft.select(hidden, np.array([0, 2, 5]))
    small = draft.commit()
    assert small.infer.slots[small.find("linear2")]["weight"].shape == (2, 3)
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    for label, axis in (("linear0", 0), ("linear2", 1)):  # what is removed had no effect
        for name, slot in graph.infer.slots[graph.find(label)].items():
            if len(slot.axes) > axis:
                array = next(a for key, a in weights.items() if key.node == graph.find(label) and key.slot == name)
                np.moveaxis(array, axis, 0)[[1, 3, 4]] = 0.0
    after = evaluate(small, transferred(derive(draft, small), small, weights), x)
    assert abs(after - evaluate(graph, weights, x)).max() < 1e-12


def test_what_needs_another_layout_says_so() -> None:
    for name, attrs, text in (
        ("conv2d", {"out": 2, "kernel": 1}, "needs an image (channels, height, width), got"),
        ("batch_norm", {}, "needs an image or a vector, got"),
    ):
        with pytest.raises(TypeRuleError) as caught:
            network([4, 5, 3], (name, attrs), channel_axis=2)
        assert f"{text} shape (4, 5, 3) with channels on axis 3" in str(caught.value)
    with pytest.raises(TypeRuleError, match="needs tokens"):
        network([4, 5], ("select_token", {}), channel_axis=0)
    with pytest.raises(TypeRuleError, match="channel_axis must be from 0 to 1, not 2"):
        network([4, 5], ("relu", {}), channel_axis=2)
    draft = Draft()
    a = draft.add("input", (), "a", shape=[4, 4, 4])
    b = draft.add("input", (), "b", shape=[4, 4, 4], channel_axis=2)
    draft.output(draft.add("add", [a, b], "sum"))
    with pytest.raises(TypeRuleError, match=r"on axis 1 \(from 'a'\) and on axis 3 \(from 'b'\)"):
        draft.commit()


def test_indices_are_no_features() -> None:
    """A linear layer on ids of words would be wrong in silence."""
    with pytest.raises(TypeRuleError, match="linear 'linear0': needs floating-point numbers, got int64 from 'ids'"):
        draft = Draft()
        draft.output(draft.add("linear", draft.add("input", (), "ids", shape=[12], dtype="int64"), "linear0", out=3))
        draft.commit()
    ids = network([12], ("identity", {}), dtype="int64")
    assert not ids.infer.spaces and out(ids).dtype == "int64" and ids.cost().activation_bytes == 2 * 12 * 8


def test_stored_networks_and_digests_do_not_know_the_attributes_that_came_later() -> None:
    """Digests and files of networks are those of releases that had no `channel_axis`."""
    graph = network([3, 8, 8], ("conv2d", {"out": 4, "kernel": 3}), ("flatten", {}), ("linear", {"out": 2}))
    assert graph.digest == "209d84ec0b3cc1cd4a6513b68ce03271f75aee50ea95844b55d948a1536032bb"
    assert graph.to_json()["nodes"][0] == [0, "input", [], {"shape": (3, 8, 8)}, "x"]
    other = network([3, 8, 8], ("relu", {}), channel_axis=2)
    assert other.digest != network([3, 8, 8], ("relu", {})).digest
    assert other.digest == network([3, 8, 8], ("relu", {}), channel_axis=2, dtype="float32").digest
    for again in (parse(other.to_text()), Graph.from_json(json.loads(json.dumps(other.to_json())))):
        assert again == other and out(again).channel_axis == 2


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ops of somebody else's: one that lays parts of a sample one after another in the batch, and one that forgets."""
    monkeypatch.setattr(ops, "_objects", dict(ops._objects))

    @op("fold_rows", family="shape")
    def fold_rows(at: At, x: ValueType, parts: int) -> ValueType:
        return ValueType((x.shape[0] // parts, *x.axes[1:]), x.channel_axis, x.dtype, x.batch * parts)

    @op("forgetful", channels="alone")
    def forgetful(at: At, x: ValueType) -> ValueType:
        return ValueType(x.axes)

    yield
    for name in ("fold_rows", "forgetful"):
        loaded.pop(name, None)


def test_rows_of_a_sample_go_on_and_are_counted(folding: None) -> None:
    graph = network([6, 4], ("fold_rows", {"parts": 3}), ("linear", {"out": 5}), ("gelu", {}))
    assert out(graph).batch == 3 and out(graph).shape == (2, 5)
    assert graph.costs[graph.find("linear1")].macs == 3 * 2 * 4 * 5
    assert graph.costs[graph.find("gelu2")].activation_bytes == 3 * 2 * 5 * 4
    # an op's rule that makes a type of its own instead
    with pytest.raises(TypeRuleError, match="forgetful 'forgetful1': its input has 3 rows for each sample, its output"):
        network([6, 4], ("fold_rows", {"parts": 3}), ("forgetful", {}))
    draft = Draft()
    x = draft.add("input", (), "x", shape=[6, 4])
    two, three = (draft.add("fold_rows", x, f"f{n}", parts=n) for n in (2, 3))
    draft.output(draft.add("add", [two, three], "sum"))
    with pytest.raises(TypeRuleError, match="its inputs have 2 and 3 rows for each sample"):
        draft.commit()


def test_facts_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="takes='ids' is not known; name some of integers, unbatched, rows"):
        op("odd", takes=("ids",))(lambda at: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="later='size' is no attribute with a default"):
        op("odd", later=("size",))(lambda at: None)
    assert "odd" not in ops.names() and not op_named("relu").later
