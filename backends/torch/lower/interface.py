"""Calling an imported network as the user's module is called: arguments taken apart, outputs put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nasir.backends.torch.nested import tensors_in
from nasir.errors import UsageError
from nasir.importing.interface import UNREAD, Interface
from nasir.importing.recording import SLICE, Batch, Device, Ref, Structure, Switch, Symbol, Tree
from nasir.importing.trees import parts_of, same

Values = Sequence[Any]
Pack = Callable[[Values, int, bool], Any]
"""(outputs of the graph, batch size, training) -> what the user's module returns."""


class Calling:
    """`interface` at work; `kinds`: the classes and constants that it names."""

    def __init__(self, interface: Interface, kinds: Mapping[str, Any]) -> None:
        self.interface, self.kinds = interface, dict(kinds)
        self._first = next((n for n, batched in enumerate(interface.batched) if batched), None)
        self._pack = self._packing(interface.outputs)
        self.plain = interface.plain

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.interface, self.kinds)

    def __deepcopy__(self, memo: dict[int, Any]) -> Calling:
        return self  # nothing of it ever changes

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The inputs of the graph; raises UsageError for arguments that are not like those of the example."""
        face = self.interface
        by_place = dict(zip(face.names, args, strict=False))
        twice = sorted(by_place.keys() & kwargs.keys())
        if twice:
            raise UsageError(f"argument {twice[0]} is given by position and by name; give it once")
        named = {**by_place, **kwargs}
        if named.keys() != face.kwargs.keys() or max(0, len(args) - len(face.names)) != len(face.args):
            raise UsageError(
                f"this network was imported with the arguments {_listed(face.kwargs, len(face.args))}, and is called "
                f"with {_listed(named, max(0, len(args) - len(face.names)))}; pass the same ones"
            )
        found: dict[int, Tensor] = {}
        for number, tree in enumerate(face.args):
            self._take(tree, args[len(face.names) + number], f"{len(face.names) + number}", found)
        for name, tree in face.kwargs.items():
            self._take(tree, named[name], name, found)
        return [found[number] for number in range(len(face.batched))]

    def packed(self, values: Any, inputs: Sequence[Tensor], training: bool) -> Any:
        """What the user's module returns, of what the network gives (a tuple of several outputs) and its inputs."""
        if self.interface.ends == 1:
            values = (values,)
        batch = 1 if self._first is None else inputs[self._first].shape[0]
        return self._pack(values, batch, training)

    def _packing(self, tree: Tree) -> Pack:
        if isinstance(tree, Ref):
            number = tree.number
            return lambda values, batch, training: values[number]
        if isinstance(tree, Batch):
            return lambda values, batch, training: tree.at(batch)
        if isinstance(tree, Switch):
            evaluated, trained = self._packing(tree.eval), self._packing(tree.train)
            return lambda *given: (trained if given[2] else evaluated)(*given)
        parts = [(name, self._packing(part)) for name, part in parts_of(tree) or ()]
        if isinstance(tree, Structure):
            kind: Any = slice if tree.kind == SLICE else self.kinds[tree.kind]
            if kind is slice or issubclass(kind, tuple):
                return lambda *given: kind(*[part(*given) for _, part in parts])
            return lambda *given: kind(**{name: part(*given) for name, part in parts})
        if isinstance(tree, dict):
            return lambda *given: {name: part(*given) for name, part in parts}
        if isinstance(tree, (tuple, list)):
            made = type(tree)
            return lambda *given: made([part(*given) for _, part in parts])
        constant = self._constant(tree)
        return lambda *given: constant

    def _constant(self, tree: Tree) -> Any:
        """What a leaf stands for that is no tensor."""
        if isinstance(tree, Symbol):
            return self.kinds[tree.name]
        return torch.device(tree.name) if isinstance(tree, Device) and tree.name else tree

    def _take(self, tree: Tree, given: Any, path: str, found: dict[int, Tensor]) -> None:
        """Put the tensors of an argument into `found`; UsageError where it is not like that of the example."""
        if isinstance(tree, Ref):
            if not isinstance(given, Tensor):
                raise UsageError(
                    f"argument {path}: a {type(given).__name__}, and it was imported with a tensor; pass one"
                )
            if tree.number != UNREAD:
                found[tree.number] = given
            return
        parts = parts_of(tree)
        if parts is None:
            known = self._constant(tree)
            if given is not known and not same(known, given) and not isinstance(known, Device):
                raise UsageError(
                    f"argument {path} is {given!r:.60}, and the network was imported with {known!r:.60}, which it "
                    "holds from then on; import it again with another value"
                )
            return
        held: Mapping[str, Any]
        if isinstance(tree, Structure):
            held = {name: getattr(given, name, None) for name, _ in parts}
        elif isinstance(tree, dict):
            held = given if isinstance(given, Mapping) else {}
        else:
            held = {str(n): part for n, part in enumerate(given)} if isinstance(given, (tuple, list)) else {}
        if held.keys() != {name for name, _ in parts}:
            told = ", ".join(name for name, _ in parts)
            raise UsageError(f"argument {path}: was imported as a {type(tree).__name__} of {told}; pass one like it")
        for name, part in parts:
            self._take(part, held[name], f"{path}.{name}", found)


def first_floating(outputs: Any) -> Tensor:
    """The first floating-point tensor among what a network returns: its logits. UsageError where there is none."""
    for tensor in tensors_in(outputs):
        if tensor.is_floating_point():
            return tensor
    raise UsageError(f"the network returns {type(outputs).__name__} without floating-point numbers, so no logits")


def _listed(names: Mapping[str, Any], more: int) -> str:
    return ", ".join([*names, *([f"{more} by position alone"] if more else [])]) or "none"
