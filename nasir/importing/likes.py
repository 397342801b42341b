"""Calls that take a value for its shape alone, such as `x.view_as(y)`, as calls with that shape."""

from __future__ import annotations

from dataclasses import replace

from nasir.importing.recording import Call, Recording, Ref
from nasir.importing.trees import refs

LIKE = {
    "torch.Tensor.view_as": "torch.Tensor.view",
    "torch.Tensor.reshape_as": "torch.Tensor.reshape",
    "torch.Tensor.expand_as": "torch.Tensor.expand",
}


def without_likes(recording: Recording) -> Recording:
    """The recording with the lengths of such values in their place, and without the calls that nothing reads then."""
    calls = [_with_lengths(call, recording) for call in recording.calls]
    if all(call is known for call, known in zip(calls, recording.calls, strict=True)):
        return recording
    needed = {*refs((recording.outputs, [update.value for update in recording.updates]))}
    live: list[Call] = []
    for call in reversed(calls):
        if call.random or call.updates or not needed.isdisjoint(refs(call.result)):
            live.append(call)
            needed.update(refs((call.args, dict(call.kwargs))))
    return replace(recording, calls=tuple(reversed(live)))


def _with_lengths(call: Call, recording: Recording) -> Call:
    operands = [*call.args, *call.kwargs.values()]
    if call.operation not in LIKE or len(operands) != 2 or not isinstance(operands[1], Ref):
        return call
    shape = recording.values[operands[1].number].shape
    if None in shape:
        return call
    return replace(call, operation=LIKE[call.operation], args=(operands[0], *shape), kwargs={})
