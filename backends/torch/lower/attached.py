"""What was changed on a model by hand since it was lowered: found before a rewrite, kept where it can be, else refused.

Layers and blocks that a rewrite does not touch stay what they are, modules of the user's own among them; for a layer
that is made anew see `lower.made`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nasir.backends.torch.lower.made import HOOKS, UNSEEN, by_hand, check_movable, is_changed, move_hooks
from nasir.backends.torch.lower.network import children_of, is_compiled
from nasir.backends.torch.lower.parts import Children, LoweredParts, Places
from nasir.errors import UsageError


@dataclass(slots=True)
class Changes:
    """Modules found in the place of others: leaves by node, blocks by path, and those that no label asked for."""

    leaves: dict[int, nn.Module] = field(default_factory=dict)
    blocks: dict[str, nn.Module] = field(default_factory=dict)
    added: list[tuple[str, str, nn.Module | None]] = field(default_factory=list)  # (path of the place, name, module)


def flattened(places: Mapping[str, Places]) -> Places:
    """The containers of all groups by path, which no two groups share."""
    return {path: place for group in places.values() for path, place in group.items()}


def changes(model: LoweredParts) -> Changes:
    """What stands in the places of the model now and did not when it was lowered."""
    changed = Changes()
    known = flattened(model._places)
    if all(place._modules == children for place, children in known.values()):
        return changed  # dicts of modules compare by identity
    nodes = nodes_by_path(model)

    def walk(path: str, place: nn.Module, expected: Children) -> None:
        for name, child in expected.items():
            full, now = f"{path}.{name}" if path else name, place._modules.get(name)
            if now is None:
                raise UsageError(
                    f"'{full}': this part of the model was removed by hand; put it back, or a module like it"
                )
            if now is child:
                if full in known:
                    walk(full, *known[full])
            elif full in model._units:
                changed.blocks[full] = now
            elif full in nodes:
                changed.leaves[nodes[full]] = now
            else:
                walk(full, now, known[full][1])
        changed.added += [(path, name, child) for name, child in place._modules.items() if name not in expected]

    walk("", *known[""])
    return changed


def nodes_by_path(model: LoweredParts) -> dict[str, int]:
    """Node ids by where in the tree of modules their modules are."""
    inside: dict[str, int] = {}
    members: set[int] = set()
    for unit, _, _ in model._units.values():
        members.update(unit.nodes)
        inside |= {f"{unit.path}.{target}": node for target, node in children_of(model.graph, unit, model._lowered)}
    return inside | {model.graph.nodes[n].label: n for n in model._lowered if n not in members}


def carry(old: LoweredParts, new: LoweredParts, added: list[tuple[str, str, nn.Module | None]]) -> None:
    """Take what was put by hand on containers and blocks, and into them, over to those made anew."""
    before = {path: place for path, (place, _) in flattened(old._places).items()}
    after = {path: place for path, (place, _) in flattened(new._places).items()}
    for path, place in after.items():
        was = before.get(path)
        if was is None or was is place:
            continue
        for own, others in ((place._parameters, was._parameters), (place._buffers, was._buffers)):
            if others:
                own.update(others)  # type: ignore[arg-type]
        if path:  # else it is the model itself, which stays
            place.training = was.training
            move_hooks(was, place)
            for name in was.__dict__.keys() - place.__dict__.keys() - UNSEEN:
                value = was.__dict__[name]
                if not is_compiled(value):
                    check_movable(path, name, value)
                    place.__dict__[name] = value
    for path, name, module in added:
        held = after.get(path)
        if held is not None and held is not before[path]:
            if name in held._modules or hasattr(held, name):
                raise UsageError(f"'{path}.{name}': added by hand, and this rewrite needs the name; choose another one")
            held.add_module(name, module)


def state_of(places: Mapping[str, Places]) -> dict[str, dict[str, Any]]:
    """What was put by hand on containers and blocks, and their modes, by path; for `give_state`."""
    states: dict[str, dict[str, Any]] = {}
    for path, (place, _) in flattened(places).items():
        if not path:  # the model itself
            continue
        kept = {name: place.__dict__[name] for name in (*HOOKS, "_parameters", "_buffers") if place.__dict__[name]}
        kept["_is_full_backward_hook"] = place._is_full_backward_hook
        states[path] = kept | {"training": place.training}
    return states


def give_state(places: Mapping[str, Places], state: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what `state_of` found onto containers and blocks made anew."""
    for path, (place, _) in flattened(places).items():
        place.__dict__.update(state.get(path, {}))


def settings(model: LoweredParts) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """(class, attributes) that were set by hand, by path of the layer; the class if it is another one of torch.nn.

    UsageError for another class: only what is importable by everybody can be made again from its name.
    """
    by_path: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for path, node in nodes_by_path(model).items():
        module, made = model._lowered[node], model._made.get(node)
        if made is None or not isinstance(module, nn.Module) or not is_changed(module, made):
            continue
        kind = None if type(module) is made.kind else type(module).__name__
        if kind is not None and getattr(nn, kind, None) is not type(module):
            raise UsageError(
                f"'{path}': {kind} was put there by hand, and only classes of torch.nn are made again; put back a "
                f"{made.kind.__name__}, or store the whole by torch.save(model)"
            )
        attributes = by_hand(module, made)
        if kind is not None or attributes:
            by_path[path] = (kind, attributes)
    return by_path


def give_settings(model: LoweredParts, settings: Mapping[str, tuple[str | None, Mapping[str, Any]]]) -> None:
    """Set what `settings` found on a model of the same graph, which adopts it afterwards."""
    for path, (kind, attributes) in settings.items():
        module = model.get_submodule(path)
        if kind is not None:
            fresh: nn.Module = object.__new__(getattr(nn, kind))
            fresh.__dict__.update(module.__dict__)
            place, _, name = path.rpartition(".")
            model.get_submodule(place).add_module(name, fresh)
            module = fresh
        module.__dict__.update(attributes)
