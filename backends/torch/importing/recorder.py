"""The recorder of one run: every call of torch and of leaf modules, as pure data flow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nasir.backends.torch.importing.aliases import Memory, Tracked, written
from nasir.backends.torch.importing.leaves import attributes_of, is_leaf
from nasir.backends.torch.importing.names import class_name, name_of, named
from nasir.backends.torch.importing.operands import encoded, tensors_in, with_tensors
from nasir.backends.torch.importing.pure import functional, says_in_place
from nasir.backends.torch.importing.refusals import (
    DESCRIBING,
    WITHOUT_EFFECT,
    impossible_write,
    never_true,
    refuse_function,
    refuse_reading,
    unknown_operand,
)
from nasir.errors import NasirError
from nasir.importing.compact import call_of, renumbered
from nasir.importing.dependence import held_by, sources_of
from nasir.importing.recording import Call, Input, Recording, Ref, Scope, Source, State, Tree, Update, Value
from nasir.importing.trees import refs, same_trees

NOT_THE_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")


class Recorder(TorchFunctionMode):
    """Records what a module does within `with recorder:`; the module is a copy that nothing else uses.

    Forward methods of its modules are wrapped, so that every call knows which modules are running.
    """

    def __init__(self, module: nn.Module, leaves: Collection[type[nn.Module]], home: torch.device) -> None:
        super().__init__()
        self.module = module
        self.leaves = leaves
        self.home = home
        self.values: list[Value] = []
        self.depends: list[frozenset[Source]] = []
        self.calls: list[Call] = []
        self.makers: dict[int, Call] = {}
        self.tracked: dict[int, Tracked] = {}
        self.memories: dict[int, Memory] = {}
        self.state: list[State] = []
        self.tensors: dict[str, Tensor] = {}
        self.scopes: list[Scope] = []
        self.visits: dict[int, int] = {}
        self.paused = False
        self.checkpointed = False

    def take(self, arguments: Any, samples: tuple[tuple[str, bool], ...]) -> Tree:
        """Number the tensors of the arguments, whose paths and whether they are batched `samples` gives, then state."""
        paths = iter(samples)
        inputs = []

        def add(tensor: Tensor) -> Ref:
            path, batched = next(paths)
            inputs.append(Input(path, Ref(len(self.values)), batched))
            return Ref(self._add(tensor, "input", path, frozenset(("input",))))

        tree = encoded(arguments, add, self.home, "the arguments")
        self.inputs = tuple(inputs)
        self._take_state()
        self._wrap()
        return tree

    def finished(self, arguments: Tree, outputs: Any) -> Recording:
        """The recording, once the module has returned."""
        with self._pause():
            tree = encoded(outputs, lambda tensor: self._ref(tensor, "the outputs"), self.home, "the outputs")
            updates = []
            for state in self.state:
                if state.ref is not None and state.kind == "buffer":
                    now = self._ref(self.tensors[state.key], state.key)
                    if now != state.ref:
                        updates.append(Update(state.key, now))
        return Recording(
            arguments,
            self.inputs,
            tuple(self.state),
            tuple(self.values),
            tuple(self.calls),
            tree,
            tuple(updates),
            {},
        )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        last = getattr(func, "__name__", "")
        if self.paused or last in DESCRIBING or last in WITHOUT_EFFECT:
            return func(*args, **kwargs)
        if last == "__get__":
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
        self.paused = True  # the mode is off in here, but not for modules that a function calls
        try:
            return self._function(func, args, kwargs)
        finally:
            self.paused = False

    def apply(self, function: type[torch.autograd.Function], run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """A call of an autograd function, as one call; activation checkpoints run what they are given."""
        if function.__module__ == "torch.utils.checkpoint":
            self.checkpointed = True
            return args[0](*args[2:])
        name = f"{name_of(function)}.apply"
        with self._pause():
            return self._recorded(name, run, args, {})

    @contextmanager
    def _pause(self) -> Iterator[None]:
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def _take_state(self) -> None:
        state_dict = set(self.module.state_dict(keep_vars=True))
        groups = (
            ("parameter", self.module.named_parameters(remove_duplicate=False)),
            ("buffer", self.module.named_buffers(remove_duplicate=False)),
        )
        number: dict[int, int] = {}
        for kind, found in groups:
            for key, tensor in found:
                if id(tensor) in number:
                    first = self.state[number[id(tensor)]]
                    self.state[number[id(tensor)]] = replace(first, aliases=(*first.aliases, key))
                    continue
                number[id(tensor)] = len(self.state)
                ref = Ref(self._add(tensor, kind, key, frozenset((kind,))))  # type: ignore[arg-type]
                self.tensors[key] = tensor
                self.state.append(
                    State(
                        key,
                        kind,  # type: ignore[arg-type]
                        tuple(tensor.shape),
                        str(tensor.dtype).removeprefix("torch."),
                        ref,
                        trainable=tensor.requires_grad,
                        persistent=key in state_dict,
                    )
                )
        self.held = held_by(self.state)
        self.state_of = {entry.ref.number: entry for entry in self.state if entry.ref is not None}

    def _wrap(self) -> None:
        """Give every module a `forward` of its own that keeps the stack of scopes, or records it as a leaf."""
        self.scopes.append(Scope("", class_name(type(self.module))))
        for path, inner in self.module.named_modules():
            if isinstance(inner, torch.jit.ScriptModule):
                raise NasirError(
                    f"record: {path or 'the module'} is TorchScript, whose calls Python does not see; record the "
                    "module that it was compiled from"
                )
            leaf = is_leaf(inner, self.leaves)
            inner.__dict__["forward"] = self._forward(inner, path, inner.forward, leaf)

    def _forward(self, module: nn.Module, path: str, run: Callable[..., Any], leaf: bool) -> Callable[..., Any]:
        kind = class_name(type(module))

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.paused:
                return run(*args, **kwargs)
            visit = self.visits.get(id(module), 0)
            self.visits[id(module)] = visit + 1
            if path:
                self.scopes.append(Scope(path, kind, visit))
            try:
                if not leaf:
                    return run(*args, **kwargs)
                with self._pause():
                    return self._recorded(kind, run, args, kwargs, (module, path))
            finally:
                if path:
                    self.scopes.pop()

        forward.__wrapped__ = run  # type: ignore[attr-defined]
        return forward

    def _function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = name_of(func)
        refuse_function(name, self._where(name))
        if isinstance(kwargs.get("device"), str):
            kwargs["device"] = torch.device(kwargs["device"])
        return self._recorded(name, func, args, kwargs)

    def _recorded(
        self,
        name: str,
        run: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        leaf: tuple[nn.Module, str] | None = None,
    ) -> Any:
        """Run a function or a leaf, and record it unless it only describes tensors."""
        where = self._where(name)
        operands = list(tensors_in((args, kwargs)))
        buffers = self._buffers_of(leaf, operands, where)
        call = Call(
            operation=name,
            module=leaf[1] if leaf else None,
            args=encoded(tuple(args), lambda tensor: self._ref(tensor, where), self.home, where),
            kwargs=encoded(kwargs, lambda tensor: self._ref(tensor, where), self.home, where),
            result=None,
            scope=tuple(self.scopes),
            source=_source(),
            attributes=attributes_of(leaf[0]) if leaf else {},
            gradient=torch.is_grad_enabled(),
            autocast=self._autocast(),
        )
        versions = [tensor._version for tensor in operands]
        held = [(tensor._version, tensor.clone()) for tensor in buffers.values()]
        shapes = [tensor.shape for tensor in operands]
        drawn = _generators(self.home)
        result = run(*args, **kwargs)
        found = list(tensors_in(result))
        changed = [tensor for tensor, version in zip(operands, versions, strict=True) if tensor._version != version]
        if not found and not changed:
            self._refuse_reading(call, result)
            return result
        pairs = zip(buffers.items(), held, strict=True)
        # batch_norm writes running statistics without telling autograd
        updates = [k for (k, now), (version, old) in pairs if now._version != version or not torch.equal(now, old)]
        call = replace(call, random=not _same_generators(drawn, _generators(self.home)))
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is not None and (any(t is first for t in changed) or (result is first and says_in_place(call))):
            memory = self.tracked[id(first)].memory
            if [t for t in changed if self.tracked[id(t)].memory is not memory]:
                raise impossible_write("several tensors", call.place, "write into one at a time")
            return self._written(call, first, result, first.shape != shapes[0])
        if any(all(tensor is not buffer for buffer in buffers.values()) for tensor in changed):
            raise impossible_write("an operand beside its result", call.place, "let it make a new tensor instead")
        return self._made(replace(call, updates=tuple(sorted(updates))), result, operands)

    def _made(self, call: Call, result: Any, operands: list[Tensor]) -> Any:
        """Record a call that writes nothing; its results get values. What it returns of its operands is told apart."""
        fresh: list[tuple[Tensor, bool]] = []

        def told_apart(tensor: Tensor) -> Tensor:
            old = id(tensor) in self.tracked or any(tensor is other for other, _ in fresh)
            tensor = tensor.view_as(tensor) if old else tensor
            fresh.append((tensor, old))
            return tensor

        result = with_tensors(result, told_apart)
        name, sources = call.operation, sources_of(call, self.depends, self.held)
        numbers = iter([self._add(tensor, "call", name, sources, operands, same) for tensor, same in fresh])
        call = replace(
            call, result=encoded(result, lambda _: Ref(next(numbers)), self.home, f"the result of {call.place}")
        )
        for position, (tensor, _) in enumerate(fresh):
            tracked = self.tracked[id(tensor)]
            tracked.call, tracked.position = call, position
        self._append(call)
        return result

    def _written(self, call: Call, target: Tensor, result: Any, reshaped: bool) -> Any:
        """Record a call that wrote into its first operand, which has a new value from now on."""
        tracked = self.tracked[id(target)]
        self._refuse_write(call, tracked)
        if reshaped and self._shared(tracked):
            raise impossible_write("the form of a tensor that others share", call.place, "make a new tensor instead")
        if self._is_own_part(call, tracked):
            return result
        for other in tracked.chain:  # all that it is a view of, as they were before
            self._value(other, call.place)
        call = functional(call, target)
        sources = sources_of(call, self.depends, self.held)
        number = self._number(target, "call", call.operation, sources)
        call = replace(call, result=Ref(number))
        self._append(call)
        written(tracked, number, lambda *emitted: self._emitted(call, *emitted), call.place)
        for tensor in tensors_in(result):
            if tensor is not target:
                raise impossible_write("a tensor and returns another one", call.place, "do one at a time")
        return result

    def _is_own_part(self, call: Call, tracked: Tracked) -> bool:
        """Whether `x[i] = y` puts back what `x[i]` already is: the second half of `x[i] += 1`."""
        if call.operation != "torch.Tensor.__setitem__" or not isinstance(call.args[2], Ref):
            return False
        return any(
            part.parent is tracked and part.current and part.value == call.args[2].number and part.call is not None
            and part.call.operation == "torch.Tensor.__getitem__" and same_trees(part.call.args[1], call.args[1])
            for part in self.tracked.values()
        )  # fmt: skip

    def _refuse_write(self, call: Call, tracked: Tracked) -> None:
        state = self.state_of.get(tracked.chain[-1].first)
        if state is not None and state.kind == "parameter":
            raise impossible_write(f"the parameter {state.key}", call.place, "compute a new tensor from it instead")
        if tracked.tensor.requires_grad and not call.gradient:
            raise impossible_write(
                "a tensor that gradients flow through, without gradient", call.place, "make a new tensor instead"
            )

    def _shared(self, tracked: Tracked) -> bool:
        return any(other.memory is tracked.memory for other in self.tracked.values() if other is not tracked)

    def _refuse_reading(self, call: Call, result: Any) -> None:
        if result is None or isinstance(result, (torch.dtype, torch.device, torch.Size)):
            return
        numbers = refs((call.args, dict(call.kwargs)))
        if len(numbers) == 1 and numbers[0] in self.makers:
            maker = self.makers[numbers[0]]
            compared = refs(maker.args[:1])
            if never_true(maker, self.makers.get(compared[0]) if compared else None):
                return
        depends = frozenset().union(*[self.depends[number] for number in numbers])
        refuse_reading(call.operation, depends, call.place)

    def _emitted(self, cause: Call, operation: str, args: tuple[Tree, ...], like: Tensor, in_place: bool) -> int:
        """Record a call that follows from a write of `cause`."""
        call = replace(
            cause, operation=operation, module=None, args=args, kwargs={}, attributes={}, updates=(), random=False,
            in_place=in_place,
        )  # fmt: skip
        number = self._number(like, "call", operation, sources_of(call, self.depends, self.held))
        self._append(replace(call, result=Ref(number)))
        return number

    def _append(self, call: Call) -> None:
        self.calls.append(call)
        for number in refs(call.result):
            self.makers[number] = call

    def _add(
        self,
        tensor: Tensor,
        origin: Any,
        name: str,
        depends: frozenset[Source],
        operands: Collection[Tensor] = (),
        same: bool = False,
    ) -> int:
        """A tensor that has just come up gets a value; it is a view where it shares the memory of an operand."""
        number = self._number(tensor, origin, name, depends)
        if tensor.layout is not torch.strided:
            raise NasirError(f"record: {self._where(name)}: a tensor of layout {tensor.layout}; only strided ones are recorded")
        place = tensor.untyped_storage()._cdata
        memory = self.memories.setdefault(place, Memory())
        parents = [self.tracked[id(t)] for t in operands if id(t) in self.tracked]
        parent = next((other for other in parents if other.memory is memory), None)
        made_of = None if parent is None else parent.value
        self.tracked[id(tensor)] = Tracked(tensor, number, memory, memory.writes, number, parent, made_of, same=same)
        return number

    def _number(self, tensor: Tensor, origin: Any, name: str, depends: frozenset[Source]) -> int:
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.values.append(Value(origin, name, tuple(tensor.shape), dtype))
        self.depends.append(depends)
        return len(self.values) - 1

    def _ref(self, tensor: Tensor, where: str) -> Ref:
        """The number of an operand's value; raises NasirError for one that no recorded call has made."""
        tracked = self.tracked.get(id(tensor))
        if tracked is None:
            described = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise unknown_operand(described, where, tensor.grad_fn is not None)
        return Ref(self._value(tracked, where))

    def _value(self, tracked: Tracked, where: str) -> int:
        """What a tensor holds now; views of what was written are made anew."""
        if tracked.current and tracked.lost is None:
            return tracked.value
        if tracked.lost is not None or tracked.parent is None or tracked.call is None:
            raise impossible_write(
                "a tensor whose memory others share",
                where,
                f"{tracked.lost or 'it was written through another tensor'}; make a new tensor instead",
            )
        old = tracked.call
        now = self._value(tracked.parent, where)
        change = {tracked.made_of: now, **{n: self._again(n) for n in refs(old.result)}}
        call = call_of(old, renumbered(lambda n: change.get(n, n)))
        self._append(call)
        tracked.call, tracked.made_of, tracked.seen = call, now, tracked.memory.writes
        tracked.value = refs(call.result)[tracked.position]
        return tracked.value

    def _buffers_of(
        self, leaf: tuple[nn.Module, str] | None, operands: list[Tensor], where: str
    ) -> dict[str, Tensor]:
        """Buffers that a call may change beside its result, by key: those among its operands, and those of a leaf.

        Raises NasirError where forward has written a buffer of a leaf by itself.
        """
        buffers = {}
        for tensor in leaf[0].buffers() if leaf else ():
            tracked = self.tracked[id(tensor)]
            key = self.state_of[tracked.first].key
            if tracked.value != tracked.first or not tracked.current:
                raise impossible_write(f"the buffer {key} before", where, "let only one of both change it")
            buffers[key] = tensor
        for tensor in operands:
            known = self.tracked.get(id(tensor))
            state = self.state_of.get(known.value) if known is not None else None
            if known is not None and state is not None and state.kind == "buffer" and known.value == known.first:
                buffers[state.key] = tensor
        return buffers

    def _autocast(self) -> str | None:
        kind = self.home.type
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if torch.is_autocast_enabled(kind) else None

    def _where(self, name: str) -> str:
        scope = self.scopes[-1] if self.scopes else Scope("", "")
        return f"{name} in {scope.label or 'the root'} ({scope.kind}), {_source()}"

    def _again(self, number: int) -> int:
        self.values.append(self.values[number])
        self.depends.append(self.depends[number])
        return len(self.values) - 1


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


def _same_generators(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
