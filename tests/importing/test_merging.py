"""Runs become one recording, without torch: batch sizes, modes, order, what nothing needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nasir.errors import NasirError
from nasir.importing import Batch, Call, Input, Recording, Ref, Scope, State, Structure, Switch, Update, Value, to_text
from nasir.importing.compact import compact
from nasir.importing.merge import merge_batches, merge_modes, same_sequence
from nasir.importing.trees import leaves, same, same_trees


def call(operation: str, result: Any, *args: Any, **more: Any) -> Call:
    kwargs = more.pop("kwargs", {})
    return Call(f"torch.{operation}", None, args, kwargs, result, (Scope("", "Net"),), "net.py:1", {}, **more)


def run(batch: int, calls: list[Call], outputs: Any, shapes: dict[int, tuple[int, ...]] | None = None) -> Recording:
    """Value 0 is the input, 1 the buffer `seen`, the others come from calls."""
    count = 2 + sum(len([leaf for _, leaf in leaves(c.result) if isinstance(leaf, Ref)]) for c in calls)
    values = [Value("input", "0", (batch, 4), "float32"), Value("buffer", "seen", (), "float32")]
    values += [Value("call", "", (shapes or {}).get(n, (batch, 4)), "float32") for n in range(2, count)]
    state = (State("seen", "buffer", (), "float32", Ref(1)),)
    inputs = (Input("0", Ref(0), True),)
    return Recording(((Ref(0),), {}), inputs, state, tuple(values), tuple(calls), outputs, (), {})


def test_integers_become_affine_and_everything_else_must_be_equal() -> None:
    def at(batch: int) -> Recording:
        cut = Structure("slice", (("start", None), ("stop", 3 * batch - 1), ("step", None)))
        first = call("view", Ref(2), Ref(0), (batch * 2, 2), kwargs={"names": [batch, "same", 0.5]})
        return run(batch, [first, call("cut", Ref(3), Ref(2), cut)], Ref(3))

    merged = merge_batches(at(2), at(3), (2, 3))
    view, cut = merged.calls
    assert view.args == (Ref(0), (Batch(2), 2)) and view.kwargs == {"names": [Batch(1), "same", 0.5]}
    assert cut.args[1].parts[1] == ("stop", Batch(3, -1))
    assert merged.values[0].shape == (Batch(1), 4) and Batch(3, -1).at(5) == 14


@pytest.mark.parametrize(
    ("two", "three", "told"),
    [
        (0.5, 1 / 3, "0.5 with 2 samples and 0.333"),
        (True, False, "True with 2 samples and False with 3"),
        (2, 3.0, "2 with 2 samples and 3.0 with 3"),
        ("a", "b", "'a' with 2 samples"),
        (Ref(0), Ref(1), "value 0 with 2 samples and value 1 with 3"),
        (np.zeros(2), np.ones(2), "with 2 samples"),
    ],
)
def test_other_differences_between_batch_sizes_are_refused(two: Any, three: Any, told: str) -> None:
    runs = [run(batch, [call("f", Ref(2), Ref(0), leaf)], Ref(2)) for batch, leaf in ((2, two), (3, three))]
    with pytest.raises(NasirError, match=told):
        merge_batches(runs[0], runs[1], (2, 3))


def test_differences_in_steps_of_two_samples_need_a_whole_factor() -> None:
    def at(batch: int, number: int) -> Recording:
        return run(batch, [call("f", Ref(2), Ref(0), number)], Ref(2))

    assert merge_batches(at(2, 7), at(4, 13), (2, 4)).calls[0].args[1] == Batch(3, 1)
    with pytest.raises(NasirError, match="no whole multiple"):
        merge_batches(at(2, 7), at(4, 12), (2, 4))


def test_lengths_that_follow_the_data_are_unknown() -> None:
    runs = [run(b, [call("nonzero", Ref(2), Ref(0))], Ref(2), {2: (n, 2)}) for b, n in ((2, 5), (4, 8))]
    assert merge_batches(*runs, (2, 4)).values[2].shape == (None, 2)


def test_other_calls_for_another_batch_size_are_refused_by_the_first_of_them() -> None:
    one = run(2, [call("f", Ref(2), Ref(0)), call("g", Ref(3), Ref(2))], Ref(3))
    other = run(3, [call("f", Ref(2), Ref(0)), call("h", Ref(3), Ref(2))], Ref(3))
    shorter = run(3, [call("f", Ref(2), Ref(0))], Ref(2))
    with pytest.raises(NasirError, match=r"call 1 is torch\.g .* with 2 samples and torch\.h .* with 3 samples"):
        merge_batches(one, other, (2, 3))
    with pytest.raises(NasirError, match=r"torch\.g .* with 2 samples and the end with 3"):
        merge_batches(one, shorter, (2, 3))


def test_what_differs_between_modes_becomes_a_switch() -> None:
    evaluated = run(2, [call("dropout", Ref(2), Ref(0), 0.1, False)], {"y": Ref(2), "aux": None})
    trained = run(2, [call("dropout", Ref(2), Ref(0), 0.3, True, random=True)], {"y": Ref(2), "aux": Ref(0)})
    assert same_sequence(evaluated, trained)
    merged = merge_modes(evaluated, trained, 2)
    assert merged.calls[0].args == (Ref(0), Switch(0.1, 0.3), Switch(False, True)) and merged.calls[0].random
    assert merged.outputs == {"y": Ref(2), "aux": Switch(None, Ref(0))}


def test_the_train_run_checks_what_is_said_of_the_batch_size() -> None:
    def at(batch: int, number: int) -> Recording:
        return run(batch, [call("f", Ref(2), Ref(0), number)], Ref(2))

    evaluated = merge_batches(at(2, 4), at(3, 9), (2, 3))
    assert merge_modes(evaluated, at(4, 14), 4).calls[0].args[1] == Batch(5, -6)
    with pytest.raises(NasirError, match=r"5 \* B \+ -6 for small batches in eval mode and 16 for 4 samples"):
        merge_modes(evaluated, at(4, 16), 4)
    with pytest.raises(NasirError, match="1 for small batches in eval mode and 2 for 4 samples in train mode"):
        merge_modes(merge_batches(at(2, 1), at(3, 1), (2, 3)), at(4, 2), 4)


def test_calls_of_one_mode_alone_are_kept_in_their_order() -> None:
    evaluated = run(2, [call("f", Ref(2), Ref(0)), call("e", Ref(3), Ref(2)), call("g", Ref(4), Ref(3))], Ref(4))
    trained = run(
        2,
        [call("f", Ref(2), Ref(0)), call("t", Ref(3), Ref(2)), call("u", Ref(4), Ref(3)), call("g", Ref(5), Ref(4))],
        (Ref(5), Ref(3)),
    )
    assert not same_sequence(evaluated, trained)
    merged = compact(merge_modes(evaluated, trained, None))
    assert [(c.operation, c.only) for c in merged.calls] == [
        ("torch.f", None), ("torch.e", "eval"), ("torch.t", "train"), ("torch.u", "train"), ("torch.g", None),
    ]  # fmt: skip
    f, e, t, u, g = merged.calls
    assert e.args == t.args == (f.result,) and u.args == (t.result,)
    assert g.args == (Switch(e.result, u.result),)
    assert merged.outputs == Switch(g.result, (g.result, t.result))
    assert len({c.result.number for c in merged.calls}) == 5


def test_updates_of_one_mode_keep_the_buffer_in_the_other() -> None:
    from dataclasses import replace

    evaluated = run(2, [call("f", Ref(2), Ref(0))], Ref(2))
    trained = run(2, [call("f", Ref(2), Ref(0)), call("mean", Ref(3), Ref(2))], Ref(2))
    trained = replace(trained, updates=(Update("seen", Ref(3)), Update("new", Ref(3))))
    merged = compact(merge_modes(evaluated, trained, None))
    mean = next(c for c in merged.calls if c.operation == "torch.mean")
    assert merged.updates == (
        Update("seen", Switch(merged.state[0].ref, mean.result)),
        Update("new", Switch(None, mean.result)),
    )


def test_compact_drops_what_nothing_needs_but_random_calls_and_updates() -> None:
    calls = [
        call("dead", Ref(2), Ref(0)),
        call("rand", Ref(3), random=True),
        call("norm", Ref(4), Ref(0), updates=("seen",)),
        call("unused", (Ref(5), Ref(6)), Ref(0)),
        call("zeros_like", Ref(7), Ref(6)),
        call("add", Ref(8), Ref(7), Ref(3)),
    ]
    small = compact(run(2, calls, Ref(8)))
    assert [c.operation for c in small.calls] == [f"torch.{n}" for n in ("rand", "norm", "unused", "zeros_like", "add")]
    numbers = [leaf.number for c in small.calls for _, leaf in leaves(c.result) if isinstance(leaf, Ref)]
    assert numbers == list(range(1, 7)) and small.state[0].ref is None
    depends = {c.operation: small.values[c.result.number].depends for c in small.calls if isinstance(c.result, Ref)}
    assert depends["torch.zeros_like"] == set() and depends["torch.add"] == {"random"}


def test_trees_are_compared_by_form_and_leaf() -> None:
    assert same_trees((1, [Ref(2)], {"a": np.ones(2)}), (1, [Ref(2)], {"a": np.ones(2)}))
    assert not same_trees((1, 2), [1, 2]) and not same_trees((1,), (1.0,)) and not same_trees((1,), (True,))
    assert same(float("nan"), float("nan")) and not same(np.ones(2), np.ones(2, dtype=np.float32))
    assert dict(leaves({"a": (1, Structure("slice", (("stop", 2),)))})) == {"a.0": 1, "a.1.stop": 2}


def test_the_text_shows_batch_sizes_and_modes() -> None:
    recording = run(2, [call("f", Ref(2), Ref(0), Batch(2, 1), Switch(1, 2), in_place=True, only="train")], Ref(2))
    assert "%2 = torch.f(%0, 2*B+1, <eval 1 | train 2>)  # root, net.py:1; train only; in place" in to_text(recording)
