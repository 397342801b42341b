"""The recorder of one run: it sees every call of torch and of leaf modules, and knows which modules are running."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nasir.backends.torch.importing.flow import Flow
from nasir.backends.torch.importing.leaves import described, is_leaf, operation_of
from nasir.backends.torch.importing.names import class_name, name_of
from nasir.backends.torch.importing.operands import encoded, tensors_in
from nasir.backends.torch.importing.pure import says_in_place
from nasir.backends.torch.importing.refusals import (
    DESCRIBING,
    MEASURING,
    READING,
    WITHOUT_EFFECT,
    impossible_write,
    never_true,
    refuse_function,
    refuse_reading,
)
from nasir.errors import NasirError
from nasir.importing.recording import Call, Input, Recording, Ref, Scope
from nasir.importing.trees import refs

NOT_THE_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")


# not public: without them every look at a tensor within a leaf takes the way through the recorder, and is as right
_top: Callable[[], Any] = getattr(torch.overrides, "_get_current_function_mode", lambda: None)
_without_top: Callable[[], AbstractContextManager[Any]] = getattr(torch.overrides, "_pop_mode_temporarily", nullcontext)

STATISTICS = 2**16
"""As many numbers as running statistics have at most."""


class Recorder(TorchFunctionMode):
    """Records what a module does within `with recorder:`; the module is a copy that nothing else uses.

    Forward methods of its modules are wrapped, so that every call knows its place. `leaves`: classes of modules that
    are recorded as one call, beside those of torch.nn; `home`: the device of the inputs.
    """

    def __init__(self, module: nn.Module, leaves: Collection[type[nn.Module]], home: torch.device) -> None:
        super().__init__()
        self.paused = False
        self.checkpointed = False
        self.measured: set[str] = set()  # places where Python takes lengths that follow numbers
        self._module, self._leaves, self._home = module, leaves, home
        self._flow = Flow(home)
        self._scopes = [Scope("", class_name(type(module)))]
        self._visits: dict[int, int] = {}
        self._refusal: NasirError | None = None

    def take(self, arguments: Any, described: Collection[tuple[str, bool]]) -> None:
        """Number the tensors of the arguments, whose paths and whether they are batched is `described`, then state."""
        inputs = []
        paths = iter(described)

        def add(tensor: Tensor) -> Ref:
            path, batched = next(paths)
            ref = Ref(self._flow.add(tensor, "input", path, frozenset(("input",))))
            inputs.append(Input(path, ref, batched))
            return ref

        self._arguments = encoded(arguments, add, self._home, "the arguments")
        self._inputs = tuple(inputs)
        self._flow.take_state(self._module)
        self._wrap()

    def check(self) -> None:
        """Raises the first error of the run again: forward may have caught it and gone on in another way."""
        if self._refusal is not None:
            raise self._refusal

    def finished(self, outputs: Any) -> Recording:
        """The recording, once the module has returned `outputs`."""
        where = "the outputs"
        tree = encoded(outputs, lambda tensor: self._flow.ref(tensor, where), self._home, where)
        updates = self._flow.updates(self._module)
        flow = self._flow
        values, calls, state = tuple(flow.values), tuple(flow.calls), tuple(flow.state)
        return Recording(self._arguments, self._inputs, state, values, calls, tree, updates, {})

    def release(self) -> None:
        """Let go of the copy and of all tensors, so that its memory is free at once, before the next one is made."""
        for inner in self._module.modules():
            inner.__dict__.pop("forward", None)
        self._flow = Flow(self._home)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        last = getattr(func, "__name__", "")
        if last == "__get__":
            last = getattr(func.__self__, "__name__", "")
        if self.paused:
            return func(*args, **kwargs)
        if self._flow.lengths and last in MEASURING and self._flow.follows_data(args[0]):
            self.measured.add(self._where(last))
        if last in DESCRIBING or last in WITHOUT_EFFECT:
            return func(*args, **kwargs)
        if type(func).__name__ == "method-wrapper" and func.__name__ == "__get__":
            described = func(*args, **kwargs)
            if not isinstance(described, Tensor):
                return described  # shape, dtype, device and the like
        with self.off():  # this mode is off in here, but not the wrapped modules that a function calls
            name = name_of(func)
            refuse_function(name, lambda: self._where(name))
            if last in READING:
                self._refuse_reading(name, [self._flow.ref(t, self._where(name)) for t in tensors_in((args, kwargs))])
            if isinstance(kwargs.get("device"), str):
                kwargs["device"] = torch.device(kwargs["device"])
            return self._recorded(name, func, args, kwargs)

    def apply(self, function: type[torch.autograd.Function], run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """A call of an autograd function, as one call; activation checkpoints run what they are given."""
        if function.__module__ == "torch.utils.checkpoint":
            self.checkpointed = True
            if callable(args[0]):
                return args[0](*args[2:])
            with self.off():  # some releases only keep the inputs by one
                return run(*args)
        with self.off():
            return self._recorded(f"{name_of(function)}.apply", run, args, {})

    @contextmanager
    def off(self) -> Iterator[None]:
        """Nothing is recorded within."""
        before, self.paused = self.paused, True
        try:
            with _without_top() if _top() is self else nullcontext():
                yield
        except NasirError as error:
            self._refusal = self._refusal or error
            raise
        finally:
            self.paused = before

    def _wrap(self) -> None:
        """Give every module a `forward` of its own that keeps the stack of scopes, or records it as a leaf."""
        for path, inner in self._module.named_modules():
            if isinstance(inner, torch.jit.ScriptModule):
                raise NasirError(
                    f"record: {path or 'the module'} is TorchScript, whose calls Python does not see; record the "
                    "module that it was compiled from"
                )
            leaf = is_leaf(inner, self._leaves)
            inner.__dict__["forward"] = self._forward(inner, path, inner.forward, leaf)

    def _forward(self, module: nn.Module, path: str, run: Callable[..., Any], leaf: bool) -> Callable[..., Any]:
        kind, operation = class_name(type(module)), operation_of(module, self._leaves) if leaf else ""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.paused:
                return run(*args, **kwargs)
            visit = self._visits.get(id(module), 0)
            self._visits[id(module)] = visit + 1
            depth = len(self._scopes)
            if path:  # the root is there from the start
                self._scopes.append(Scope(path, kind, visit))
            try:
                if not leaf:
                    return run(*args, **kwargs)
                with self.off():
                    return self._recorded(operation, run, args, kwargs, (module, path))
            finally:
                del self._scopes[depth:]

        forward.__wrapped__ = run  # type: ignore[attr-defined]
        return forward

    def _recorded(
        self,
        name: str,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaf: tuple[nn.Module, str] | None = None,
    ) -> Any:
        """Run a function or a leaf (the module, its path), and record it unless it only describes tensors."""
        where = self._where(name)
        operands = list(tensors_in((args, kwargs)))
        buffers = self._buffers(leaf[0] if leaf else None, operands, where)
        call = Call(
            operation=name,
            module=leaf[1] if leaf else None,
            args=encoded(tuple(args), lambda tensor: self._flow.ref(tensor, where), self._home, where),
            kwargs=encoded(kwargs, lambda tensor: self._flow.ref(tensor, where), self._home, where),
            result=None,
            scope=tuple(self._scopes),
            source=_source(),
            attributes=described(leaf[0]) if leaf else {},
            gradient=torch.is_grad_enabled(),
            autocast=self._autocast(),
        )
        before = [(tensor._version, tensor.shape) for tensor in operands]
        # by their numbers, too: batch_norm writes running statistics without telling autograd
        held = [(tensor._version, tensor.clone()) for tensor in buffers.values()]
        small = [(tensor, tensor.clone()) for tensor in operands[1:] if _may_be_statistics(tensor, buffers)]
        drawn = _generators(self._home)
        result = run(*args, **kwargs)
        changed = [tensor for tensor, (version, _) in zip(operands, before, strict=True) if tensor._version != version]
        changed += [now for now, old in small if not _equal(now, old) and all(now is not t for t in changed)]
        if not changed and next(tensors_in(result), None) is None:
            if result is not None and not isinstance(result, (str, torch.dtype, torch.device, torch.Size)):
                self._refuse_reading(name, [Ref(number) for number in refs((call.args, dict(call.kwargs)))])
            return result
        pairs = zip(buffers.items(), held, strict=True)
        updates = [k for (k, now), (version, old) in pairs if now._version != version or not _equal(now, old)]
        random = not all(_equal(a, b) for a, b in zip(drawn, _generators(self._home), strict=True))
        call = replace(call, random=random, updates=tuple(sorted(updates)))
        target = args[0] if args and isinstance(args[0], Tensor) else None
        if target is not None and (any(t is target for t in changed) or (result is target and says_in_place(call))):
            self._flow.wrote(call, target, result, changed, reshaped=target.shape != before[0][1])
            return result
        if any(all(tensor is not buffer for buffer in buffers.values()) for tensor in changed):
            raise impossible_write("an operand beside its result", call.place, "let it make a new tensor instead")
        return self._flow.made(call, result, operands)

    def _buffers(self, leaf: nn.Module | None, operands: list[Tensor], where: str) -> dict[str, Tensor]:
        """Buffers that a call may change beside its result, by key: those among its operands, and those of a leaf.

        Raises NasirError where forward has written a buffer of the leaf by itself.
        """
        buffers = {}
        for tensor in operands:
            state = self._flow.is_buffer(tensor)
            if state is not None:
                buffers[state.key] = tensor
        for name, tensor in leaf.named_buffers() if leaf else ():
            state = self._flow.is_buffer(tensor)
            if state is None:
                raise impossible_write(f"the buffer {name} before this call", where, "let only one of both change it")
            buffers[state.key] = tensor
        return buffers

    def _refuse_reading(self, name: str, operands: list[Ref]) -> None:
        """Raises NasirError where a function gives Python numbers of tensors that depend on anything."""
        makers = [self._flow.makers.get(ref.number) for ref in operands]
        if len(makers) == 1 and makers[0] is not None:
            compared = refs(makers[0].args[:1])
            if never_true(makers[0], self._flow.makers.get(compared[0]) if compared else None):
                return
        depends = frozenset().union(*[self._flow.depends[ref.number] for ref in operands])
        refuse_reading(name, depends, self._where(name))

    def _autocast(self) -> str | None:
        kind = self._home.type
        if kind == "meta":  # which has no autocast
            return None
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else None

    def _where(self, name: str) -> str:
        scope = self._scopes[-1]
        return f"{name} in {scope.label or 'the root'} ({scope.kind}), {_source()}"


def _may_be_statistics(tensor: Tensor, buffers: Mapping[str, Tensor]) -> bool:
    """Whether an operand could be running statistics that are no buffer themselves: a copy, or a view of a buffer."""
    plain = tensor.is_floating_point() and not tensor.requires_grad and tensor.numel() <= STATISTICS
    return plain and all(tensor is not buffer for buffer in buffers.values())


def _source() -> str:
    """`file:line` of the innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(NOT_THE_USERS):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "torch"


def _generators(home: torch.device) -> list[Tensor]:
    """States of the generators that calls on a device draw from."""
    own = [] if home.type in ("cpu", "meta") else [torch.get_device_module(home).get_rng_state(home)]
    return [torch.get_rng_state(), *own]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one form hold the same numbers, NaN like NaN; those without numbers do."""
    return one.is_meta or torch.equal(one, other) or torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
