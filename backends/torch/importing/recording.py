"""`record`: what any `nn.Module` does, as a pure data flow for any batch size, in eval and train mode."""

from __future__ import annotations

import inspect
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nasir.backends.torch.importing.copies import (
    fresh_copy,
    is_batched,
    of_batch,
    plain_attributes,
    samples_of,
    warn_about_hooks,
)
from nasir.backends.torch.importing.fold import folded
from nasir.backends.torch.importing.lending import part
from nasir.backends.torch.importing.names import class_name
from nasir.backends.torch.importing.operands import encoded, tensors_in, with_tensors
from nasir.backends.torch.importing.recorder import Recorder
from nasir.backends.torch.importing.refusals import refuse_lengths
from nasir.errors import NasirError, NasirWarning, UsageError
from nasir.importing.compact import compact
from nasir.importing.merge import merge_batches, merge_modes, same_sequence
from nasir.importing.recording import Recording, Ref
from nasir.importing.trees import leaves as leaves_of
from nasir.ir.infer import collector_paused

EVAL_BATCHES = (2, 3)
TRAIN_BATCH = 4  # another one: it checks what the first two say of the batch size
WRAPPERS = {
    **dict.fromkeys(("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"), "module"),
    "OptimizedModule": "_orig_mod",  # what torch.compile gives
}
"""Classes that hold a module and call it in another way, with the attribute where it is."""
PATCHING = threading.RLock()

Caller = Callable[..., Any]


def record(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    call: Caller | None = None,
    leaves: Collection[type[nn.Module]] = (),
) -> Recording:
    """What `module(*args, **kwargs)` does, from a few runs on copies; the module and the generators stay as they are.

    Axis 0 of the first tensor of the arguments is the batch, as it is of all tensors with as many rows; give an
    example of two or more samples if others have no batch axis. All other lengths are as in the example. `call(copy,
    *args, **kwargs)` runs it where that is not a plain call. Modules of the classes `leaves` are recorded as one call,
    as those of torch.nn are.

    Raises NasirError for what is no data flow: decisions made in Python on numbers of a tensor, tensors of unknown
    origin, writes that others see, another sequence of calls for another batch size. Warns (NasirWarning) of forward
    hooks, which are left out, of activation checkpoints and autocast within forward, and of plain attributes that
    forward changes.
    """
    _check(module, args)
    if any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
        raise UsageError(
            "record: the module is on the meta device, without numbers; give it some (to_empty, load), or take its "
            "structure alone (graph_of)"
        )
    run = _Run(module, args, dict(kwargs or {}), call, leaves)
    warn_about_hooks(module)
    recording = run.recorded()
    run.warn(recording)
    return recording


def record_structure(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    call: Caller | None = None,
    leaves: Collection[type[nn.Module]] = (),
) -> Recording:
    """What `record` gives, from runs on the meta device, which compute nothing and take no memory.

    Its numbers are of no use: which calls draw random numbers or change buffers is unknown. Raises NasirError also for
    modules that do not run there, such as those with tensors that are neither parameters nor buffers.
    """
    _check(module, args)
    return _Run(module, args, dict(kwargs or {}), call, leaves, meta=True).recorded()


def _check(module: nn.Module, args: tuple[Any, ...]) -> None:
    if not isinstance(args, tuple) or not isinstance(module, nn.Module):
        raise UsageError("record: call it as record(module, (x, ...), {...}): a module, and its arguments in a tuple")
    inside = WRAPPERS.get(type(module).__name__)
    if inside is not None:
        raise UsageError(
            f"record: the module is wrapped in {type(module).__name__}; give what is in it, its `.{inside}`"
        )
    if any(is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
        raise UsageError("record: a lazy module has no parameters yet; call the module once, and record it then")


class _Run:
    """Runs of one module on one example."""

    def __init__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Caller | None,
        leaves: Collection[type[nn.Module]],
        meta: bool = False,
    ) -> None:
        self.module, self.args, self.kwargs, self.leaves = module, args, kwargs, tuple(leaves)
        self.call = call or (lambda copy, *given, **named: copy(*given, **named))
        self.meta = meta
        tensors = list(tensors_in((args, kwargs)))
        self.home = next((tensor.device for tensor in [*tensors, *module.parameters()]), torch.device("cpu"))
        if meta:
            self.home = torch.device("meta")
        self.samples = samples_of(tensors)
        self.inputs = tuple(
            [
                (path, is_batched(tensor, self.samples))
                for path, tensor in zip(_paths(args, kwargs, self.home), tensors, strict=True)
            ]
        )
        self.checkpointed = False
        self.counted: list[str] = []  # plain attributes that forward changes
        self.measured: list[set[str]] = []  # by run: places where Python takes lengths that follow numbers

    def recorded(self) -> Recording:
        """The recording for any batch size, in both modes."""
        try:
            return self._merged()
        finally:
            part(self.module.parameters())  # from the copies, which are gone

    def _merged(self) -> Recording:
        with _generators_kept(self.home), collector_paused():
            first, second = [self.once(batch, training=False) for batch in EVAL_BATCHES]
            refuse_lengths(self.measured[0] & self.measured[1])
            evaluated = merge_batches(first, second, EVAL_BATCHES)
            trained, batch = self.once(TRAIN_BATCH, training=True), TRAIN_BATCH
            if same_sequence(evaluated, trained):
                merged = merge_modes(evaluated, trained, batch)
            else:  # calls of train mode alone: what they make of the batch size takes two runs as well
                batches = (EVAL_BATCHES[0], TRAIN_BATCH)
                fewer = self.once(batches[0], training=True)
                refuse_lengths(self.measured[2] & self.measured[3])
                merged = merge_modes(evaluated, merge_batches(fewer, trained, batches), None)
            # what depends on nothing has numbers on the meta device, too: they are computed anew
            return folded(compact(merged), torch.device("cpu") if self.meta else self.home)

    def once(self, batch: int, training: bool) -> Recording:
        """Record one run on a fresh copy."""
        copy = fresh_copy(self.module, training, self.meta, borrowing=not self.meta)
        borrowed = list(copy.parameters())
        try:
            return self._recorded(copy, batch, training)
        except BaseException:
            part(borrowed)  # whoever keeps the error keeps the copy
            raise

    def _recorded(self, copy: nn.Module, batch: int, training: bool) -> Recording:
        recorder = Recorder(copy, self.leaves, self.home)
        before = _python_generators()
        told = f"with {batch} samples in {'train' if training else 'eval'} mode"
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            # nothing is differentiated: what gradients would need is not kept
            torch.autograd.graph.saved_tensors_hooks(_dropped, _missing),
            torch.compiler.set_stance("force_eager"),
        ):
            args, kwargs = with_tensors((self.args, self.kwargs), self._given(batch))
            attributes = plain_attributes(copy)
            recorder.take((args, kwargs), self.inputs)
            try:
                with _seen(recorder), recorder:
                    outputs = self.call(copy, *args, **kwargs)
                recorder.check()
            except NasirError:
                raise
            except Exception as error:
                recorder.check()
                raise NasirError(
                    f"record: {class_name(type(self.module))} failed {told}: {type(error).__name__}: {error}; it has "
                    "to run with any number of samples, in both modes"
                ) from error
            recording = recorder.finished(outputs)
            recorder.release()
        if _python_generators() != before:
            raise NasirError(
                f"record: {class_name(type(self.module))} draws random numbers from Python or numpy {told}: the "
                "recording would hold those of this one run; draw them with torch"
            )
        self.checkpointed |= recorder.checkpointed
        now = plain_attributes(copy)
        self.counted += [name for name in attributes if now.get(name) != attributes[name]]
        self.measured.append(recorder.measured)
        return recording

    def _given(self, batch: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: of_batch(tensor.to("meta") if self.meta else tensor, self.samples, batch)

    def warn(self, recording: Recording) -> None:
        """NasirWarning of what a recording does not carry over."""
        if self.checkpointed:
            warnings.warn(
                "record: activation checkpoints within forward are no part of the recording, which keeps what the "
                "module computes but not the memory that it saves",
                NasirWarning,
                stacklevel=3,
            )
        if self.counted:
            warnings.warn(
                f"record: forward changes the attribute {self.counted[0]}; the recording is of a first call, whatever "
                "the attribute is later: keep such state in a buffer, and let tensor operations depend on it",
                NasirWarning,
                stacklevel=3,
            )
        cast = next((call for call in recording.calls if call.autocast), None)
        if cast is not None:
            warnings.warn(
                f"record: {cast.place} runs under autocast ({cast.autocast}), which the recording repeats on devices "
                f"of this kind ({self.home.type}) only as it was here",
                NasirWarning,
                stacklevel=3,
            )


def _dropped(_: Tensor) -> None:
    pass


def _missing(_: None) -> Tensor:
    raise NasirError("record: forward computes gradients; let it compute outputs only")


def _paths(args: tuple[Any, ...], kwargs: dict[str, Any], home: torch.device) -> list[str]:
    """Names of the tensors of the arguments: positions and keywords, joined by dots."""
    trees = [encoded(given, lambda _: Ref(0), home, "the arguments") for given in (args, kwargs)]
    return [path for tree in trees for path, leaf in leaves_of(tree) if isinstance(leaf, Ref)]


@contextmanager
def _seen(recorder: Recorder) -> Iterator[None]:
    """Let the recorder see what does not go through torch's functions: autograd functions, and arrays of numpy."""
    with PATCHING, _patched(recorder):
        yield


@contextmanager
def _patched(recorder: Recorder) -> Iterator[None]:
    apply, from_numpy = inspect.getattr_static(torch.autograd.Function, "apply"), torch.from_numpy
    frame: Any = getattr(torch.utils.checkpoint, "_CheckpointFrame", None)  # torch's own: only to tell of it
    start: Caller = getattr(frame, "__init__", lambda: None)
    thread = threading.get_ident()

    def seen_apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        def run(*given: Any) -> Any:
            return apply.__get__(None, kind)(*given, **kwargs)

        if threading.get_ident() != thread or recorder.paused:
            return run(*args)
        return recorder.apply(kind, run, args)

    def seen_from_numpy(array: Any) -> Tensor:
        return torch.as_tensor(array) if threading.get_ident() == thread else from_numpy(array)

    def seen_frame(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.checkpointed |= threading.get_ident() == thread
        start(self, *args, **kwargs)

    places: list[tuple[Any, str, Any, Any]] = [
        (torch.autograd.Function, "apply", classmethod(seen_apply), apply),
        (torch, "from_numpy", seen_from_numpy, from_numpy),
    ]
    if frame is not None:
        places.append((frame, "__init__", seen_frame, start))
    for place, name, seen, _ in places:
        setattr(place, name, seen)
    try:
        yield
    finally:
        for place, name, _, before in places:
            setattr(place, name, before)


@contextmanager
def _generators_kept(home: torch.device) -> Iterator[None]:
    """Random generators of torch, Python and numpy are afterwards as they were before."""
    python, arrays = random.getstate(), np.random.get_state()
    devices = [] if home.type in ("cpu", "meta") else [home]
    try:
        with torch.random.fork_rng(devices, device_type=home.type if devices else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _python_generators() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state()))
