"""What a recording holds: inputs, state, values, calls and outputs of one module, for any batch size, in both modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from nasir.ir.types import Mode as Mode

Tree: TypeAlias = Any
"""Nested tuples, lists, dicts and Structures. Leaves: None, bool, int, float, complex, str, Ellipsis, numpy arrays, and
the classes Ref, Batch, Symbol, Device of this module. A Switch stands for one of two trees."""

Origin: TypeAlias = Literal["input", "parameter", "buffer", "constant", "call"]
Source: TypeAlias = Literal["input", "parameter", "buffer", "random"]


@dataclass(frozen=True, slots=True)
class Ref:
    """The tensor with this number: `recording.values[number]`."""

    number: int


@dataclass(frozen=True, slots=True)
class Batch:
    """An integer that depends on the batch size B: factor * B + offset, factor not 0."""

    factor: int
    offset: int = 0

    def at(self, batch: int) -> int:
        """Its value at a batch size."""
        return self.factor * batch + self.offset


@dataclass(frozen=True, slots=True)
class Switch:
    """`eval` in eval mode, `train` in train mode."""

    eval: Tree
    train: Tree

    def of(self, mode: Mode) -> Tree:
        """The tree of a mode."""
        return self.train if mode == "train" else self.eval


@dataclass(frozen=True, slots=True)
class Symbol:
    """A constant of torch by its name: `torch.float32`, `torch.channels_last`, `torch.strided`."""

    name: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device: that of the inputs (None), or one that the module names itself, as "cuda:1"."""

    name: str | None = None


SLICE = "slice"


@dataclass(frozen=True, slots=True)
class Structure:
    """An object with named parts: a slice (start, stop, step), a dataclass or a named tuple (`kind`: module.Class)."""

    kind: str
    parts: tuple[tuple[str, Tree], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """A module that was running: its path, its class as module.Class, and how many of its calls came before (0: first).

    A module that lies under several paths has the first of them.
    """

    path: str
    kind: str
    visit: int = 0

    @property
    def label(self) -> str:
        """The path; `path@1` in the second call of the module."""
        return f"{self.path}@{self.visit}" if self.visit else self.path


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that the module is called with: where it lies in the arguments, and whether its axis 0 is the batch.

    `path`: names and positions from the outside in, joined by dots ("0", "batch.image"). `ref` is None where nothing
    that the recording keeps reads it.
    """

    path: str
    ref: Ref | None
    batched: bool


@dataclass(frozen=True, slots=True)
class State:
    """A parameter or buffer under its key of the `state_dict`; `aliases`: further keys of the same tensor.

    `ref` is None where no call takes it as an operand (calls of leaf modules use theirs unseen). Buffers that are not
    `persistent` are in no `state_dict`.
    """

    key: str
    kind: Literal["parameter", "buffer"]
    shape: tuple[int, ...]
    dtype: str
    ref: Ref | None
    aliases: tuple[str, ...] = ()
    trainable: bool = True
    persistent: bool = True


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: where it comes from, its shape and dtype, and what its numbers (not only its shape) depend on.

    `name`: path of the input, key of the state, operation of the call, "" of constants. An axis is None where its
    length depends on the data. `dtype` is torch's name without `torch.`.
    """

    origin: Origin
    name: str
    shape: tuple[int | Batch | None, ...]
    dtype: str
    depends: frozenset[Source] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: a function of torch, or a leaf module with all that it does.

    - `operation`: the name of the function (`torch.nn.functional.relu`), or the class of the leaf (module.Class); of a
      class that is only made from one of torch.nn that one.
    - `module`: path of the leaf, None for functions; `attributes`: its plain attributes (kernel_size, eps, ...), and a
      Structure for each module that it holds.
    - `args`, `kwargs`: trees; `result`: a tree whose Refs are the tensors that the call makes.
    - `scope`: the modules that were running, outermost first, the leaf itself last.
    - `source`: `file:line` of the innermost line outside of torch.
    - `in_place`: the call writes into its first operand. It gets a copy of it, and that copy is its result.
    - `over`: the module wrote the result over the first operand, which matters to memory alone.
    - `gradient`: whether gradients flow; false within `torch.no_grad()`.
    - `random`: it draws from torch's generator, in one mode at least.
    - `updates`: keys of buffers that it reads and changes, such as running statistics in train mode.
    - `autocast`: dtype of the autocast around it, None without.
    - `only`: the mode in which it runs, None for both.
    """

    operation: str
    module: str | None
    args: tuple[Tree, ...]
    kwargs: Mapping[str, Tree]
    result: Tree
    scope: tuple[Scope, ...]
    source: str
    attributes: Mapping[str, Any]
    in_place: bool = False
    over: bool = False
    gradient: bool = True
    random: bool = False
    updates: tuple[str, ...] = ()
    autocast: str | None = None
    only: Mode | None = None

    @property
    def label(self) -> str:
        """Path of the innermost module, `path@1` in its second call."""
        return self.scope[-1].label if self.scope else ""

    @property
    def place(self) -> str:
        """For messages: operation, module, class, and the line of the source."""
        return f"{self.operation} in {self.within}"

    @property
    def within(self) -> str:
        """For messages: module, class, and the line of the source."""
        where = f"{self.scope[-1].label or 'the root'} ({self.scope[-1].kind})" if self.scope else "no module"
        return f"{where}, {self.source}"


@dataclass(frozen=True, slots=True)
class Update:
    """A buffer whose new value is made by calls: after all of them, `key` becomes `value`.

    The value is a Ref, or a Switch of two of them; None in a mode in which there is no such buffer. A buffer that
    forward makes in its first call is not in `state`, and one that it replaces may have another shape there.
    """

    key: str
    value: Tree


@dataclass(frozen=True)
class Recording:
    """A module as a pure data flow: no call changes a value that another one reads.

    `arguments`: (args, kwargs) that the module is called with, Refs in the place of tensors. `values[n]` describes
    Ref(n); `constants[n]` are the numbers of those values that depend on nothing. `calls` are in the order in which
    they ran: random ones have to stay in it. `outputs`: the tree that the module returns.
    """

    arguments: Tree
    inputs: tuple[Input, ...]
    state: tuple[State, ...]
    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    outputs: Tree
    updates: tuple[Update, ...]
    constants: Mapping[int, NDArray[Any]]

    @property
    def used_state(self) -> frozenset[str]:
        """Keys of the parameters and buffers that the recording uses, those of its leaf modules among them."""
        keys = {key: state.key for state in self.state for key in (state.key, *state.aliases)}
        leaves = tuple(f"{call.module}." for call in self.calls if call.module)
        whole = any(call.module == "" for call in self.calls)  # the module itself is a leaf
        inside = {first for key, first in keys.items() if whole or key.startswith(leaves)}
        return frozenset(inside | {state.key for state in self.state if state.ref is not None})
