"""Constants: values of a recording that depend on nothing, computed once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nasir.backends.torch.host import on_host
from nasir.backends.torch.importing.replaying import carry_out
from nasir.importing.compact import compact
from nasir.importing.dependence import shape_only
from nasir.importing.recording import Batch, Call, Recording, Switch
from nasir.importing.trees import parts_of, refs


def folded(recording: Recording, home: torch.device) -> Recording:
    """The recording with numbers in the place of the calls whose results depend on nothing, not even the batch size.

    It has to be compact. What is computed from buffers is no constant: buffers may change.
    """
    known: dict[int, Tensor] = {}
    rest: list[Call] = []
    with torch.no_grad():
        for call in recording.calls:
            if _is_constant(call, recording, known):
                tensors = {**{n: known[n] for n in refs((call.args, dict(call.kwargs))) if n in known}}
                for number in shape_only(call) - known.keys():
                    tensors[number] = _like(recording, number, home)
                carry_out(call, tensors, home, 1, "eval", None)
                known.update({number: tensors[number] for number in refs(call.result)})
            else:
                rest.append(call)
    trees = [recording.outputs, [update.value for update in recording.updates]]
    read = refs([trees, [(call.args, dict(call.kwargs)) for call in rest]])
    constants = {number: on_host(known[number]).copy() for number in sorted({*read} & known.keys())}
    values = [
        replace(value, origin="constant", name="") if number in constants else value
        for number, value in enumerate(recording.values)
    ]
    return compact(replace(recording, values=tuple(values), calls=tuple(rest), constants=constants))


def _is_constant(call: Call, recording: Recording, known: dict[int, Tensor]) -> bool:
    if call.module is not None or call.random or call.updates or call.autocast:
        return False
    if _varies((call.args, dict(call.kwargs))):
        return False
    for number in refs(call.result):
        if recording.values[number].depends:
            return False
    form_of = shape_only(call)
    for number in refs((call.args, dict(call.kwargs))):
        shape = recording.values[number].shape
        if number in form_of and number not in known:
            if call.operation.endswith("_like") and any(not isinstance(axis, int) for axis in shape):
                return False
        elif number not in known:
            return False
    return True


def _varies(tree: object) -> bool:
    """Whether a tree has numbers that follow the batch size or the mode."""
    if isinstance(tree, Switch):
        return True
    parts = parts_of(tree)
    if parts is None:
        return isinstance(tree, Batch)
    return any(_varies(part) for _, part in parts)


def _like(recording: Recording, number: int, home: torch.device) -> Tensor:
    """A tensor of the form of a value, with axes of length 1 where that does not matter."""
    value = recording.values[number]
    shape = [axis if isinstance(axis, int) else 1 for axis in value.shape]
    return torch.empty(shape, dtype=getattr(torch, value.dtype), device=home)
