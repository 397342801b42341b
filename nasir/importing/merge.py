"""One recording of several runs: numbers that follow the batch size, and what differs between eval and train mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

from nasir.errors import NasirError
from nasir.importing.compact import call_of, renumbered
from nasir.importing.recording import Batch, Call, Recording, Ref, Switch, Tree, Update, Value
from nasir.importing.trees import form, merged, parts_of, refs, same


def merge_batches(one: Recording, other: Recording, batches: tuple[int, int]) -> Recording:
    """Two runs in one mode with two batch sizes: integers that differ become factor * B + offset.

    Raises NasirError where the batch size changes which calls are made, or a number in another way.
    """
    _same_calls(one, other, batches)

    def at(where: str) -> Callable[[Any, Any], Tree]:
        return lambda a, b: _of_batch(a, b, batches, where)

    calls = []
    for call, twin in zip(one.calls, other.calls, strict=True):
        change = at(call.place)
        calls.append(
            replace(
                call,
                args=merged(change, call.args, twin.args),
                kwargs=merged(change, dict(call.kwargs), dict(twin.kwargs)),
                result=merged(change, call.result, twin.result),
                random=call.random or twin.random,
            )
        )
    change = at("the outputs")
    pairs = zip(one.values, other.values, strict=True)
    return replace(
        one,
        values=tuple([replace(a, shape=_shape(a.shape, b.shape, batches)) for a, b in pairs]),
        calls=tuple(calls),
        outputs=merged(change, one.outputs, other.outputs),
        updates=_both_updates(one, other, change),
    )


def merge_modes(evaluated: Recording, trained: Recording, batch: int | None) -> Recording:
    """A recording in eval mode and one in train mode as one.

    `batch` is the batch size of the second where that is of one run; None where it has numbers that follow the batch
    size as well. Raises NasirError where a number follows the batch size in a way that the first does not have.
    """
    matched = _matched(evaluated.calls, trained.calls)
    there = len([value for value in trained.values if value.origin != "call"])
    number: dict[int, int] = {n: n for n in range(there)}
    values = list(evaluated.values)
    calls: list[Call] = []
    for call, twin in matched:
        if twin is None:
            assert call is not None
            calls.append(replace(call, only="eval"))
            continue
        if call is None:
            for fresh in refs(twin.result):
                number[fresh] = len(values)
                values.append(trained.values[fresh])
            calls.append(replace(call_of(twin, renumbered(number.__getitem__)), only="train"))
            continue
        change = _of_modes(batch, call.place)
        moved = renumbered(number.__getitem__)
        for mine, its in zip(refs(call.result), refs(twin.result), strict=True):
            number[its] = mine
            values[mine] = _of_both(values[mine], trained.values[its], batch)
        calls.append(
            replace(
                call,
                args=merged(change, call.args, moved(twin.args)),
                kwargs=merged(change, dict(call.kwargs), moved(dict(twin.kwargs))),
                attributes=merged(change, dict(call.attributes), dict(twin.attributes)),
                random=call.random or twin.random,
                updates=tuple(sorted({*call.updates, *twin.updates})),
            )
        )
    moved = renumbered(number.__getitem__)
    change = _of_modes(batch, "the outputs")
    trained = replace(
        trained,
        outputs=moved(trained.outputs),
        updates=tuple([Update(update.key, moved(update.value)) for update in trained.updates]),
    )
    return replace(
        evaluated,
        values=tuple(values),
        calls=tuple(calls),
        outputs=merged(change, evaluated.outputs, trained.outputs),
        updates=_both_updates(evaluated, trained, change),
    )


def same_sequence(one: Recording, other: Recording) -> bool:
    """Whether two runs make the same calls in the same places, whatever numbers they pass."""
    return [_signature(call) for call in one.calls] == [_signature(call) for call in other.calls]


def _signature(call: Call) -> tuple[Any, ...]:
    fixed = (call.operation, call.module, call.scope, call.source, call.in_place, call.gradient, call.autocast)
    return (*fixed, form(call.args), form(dict(call.kwargs)), form(call.result))


def _same_calls(one: Recording, other: Recording, batches: tuple[int, int]) -> None:
    firsts, seconds = [[_signature(call) for call in run.calls] for run in (one, other)]
    if firsts == seconds:
        return
    position = next((n for n, (a, b) in enumerate(zip(firsts, seconds, strict=False)) if a != b), None)
    if position is None:
        position = min(len(firsts), len(seconds))
    told = [
        f"{run.calls[position].place if position < len(run.calls) else 'the end'} with {batch} samples"
        for run, batch in zip((one, other), batches, strict=True)
    ]
    raise NasirError(
        f"record: the batch size changes which calls forward makes: call {position} is {' and '.join(told)}; let "
        "forward do the same for every batch size, or record the part of the module that does (call=...)"
    )


def _of_batch(one: Any, other: Any, batches: tuple[int, int], where: str) -> Tree:
    if same(one, other):
        return one
    if type(one) is int and type(other) is int:
        factor, rest = divmod(other - one, batches[1] - batches[0])
        if rest == 0:
            return Batch(factor, one - factor * batches[0])
    raise NasirError(
        f"record: {where}: {_told(one)} with {batches[0]} samples and {_told(other)} with {batches[1]}, which is no "
        "whole multiple of the batch size plus a constant; pass sizes as integers (divide tensors by them), and draw "
        "random numbers with torch"
    )


def _shape(
    one: tuple[int | Batch | None, ...], other: tuple[int | Batch | None, ...], batches: tuple[int, int]
) -> tuple[int | Batch | None, ...]:
    """The shape of a value for any batch size; None for axes whose length follows something else."""
    if len(one) != len(other):
        return (None,) * len(one)
    shape: list[int | Batch | None] = []
    for a, b in zip(one, other, strict=True):
        try:
            shape.append(a if a == b else _of_batch(a, b, batches, ""))
        except NasirError:
            shape.append(None)
    return tuple(shape)


def _of_modes(batch: int | None, where: str) -> Callable[[Any, Any], Tree]:
    def change(evaluated: Any, trained: Any) -> Tree:
        if parts_of(evaluated) is None and parts_of(trained) is None:
            seen = evaluated.at(batch) if isinstance(evaluated, Batch) and batch is not None else evaluated
            if same(seen, trained):
                return evaluated
            if type(seen) is int and type(trained) is int:
                raise NasirError(
                    f"record: {where}: {_told(evaluated)} for small batches in eval mode and {trained} for "
                    f"{batch or 'others'} samples in train mode, which is neither one number nor a multiple of the "
                    "batch size plus a constant; compute it from the batch size by + and * alone, alike in both modes"
                )
        return Switch(evaluated, trained)

    return change


def _of_both(one: Value, other: Value, batch: int | None) -> Value:
    """A value of both modes: axes that the train run contradicts follow the data."""
    if len(one.shape) != len(other.shape):
        return replace(one, shape=(None,) * len(one.shape))
    seen = [axis.at(batch) if isinstance(axis, Batch) and batch is not None else axis for axis in one.shape]
    pairs = zip(one.shape, seen, other.shape, strict=True)
    return replace(one, shape=tuple([axis if at == found else None for axis, at, found in pairs]))


def _matched(ones: tuple[Call, ...], others: tuple[Call, ...]) -> list[tuple[Call | None, Call | None]]:
    """The calls of both modes in an order that keeps both: pairs of the same call, and calls of one mode alone."""
    firsts, seconds = [_signature(call) for call in ones], [_signature(call) for call in others]
    if firsts == seconds:
        return list(zip(ones, others, strict=True))
    kinds = {signature: number for number, signature in enumerate(dict.fromkeys([*firsts, *seconds]))}
    matcher = SequenceMatcher(None, [kinds[s] for s in firsts], [kinds[s] for s in seconds], autojunk=False)
    pairs: list[tuple[Call | None, Call | None]] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(ones[a:b], others[c:d], strict=True)
        else:
            pairs += [(call, None) for call in ones[a:b]]
            pairs += [(None, call) for call in others[c:d]]
    return pairs


def _both_updates(one: Recording, other: Recording, change: Callable[[Any, Any], Tree]) -> tuple[Update, ...]:
    """New values of buffers of both runs; a run that leaves a buffer alone gives it itself."""
    old = {state.key: state.ref for state in one.state}
    firsts, seconds = [{update.key: update.value for update in run.updates} for run in (one, other)]
    keys = [*firsts, *[key for key in seconds if key not in firsts]]
    return tuple([Update(k, merged(change, firsts.get(k, old.get(k)), seconds.get(k, old.get(k)))) for k in keys])


def _told(leaf: Any) -> str:
    if isinstance(leaf, Batch):
        return f"{leaf.factor} * B + {leaf.offset}"
    return f"value {leaf.number}" if isinstance(leaf, Ref) else f"{leaf!r:.60}"
