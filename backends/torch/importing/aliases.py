"""Which tensors share memory, so that a write into one of them is a new value of all that see it.

A tensor that is made from another one without a copy (a view) remembers the call that made it. After a write, the
tensors that it was made from get new values at once, by undoing those calls; other views of them are made anew when
they are read next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from nasir.importing.recording import Call, Ref, Structure, Tree


@dataclass(frozen=True, slots=True)
class Form:
    """What a tensor is but for its numbers: shape, strides and start in its memory, dtype as torch's name for it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """That of a tensor as it is now."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), dtype)

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


Emit = Callable[[str, tuple[Tree, ...], Form, bool], int]
"""(operation, args, form of the result, whether in place) -> number of the new value."""


@dataclass
class Memory:
    """A piece of memory, and how often it was written. Two tensors share it when they share this object."""

    writes: int = 0


@dataclass
class Tracked:
    """A tensor of the run, which may be gone: its value as of the write number `seen` of its memory.

    Views have their `parent`, the `call` that made them of its value `made_of`, and their `position` among its results;
    `same`: the call returned the parent itself. `first` is the value that the tensor came up with. `lost` says why the
    value is unknown after a write.
    """

    form: Form
    value: int
    memory: Memory
    seen: int
    first: int
    parent: Tracked | None = None
    made_of: int | None = None
    call: Call | None = None
    position: int = 0
    same: bool = False
    lost: str | None = None

    @property
    def current(self) -> bool:
        """Whether `value` is what the tensor holds."""
        return self.seen == self.memory.writes

    @property
    def chain(self) -> list[Tracked]:
        """The tensor, what it is a view of, and so on."""
        return [self, *(self.parent.chain if self.parent is not None else ())]


def written(tracked: Tracked, value: int, emit: Emit, place: str) -> None:
    """The tensor was written and holds `value` now; so the tensors that it is a view of hold new values as well.

    All of them must have been current before.
    """
    tracked.memory.writes += 1
    tracked.value, tracked.seen, tracked.lost = value, tracked.memory.writes, None
    child = tracked
    while child.parent is not None:
        parent = child.parent
        before = parent.value
        new = None if child.lost else _undone(child, parent, before, emit)
        if new is None:
            parent.lost = f"{place} wrote into it through a view of another form"
        else:
            parent.value, parent.lost = new, None
        parent.seen = parent.memory.writes
        child = parent


def _undone(child: Tracked, parent: Tracked, before: int, emit: Emit) -> int | None:
    """The parent's new value, from its value before and the child's new one; None where that is not known."""
    call = child.call
    assert call is not None
    if child.same:
        return child.value
    name = call.operation.removesuffix(".__get__").rpartition(".")[2]
    new = Ref(child.value)
    if name == "__getitem__" and not call.kwargs:
        return emit("torch.Tensor.__setitem__", (Ref(before), call.args[1], new), parent.form, True)
    if name in SAME_NUMBERS and child.form.size == parent.form.size:
        return emit("torch.Tensor.reshape", (new, parent.form.shape), parent.form, False)
    if name in SWAPS and not call.kwargs:
        axes = SWAPS[name] or tuple(call.args[1:])
        return emit("torch.Tensor.transpose", (new, *axes), parent.form, False)
    if name == "permute":
        return emit("torch.Tensor.permute", (new, _inverse(call.args[1:])), parent.form, False)
    part = _part(child.form, parent.form)
    if part is not None:
        return emit("torch.Tensor.__setitem__", (Ref(before), part, new), parent.form, True)
    return None


SAME_NUMBERS = frozenset(
    ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel", "contiguous")
)
"""Views with the numbers of their operand, in the same order."""
SWAPS: dict[str, tuple[int, int] | None] = {
    "transpose": None,
    "swapaxes": None,
    "swapdims": None,
    "t": (0, 1),
    "mT": (-2, -1),
}
"""Views with two axes in each other's place: these ones, or (None) those among the arguments."""


def _inverse(order: Sequence[Any]) -> tuple[int, ...]:
    axes = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
    positive = [axis % len(axes) for axis in axes]
    return tuple([positive.index(axis) for axis in range(len(positive))])


def _part(child: Form, parent: Form) -> Tree | None:
    """The index under which `child` lies in `parent` where it is a run of one axis (chunk, split, narrow)."""
    if len(child.shape) != len(parent.shape) or child.strides != parent.strides:
        return None
    axes = [axis for axis, (one, other) in enumerate(zip(child.shape, parent.shape, strict=True)) if one != other]
    if len(axes) != 1 or not parent.strides[axes[0]]:
        return None
    start, rest = divmod(child.start - parent.start, parent.strides[axes[0]])
    if rest:
        return None
    whole = Structure("slice", (("start", None), ("stop", None), ("step", None)))
    stop = start + child.shape[axes[0]]
    return (*[whole] * axes[0], Structure("slice", (("start", start), ("stop", stop), ("step", None))))
