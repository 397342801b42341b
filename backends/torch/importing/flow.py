"""The data flow of one run as it grows: values of live tensors, and the calls that made them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.aliases import Form, Memory, Tracked, written
from nasir.backends.torch.importing.lengths import Lengths
from nasir.backends.torch.importing.operands import encoded, tensors_in, with_tensors
from nasir.backends.torch.importing.pure import functional
from nasir.backends.torch.importing.refusals import impossible_write, unknown_after_write, unknown_operand
from nasir.errors import NasirError
from nasir.importing.compact import call_of, renumbered
from nasir.importing.dependence import held_by, sources_of
from nasir.importing.recording import Call, Origin, Ref, Source, State, Tree, Update, Value
from nasir.importing.trees import refs, same_trees

Kind = Literal["parameter", "buffer"]


class Flow:
    """Values, calls and state of a run so far.

    Tensors are held weakly: what forward lets go of is gone from here, so that a run takes no more memory than forward
    does, and a new tensor that gets the identity or the memory of an old one is not taken for it.
    """

    def __init__(self, home: torch.device) -> None:
        self.home = home
        self.values: list[Value] = []
        self.depends: list[frozenset[Source]] = []
        self.calls: list[Call] = []
        self.makers: dict[int, Call] = {}  # by the numbers of their results
        self.lengths = Lengths()
        self.state: list[State] = []
        self.state_of: dict[int, State] = {}
        self._tracked: dict[int, Tracked] = {}  # by the identity of the tensor, while it lives
        self._alive: dict[int, weakref.ref[Tensor]] = {}
        # by the identity of torch's storage, while a tensor in it lives, or one that is a view of it
        self._memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()

    def take_state(self, module: nn.Module) -> None:
        """Number the parameters and buffers; a tensor under several keys counts under the first."""
        in_file = set(module.state_dict(keep_vars=True))
        self._take("parameter", dict(module.named_parameters(remove_duplicate=False)), in_file)
        self._take("buffer", dict(module.named_buffers(remove_duplicate=False)), in_file)
        self._held = held_by(self.state)
        self.state_of = {entry.ref.number: entry for entry in self.state if entry.ref is not None}

    def _take(self, kind: Kind, tensors: dict[str, Tensor], in_file: set[str]) -> None:
        for key, tensor in tensors.items():
            if id(tensor) in self._tracked:
                number = self._tracked[id(tensor)].first
                place = next(n for n, entry in enumerate(self.state) if entry.ref == Ref(number))
                self.state[place] = replace(self.state[place], aliases=(*self.state[place].aliases, key))
                continue
            ref = Ref(self.add(tensor, kind, key, frozenset((kind,))))
            form, trainable = Form.of(tensor), tensor.requires_grad
            state = State(key, kind, form.shape, form.dtype, ref, trainable=trainable, persistent=key in in_file)
            self.state.append(state)

    def add(
        self,
        tensor: Tensor,
        origin: Origin,
        name: str,
        depends: frozenset[Source],
        operands: Sequence[Tensor] = (),
        same: bool = False,
    ) -> int:
        """A value for a tensor that has just come up: a view where it shares the memory of an operand."""
        if tensor.layout is not torch.strided:
            raise NasirError(f"record: {name} has the layout {tensor.layout}; only strided tensors can be recorded")
        form, key = Form.of(tensor), id(tensor)
        number = self._number(form, origin, name, depends)
        memory = Memory()
        memory = self._memories.setdefault(tensor.untyped_storage()._cdata, memory)
        known = [self._tracked[id(operand)] for operand in operands if id(operand) in self._tracked]
        parent = next((other for other in known if other.memory is memory), None)
        made_of = None if parent is None else parent.value
        self._tracked[key] = Tracked(form, number, memory, memory.writes, number, parent, made_of, same=same)
        tracked, alive = self._tracked, self._alive

        def gone(_: weakref.ref[Tensor]) -> None:
            tracked.pop(key, None)
            alive.pop(key, None)

        alive[key] = weakref.ref(tensor, gone)
        return number

    def ref(self, tensor: Tensor, where: str) -> Ref:
        """What an operand holds now; raises NasirError for one that no recorded call has made."""
        tracked = self._tracked.get(id(tensor))
        if tracked is None:
            described = f"({', '.join(map(str, tensor.shape))}) of {tensor.dtype}"
            raise unknown_operand(described, where)
        return Ref(self._value(tracked, where))

    def made(self, call: Call, result: Any, operands: Sequence[Tensor]) -> Any:
        """Record a call that writes into nothing. Returns its result; what it passes on of its operands is a view."""
        fresh: list[tuple[Tensor, bool]] = []

        def told_apart(tensor: Tensor) -> Tensor:
            old = id(tensor) in self._tracked or any(tensor is other for other, _ in fresh)
            fresh.append((tensor.view_as(tensor) if old else tensor, old))
            return fresh[-1][0]

        result = with_tensors(result, told_apart)
        depends = sources_of(call, self.depends, self._held)
        numbers = iter([self.add(tensor, "call", call.operation, depends, operands, old) for tensor, old in fresh])
        tree = encoded(result, lambda _: Ref(next(numbers)), self.home, f"the result of {call.place}")
        call = replace(call, result=tree)
        if depends:
            self.lengths.note(call, self.values, list(zip(refs(tree), [tensor for tensor, _ in fresh], strict=True)))
        for position, (tensor, _) in enumerate(fresh):
            tracked = self._tracked[id(tensor)]
            tracked.call, tracked.position = call, position
        self._append(call)
        return result

    def wrote(self, call: Call, target: Tensor, result: Any, changed: Sequence[Tensor], reshaped: bool) -> None:
        """Record a call that wrote into its first operand `target`, and `changed` the tensors that see that."""
        tracked = self._tracked[id(target)]
        self._refuse_write(call, target, changed)
        if reshaped and any(other.memory is tracked.memory for other in self._tracked.values() if other is not tracked):
            raise impossible_write("the form of a tensor that others share", call.place, "make a new tensor instead")
        if any(tensor is not target for tensor in tensors_in(result)):
            raise impossible_write("a tensor and returns another one", call.place, "do one at a time")
        if self._is_own_part(call, tracked):
            return
        for other in tracked.chain:  # all that it is a view of, as they were before
            self._value(other, call.place)
        call = functional(call, target, [self.values[n].dtype for n in refs((call.args, dict(call.kwargs)))])
        number = self._number(Form.of(target), "call", call.operation, sources_of(call, self.depends, self._held))
        call = replace(call, result=Ref(number), over=True)
        self._append(call)
        tracked.form = Form.of(target)
        written(tracked, number, lambda *emitted: self._emitted(call, *emitted), call.place)

    def follows_data(self, tensor: Tensor) -> bool:
        """Whether the length of an axis follows the numbers of a tensor."""
        tracked = self._tracked.get(id(tensor))
        return tracked is not None and tracked.value in self.lengths

    def is_buffer(self, tensor: Tensor) -> State | None:
        """The buffer that a tensor is, unless forward has given it a new value by itself."""
        tracked = self._tracked.get(id(tensor))
        state = None if tracked is None else self.state_of.get(tracked.first)
        if tracked is None or state is None or state.kind != "buffer":
            return None
        return state if tracked.current and tracked.value == tracked.first else None

    def updates(self, module: nn.Module) -> tuple[Update, ...]:
        """Buffers of the module that hold another value than at the start, and new ones, by key.

        Raises NasirError where forward has put another parameter in the place of one.
        """
        first = {key: entry for entry in self.state for key in (entry.key, *entry.aliases)}
        for key, parameter in module.named_parameters():
            tracked = self._tracked.get(id(parameter))
            if tracked is None or first.get(key) != self.state_of.get(tracked.first):
                raise NasirError(f"record: forward assigns the parameter {key}; compute a new tensor from it instead")
        found = []
        for key, buffer in module.named_buffers():
            now = self.ref(buffer, f"the buffer {key}, as forward leaves it")
            if key not in first or (key == first[key].key and now != first[key].ref):
                found.append(Update(key, now))
        return tuple(found)

    def _refuse_write(self, call: Call, target: Tensor, changed: Sequence[Tensor]) -> None:
        tracked = self._tracked[id(target)]
        state = self.state_of.get(tracked.chain[-1].first)
        if state is not None and state.kind == "parameter":
            raise impossible_write(f"the parameter {state.key}", call.place, "compute a new tensor from it instead")
        if any(self._tracked[id(tensor)].memory is not tracked.memory for tensor in changed):
            raise impossible_write("several tensors", call.place, "write into one at a time")
        if target.requires_grad and not call.gradient:
            what = "a tensor that gradients flow through, without gradient"
            raise impossible_write(what, call.place, "make a new tensor instead")

    def _is_own_part(self, call: Call, tracked: Tracked) -> bool:
        """Whether `x[i] = y` puts back what `x[i]` already is: the second half of `x[i] += 1`."""
        if call.operation != "torch.Tensor.__setitem__" or not isinstance(call.args[2], Ref):
            return False
        number, index = call.args[2].number, call.args[1]
        for part in self._tracked.values():
            if part.parent is tracked and part.current and part.value == number and part.call is not None:
                got = part.call.operation == "torch.Tensor.__getitem__"
                return got and same_trees(part.call.args[1], index)
        return False

    def _value(self, tracked: Tracked, where: str) -> int:
        """What a tensor holds now; views of what was written are made anew."""
        if tracked.current and tracked.lost is None:
            return tracked.value
        if tracked.lost is not None or tracked.parent is None or tracked.call is None:
            why = tracked.lost or "it was written through another one"
            raise unknown_after_write(where, why)
        now = self._value(tracked.parent, where)
        change = {number: self._again(number) for number in refs(tracked.call.result)}
        if tracked.made_of is not None:
            change[tracked.made_of] = now
        call = call_of(tracked.call, renumbered(lambda number: change.get(number, number)))
        self._append(call)
        tracked.call, tracked.made_of, tracked.seen = call, now, tracked.memory.writes
        tracked.value = refs(call.result)[tracked.position]
        return tracked.value

    def _emitted(self, cause: Call, operation: str, args: tuple[Tree, ...], form: Form, in_place: bool) -> int:
        """Record a call that follows from a write of `cause`."""
        plain = replace(cause, operation=operation, module=None, args=args, kwargs={}, attributes={})
        call = replace(plain, in_place=in_place, over=False, random=False, updates=())
        number = self._number(form, "call", operation, sources_of(call, self.depends, self._held))
        self._append(replace(call, result=Ref(number)))
        return number

    def _append(self, call: Call) -> None:
        self.calls.append(call)
        self.makers.update(dict.fromkeys(refs(call.result), call))

    def _number(self, form: Form, origin: Origin, name: str, depends: frozenset[Source]) -> int:
        self.values.append(Value(origin, name, form.shape, form.dtype))
        self.depends.append(depends)
        return len(self.values) - 1

    def _again(self, number: int) -> int:
        self.values.append(self.values[number])
        self.depends.append(self.depends[number])
        return len(self.values) - 1
