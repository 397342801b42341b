"""Optimizers that a rewrite was not told of: they would go on training arrays that the network no longer has.

A model does not know its optimizers. So a rewrite that changes parameters which no optimizer given to it holds leaves a
note, and the next step of an optimizer that has to do with the model looks once whether all that learns is held. It is
torch's hook before every step of any optimizer that looks: registered by the first such note, idle when there is none.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nasir.backends.torch.optimizers.order import parameters_of
from nasir.errors import NasirWarning

Tensors = Mapping[int, Tensor]  # by identity


@dataclass(slots=True)
class _Note:
    """What rewrites did to a model since it was looked at: parameters that are gone, and those that are new."""

    what: str
    gone: dict[int, ref[Tensor]] = field(default_factory=dict)
    made: dict[int, ref[Tensor]] = field(default_factory=dict)


_NOTES: WeakKeyDictionary[nn.Module, _Note] = WeakKeyDictionary()
_hooked = False


def learning(model: nn.Module) -> dict[int, Tensor]:
    """The parameters of a model that learn."""
    return {key: p for key, p in parameters_of(model).items() if p.requires_grad}


def held_by(optimizers: Iterable[Optimizer]) -> dict[int, Tensor]:
    """The parameters in the groups of some optimizers."""
    return {id(p): p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def note(model: nn.Module, before: Tensors, held: Tensors, optimizers: Sequence[Optimizer], what: str) -> None:
    """Have the next step looked at, if a rewrite changed parameters that `optimizers` do not account for.

    `before`: what learned before the rewrite; `held`: what `optimizers` held then. They have been transferred. `what`:
    the pass and its site.
    """
    there, holding = parameters_of(model), held_by(optimizers)
    after = {key: p for key, p in there.items() if p.requires_grad}
    gone = [p for key, p in before.items() if key not in there and key not in held]
    made = [p for key, p in after.items() if key not in before and key not in holding]
    _add(model, gone, made, f"the rewrite {what}")


def note_replaced(model: nn.Module, was: nn.Module, now: nn.Module, path: str) -> None:
    """The same, where a module of the model was replaced by hand."""
    there, before, after = parameters_of(now), learning(was), learning(now)
    gone = [p for key, p in before.items() if key not in there]
    made = [p for key, p in after.items() if key not in before]
    _add(model, gone, made, f"the replacement of '{path}'")


def _add(model: nn.Module, gone: Sequence[Tensor], made: Sequence[Tensor], what: str) -> None:
    global _hooked
    if not gone and not made:
        return
    noted = _NOTES.setdefault(model, _Note(what))
    noted.what = what
    noted.gone |= {id(p): ref(p) for p in gone}
    noted.made |= {id(p): ref(p) for p in made}
    if not _hooked:
        register_optimizer_step_pre_hook(_before_step)
        _hooked = True


def _before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not _NOTES:
        return
    held = held_by([optimizer])
    for model, noted in list(_NOTES.items()):
        there = parameters_of(model)
        alive = {key: p for key, p in there.items() if p.requires_grad}
        for key in noted.gone.keys() & there.keys():  # back again, or another one at its address
            del noted.gone[key]
        gone = [key for key, p in noted.gone.items() if key in held and held[key] is p()]
        if not gone and alive.keys().isdisjoint(held):
            continue  # of another model
        del _NOTES[model]
        missing = _missing(alive, noted, held)
        if gone or missing:
            warnings.warn(_message(model, noted, optimizer, missing, len(alive)), NasirWarning, stacklevel=4)


def _missing(alive: Tensors, noted: _Note, held: Tensors) -> list[int]:
    """What is new, learns and is in no optimizer at all, though all that was there before is in one."""
    made = {key for key, p in noted.made.items() if key in alive and alive[key] is p()}
    if made <= held.keys():
        return []
    everyone = held_by(_every_optimizer())
    if not (alive.keys() - made) <= everyone.keys():
        return []  # the loop trains a part of the model
    return [key for key in noted.made if key in made and key not in everyone]


def _every_optimizer() -> list[Optimizer]:
    gc.collect()  # one that was given up holds nothing
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Optimizer)]


def _message(model: nn.Module, found: _Note, stepping: Optimizer, missing: Sequence[int], count: int) -> str:
    faults = []
    for optimizer in dict.fromkeys((stepping, *(_every_optimizer() if missing else ()))):
        held = held_by([optimizer])
        if gone := sum(key in held and held[key] is p() for key, p in found.gone.items()):
            faults.append(f"{type(optimizer).__name__} holds {gone} parameters that the network no longer has")
    if missing:
        names = {id(p): name for name, p in model.named_parameters()}
        some = ", ".join([names[key] for key in missing][:3])
        faults.append(f"{len(missing)} of {count} parameters that learn are in no optimizer ({some})")
    return (
        f"since {found.what}, {' and '.join(faults)}; give optimizers to the rewrite, as in "
        "model.apply(change, site, optimizers=[optimizer]), or make them anew after it"
    )
