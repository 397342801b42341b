"""Running a recording with the parameters and modules of a live module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.names import named
from nasir.backends.torch.importing.operands import decoded, encoded, tensors_in
from nasir.errors import NasirError, UsageError
from nasir.importing.recording import Batch, Call, Mode, Recording, Ref, Value
from nasir.importing.trees import form, leaves, refs, same


def replay(recording: Recording, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What `module(*args, **kwargs)` returns, computed by the recording, at any batch size.

    Parameters, buffers and leaf modules are those of `module`, which is in eval or train mode as a whole (leaf modules
    may differ); buffers change as they would in a call. Raises UsageError where inputs or module do not fit the
    recording.
    """
    inputs, batch, home = _bound(recording, args, kwargs)
    mode: Mode = "train" if module.training else "eval"
    _check_mode(recording, module)
    state = {entry.key: _state(module, entry.key) for entry in recording.state if entry.ref or entry.kind == "buffer"}
    tensors: dict[int, Tensor] = {
        **inputs,
        **{entry.ref.number: state[entry.key] for entry in recording.state if entry.ref is not None},
    }
    for number, array in recording.constants.items():
        dtype = getattr(torch, recording.values[number].dtype)
        tensors[number] = torch.tensor(array, dtype=dtype, device=home)
    last = _last_reads(recording)
    for position, call in enumerate(recording.calls):
        if call.only in (None, mode):
            carry_out(call, tensors, home, batch, mode, module)
        for number in last.get(position, ()):
            tensors.pop(number, None)
    outputs = decoded(recording.outputs, tensors.__getitem__, home, batch, mode)
    updates = [(u.key, decoded(u.value, tensors.__getitem__, home, batch, mode)) for u in recording.updates]
    for key, new in updates:
        _update(module, key, state.get(key), new)
    return outputs


def carry_out(
    call: Call, tensors: dict[int, Tensor], home: torch.device, batch: int, mode: Mode, module: nn.Module | None
) -> None:
    """Run one call on `tensors`, and put its results there. `module` is needed for calls of leaf modules."""
    args = decoded(call.args, tensors.__getitem__, home, batch, mode)
    kwargs = decoded(dict(call.kwargs), tensors.__getitem__, home, batch, mode)
    run: Callable[..., Any] = named(call.operation) if call.module is None else _leaf(module, call.module)
    if call.in_place:
        args = (args[0].clone(), *args[1:])
    cast = nullcontext() if call.autocast is None else torch.autocast(home.type, getattr(torch, call.autocast))
    with torch.set_grad_enabled(call.gradient and torch.is_grad_enabled()), cast:
        result = run(*args, **kwargs)
    made = [args[0]] if call.in_place else list(tensors_in(result))
    numbers = refs(call.result)
    if len(made) != len(numbers):
        raise NasirError(f"replay: {call.place} returned {len(made)} tensors, {len(numbers)} when it was recorded")
    tensors.update(zip(numbers, made, strict=True))


def _leaf(module: nn.Module | None, path: str) -> Callable[..., Any]:
    assert module is not None
    try:
        run: Callable[..., Any] = module.get_submodule(path).forward
    except AttributeError as error:
        raise UsageError(f"replay: the module has no {path!r}, which the recording calls; give one like it") from error
    return run


def _state(module: nn.Module, key: str) -> Tensor:
    path, _, name = key.rpartition(".")
    try:
        tensor = getattr(module.get_submodule(path), name)
    except AttributeError:
        tensor = None
    if not isinstance(tensor, Tensor):
        raise UsageError(f"replay: the module has no {key!r}, which the recording reads; give one like it")
    return tensor


def _update(module: nn.Module, key: str, buffer: Tensor | None, new: Tensor | None) -> None:
    """Give a buffer its new value; another one takes its place where forward makes it so."""
    if new is None or new is buffer:
        return
    if buffer is not None and buffer.shape == new.shape and buffer.dtype == new.dtype:
        with torch.no_grad():
            buffer.copy_(new)
        return
    path, _, name = key.rpartition(".")
    setattr(module.get_submodule(path), name, new.detach().clone())


def _bound(
    recording: Recording, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[int, Tensor], int, torch.device]:
    """Inputs by their numbers, the batch size, the device; raises UsageError where they are not as recorded."""
    given = list(tensors_in((args, kwargs)))
    home = given[0].device if given else torch.device("cpu")
    tree = encoded((args, dict(kwargs)), lambda tensor: Ref(0), home, "the arguments")
    if form(tree) != form(recording.arguments):
        raise UsageError("replay: the arguments have another form than those that were recorded; pass the same ones")
    for (path, one), (_, other) in zip(leaves(tree), leaves(recording.arguments), strict=True):
        if not isinstance(one, Ref) and not same(one, other):
            raise UsageError(f"replay: argument {path} is {one!r:.40}, and {other!r:.40} was recorded; record it anew")
    pairs = list(zip(recording.inputs, given, strict=True))
    batch = next((tensor.shape[0] for entry, tensor in pairs if entry.batched), 1)
    inputs = {}
    for entry, tensor in pairs:
        if entry.ref is None:
            continue
        value = recording.values[entry.ref.number]
        expected = shape_at(value, batch)
        if tuple(tensor.shape) != expected or tensor.dtype != getattr(torch, value.dtype):
            raise UsageError(
                f"replay: input {entry.path} is {tuple(tensor.shape)} of {tensor.dtype}, and the recording is for "
                f"{expected} of torch.{value.dtype}; only the batch size may change"
            )
        inputs[entry.ref.number] = tensor
    return inputs, batch, home


def shape_at(value: Value, batch: int) -> tuple[int | None, ...]:
    """The shape of a value at a batch size."""
    return tuple([axis.at(batch) if isinstance(axis, Batch) else axis for axis in value.shape])


def _check_mode(recording: Recording, module: nn.Module) -> None:
    """The modules around functions are all in the mode of the root: a recording has one switch for all of them."""
    scopes = {scope.path for call in recording.calls for scope in call.scope if scope.path != call.module}
    for path in sorted(scopes):
        try:
            inner = module.get_submodule(path)
        except AttributeError:
            continue  # told where the recording calls it
        if inner.training != module.training:
            raise UsageError(
                f"replay: {path} is {'' if inner.training else 'not '}in train mode, unlike the module as a whole; "
                "call train() or eval() on the whole module"
            )


def _last_reads(recording: Recording) -> dict[int, list[int]]:
    """Values that nothing reads after the call at a position."""
    kept = set(refs((recording.outputs, [update.value for update in recording.updates])))
    seen: dict[int, list[int]] = {}
    for position in range(len(recording.calls) - 1, -1, -1):
        call = recording.calls[position]
        fresh = set(refs((call.args, dict(call.kwargs), call.result))) - kept
        seen[position] = sorted(fresh)
        kept |= fresh
    return seen
