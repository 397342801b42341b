"""A plan is refused for any single fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from nasir.errors import PlanError
from nasir.ir import Draft, Fill, Graph
from nasir.testing import random_graph
from nasir.transfer import AxisTake, Blob, Key, Source, Stack, Take, TransferPlan, derive


def widened(seed: int) -> tuple[Graph, Graph, TransferPlan]:
    graph = random_graph(seed)
    draft = graph.draft()
    for space in [space for space in graph.infer.spaces if space.resizable][:3]:
        draft.select(space, np.append(np.arange(space.size), [0, -1]))
    new = draft.commit()
    return graph, new, derive(draft, new)


def with_axis(take: Take, number: int, axis: AxisTake | None) -> Take:
    return replace(take, axes=(*take.axes[:number], axis, *take.axes[number + 1 :]))


def corruptions(plan: TransferPlan, old: Graph, new: Graph) -> Iterator[tuple[str, TransferPlan]]:
    """Plans with one fault each."""
    for key, source in plan.sources.items():
        rest = {other: kept for other, kept in plan.sources.items() if other != key}

        def having(bad: Source, key: Key = key, rest: dict[Key, Source] = rest) -> TransferPlan:
            return TransferPlan({**rest, key: bad})

        assert isinstance(source, Take)
        yield "dropped", TransferPlan(rest)
        yield "unknown rule", having(Fill("sparkles"))
        yield "blob of another shape", having(Blob("0" * 64, (99,)))
        yield "key not in the old network", having(replace(source, key=Key(old.minted + 99, "weight")))
        yield "slot not in the old network", having(replace(source, key=Key(source.key.node, "wieght")))
        yield "too few axes", having(replace(source, axes=source.axes[:-1]))
        yield "too many axes", having(replace(source, axes=(*source.axes, None)))
        yield "negative noise", having(replace(source, noise=-0.1))
        yield "noise that is no number", having(replace(source, noise=float("nan")))
        yield "empty stack", having(Stack(0, ()))
        yield "stack along no axis", having(Stack(9, (source,)))
        yield "stack of a shapeless fill", having(Stack(0, (Fill("zeros"),)))
        yield "stack twice as long", having(Stack(0, (source, source)))
        number = next(n for n, axis in enumerate(source.axes) if axis is not None)
        axis = source.axes[number]
        assert axis is not None
        bad = {
            "index too large": replace(axis, index=np.append(axis.index[:-1], 10**6)),
            "index below -1": replace(axis, index=np.append(axis.index[:-1], -2)),
            "index too short": replace(axis, index=axis.index[:-1], gain=None),
            "index too long": replace(axis, index=np.append(axis.index, 0), gain=None),
            "index of two axes": replace(axis, index=axis.index[None], gain=None),
            "index of fractions": replace(axis, index=axis.index + 0.5),
            "whole axis": None,
            "gains of another length": replace(axis, gain=np.ones(len(axis.index) + 1)),
            "gains that are not finite": replace(axis, gain=np.full(len(axis.index), np.nan)),
            "hole without a rule": replace(axis, index=np.append(axis.index[:-1], -1), fill=None),
            "unknown rule for holes": replace(axis, fill=Fill("sparkles")),
        }
        for name, wrong in bad.items():
            yield name, having(with_axis(source, number, wrong))
    anything = next(iter(plan.sources.values()))
    yield "extra node", TransferPlan({**plan.sources, Key(new.minted + 1, "weight"): anything})
    yield "extra slot", TransferPlan({**plan.sources, Key(next(iter(plan.sources)).node, "extra"): anything})


@pytest.mark.parametrize("seed", range(6))
def test_any_single_corruption_is_refused(seed: int) -> None:
    old, new, plan = widened(seed)
    plan.verify(old, new)
    accepted = []
    for name, bad in corruptions(plan, old, new):
        try:
            bad.verify(old, new)
        except PlanError as error:
            assert str(error)
        else:
            accepted.append(name)
    assert not accepted


def test_the_message_names_the_weight() -> None:
    old, new, plan = widened(0)
    key = next(iter(plan.sources))
    label = new.nodes[key.node].label
    with pytest.raises(PlanError, match=rf"{label}\.{key.slot}"):
        TransferPlan({k: source for k, source in plan.sources.items() if k != key}).verify(old, new)


def test_new_weights_need_a_source_and_fresh_networks_get_the_default() -> None:
    graph = random_graph(3)
    plan = derive(Draft(), graph)
    keys = {Key(node_id, name) for node_id, slots in graph.infer.slots.items() for name in slots}
    assert plan.sources.keys() == keys
    with pytest.raises(PlanError, match="without a source"):
        TransferPlan({}).verify(Graph({}, (), {}, 0), graph)


def test_a_stack_joins_what_fits() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3])
    a, b = draft.add("linear", x, "a", out=2), draft.add("linear", x, "b", out=4)
    draft.output(draft.add("concat", (a, b), "ab"))
    old = draft.commit()
    edit = old.draft()
    joined = edit.add("linear", x, "joined", out=6)
    edit.outputs = [joined]
    edit.remove([a.node, b.node, old.find("ab")])
    new = edit.commit()
    takes = [Take(Key(port.node, "weight"), (None, None)) for port in (a, b)]
    biases = tuple([Take(Key(port.node, "bias"), (None,)) for port in (a, b)])
    fit = TransferPlan({Key(joined.node, "weight"): Stack(0, tuple(takes)), Key(joined.node, "bias"): Stack(0, biases)})
    fit.verify(old, new)
    with pytest.raises(PlanError, match="do not join"):
        TransferPlan({**fit.sources, Key(joined.node, "weight"): Stack(1, tuple(takes))}).verify(old, new)


def test_an_initializer_for_a_weight_that_is_not_there_is_refused() -> None:
    graph = random_graph(0)
    draft = graph.draft()
    before = draft.outputs[0]
    added = draft.add("batch_norm", before, "late")
    draft.outputs = [added]
    draft.fill(added.node, "wieght", "zeros")
    with pytest.raises(PlanError, match=r"late\.wieght: there is no such weight to set, only weight, bias"):
        derive(draft, draft.commit())
