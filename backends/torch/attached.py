"""What was changed on a model by hand since it was lowered: found before a rewrite, kept where it can be, else refused.

Layers and blocks that a rewrite does not touch stay what they are, modules of the user's own among them. A layer that
is made anew takes over hooks, attributes (`momentum`, `eps`, `p`) and the class of a module with the same weights, such
as SyncBatchNorm; any other module in its place is a UsageError, which names the layer and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nasir.backends.torch.lower.network import children_of, is_compiled
from nasir.errors import UsageError

if TYPE_CHECKING:
    from nasir.backends.torch.model import Model

REGISTRIES = frozenset(nn.Module().__dict__) - {"training"}
HOOKS = tuple(name for name, value in nn.Module().__dict__.items() if "hooks" in name and isinstance(value, dict))
# which kind of backward hooks there are goes with them; a block made anew is not compiled
UNSEEN = frozenset({"training", "_compiled_call_impl"})
_MISSING = object()

Children = dict[str, nn.Module | None]
Places = dict[str, tuple[nn.Module, Children]]  # by path: a container or block, and what was put into it


@dataclass(frozen=True, slots=True)
class Made:
    """A module as its lowering gave it: its class, its attributes, and the names of its weights."""

    kind: type[nn.Module]
    attributes: dict[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Made:
        return cls(type(module), module.__dict__.copy(), _names(module))

    def holding(self, module: nn.Module) -> Made:
        """The same, of a module made elsewhere, which has registries of its own."""
        return Made(self.kind, self.attributes | {name: module.__dict__[name] for name in REGISTRIES}, self.names)


def _names(module: nn.Module) -> tuple[str, ...]:
    return (*module._parameters, *module._buffers, *module._modules)


@dataclass(slots=True)
class Changes:
    """Modules found in the place of others: leaves by node, blocks by path, and those that no label asked for."""

    leaves: dict[int, nn.Module] = field(default_factory=dict)
    blocks: dict[str, nn.Module] = field(default_factory=dict)
    added: list[tuple[str, str, nn.Module | None]] = field(default_factory=list)  # (path of the place, name, module)


def places_of(root: nn.Module, path: str, leaves: set[int]) -> Places:
    """The containers at and below `root`, with what they hold; `leaves`: identities of modules not to look into."""
    found: Places = {path: (root, dict(root._modules))}
    for name, child in root._modules.items():
        if child is not None and id(child) not in leaves:
            found |= places_of(child, f"{path}.{name}" if path else name, leaves)
    return found


def changes(model: Model) -> Changes:
    """What stands in the places of the model now and did not when it was lowered."""
    found = Changes()
    known = {path: place for places in model._places.values() for path, place in places.items()}
    if all(place._modules == children for place, children in known.values()):
        return found  # dicts of modules compare by identity
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
                found.blocks[full] = now
            elif full in nodes:
                found.leaves[nodes[full]] = now
            else:
                walk(full, now, known[full][1])
        found.added += [(path, name, child) for name, child in place._modules.items() if name not in expected]

    walk("", *known[""])
    return found


def nodes_by_path(model: Model) -> dict[str, int]:
    """Node ids by where in the tree of modules their modules are."""
    inside: dict[str, int] = {}
    members: set[int] = set()
    for unit, _, _ in model._units.values():
        members.update(unit.nodes)
        inside |= {f"{unit.path}.{target}": node for target, node in children_of(model.graph, unit, model._lowered)}
    return inside | {model.graph.nodes[n].label: n for n in model._lowered if n not in members}


def fits(module: nn.Module, slots: Mapping[str, Any]) -> bool:
    """Whether a module holds just the weights that an op declares, in their shapes."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return held.keys() == slots.keys() and all(tuple(held[name].shape) == slots[name].shape for name in held)


def refuse(label: str, module: object, why: str) -> UsageError:
    """The error about a module of the user's in the place of a layer."""
    return UsageError(
        f"'{label}': {type(module).__name__} was put there by hand, and {why}; put back a module with the weights of "
        "this layer (merge adapters, remove parametrizations), rewrite, and replace it again"
    )


def by_hand(module: nn.Module, made: Made) -> dict[str, Any]:
    """Attributes of a module that differ from those it was made with; not its weights, children and hooks."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in REGISTRIES and name not in UNSEEN and not _same(value, made.attributes.get(name, _MISSING))
    }


def _same(value: Any, other: Any) -> bool:
    if value is other:
        return True
    try:
        return type(value) is type(other) and bool(value == other)
    except (RuntimeError, ValueError, TypeError):  # tensors and arrays compare element by element
        return False


def is_changed(module: nn.Module, made: Made) -> bool:
    """Whether `module` is not simply as it was made: another one, other attributes or weights, or hooks."""
    attributes = module.__dict__
    made.attributes["training"] = module.training
    try:
        same = attributes == made.attributes  # weights and hooks by identity of their registries, which is quick
    except RuntimeError:  # a tensor in the place of something else
        same = False
    if not same or type(module) is not made.kind or _names(module) != made.names:
        return True
    return any([attributes[name] for name in HOOKS])


def taken_over(fresh: nn.Module, made: Made, old: Model, node_id: int, label: str) -> nn.Module:
    """`fresh`, or a module of its weights, with what was changed by hand on the module of `old` that it replaces.

    `made`: what `fresh` was made as. UsageError where that cannot be done.
    """
    was, before = old._lowered[node_id], old._made[node_id]
    assert isinstance(was, nn.Module)
    if not is_changed(was, before):
        return fresh
    if not fits(was, old.graph.infer.slots[node_id]):
        raise refuse(label, was, "this rewrite makes the layer anew")
    changed = by_hand(was, before)
    if type(was) is not before.kind:
        if made.kind is not before.kind:
            raise refuse(label, was, f"this rewrite puts a {made.kind.__name__} in the place of {before.kind.__name__}")
        module: nn.Module = object.__new__(type(was))
        module.__dict__.update(fresh.__dict__)
        fresh = module
    for name, value in changed.items():
        if not _same(made.attributes.get(name, _MISSING), before.attributes.get(name, _MISSING)):
            raise UsageError(
                f"'{label}': {name} was set to {value!r:.80} by hand, and this rewrite changes it, too; set it back to "
                f"{before.attributes.get(name)!r:.80}"
            )
        _check_movable(label, name, value)
        fresh.__dict__[name] = value
    move_hooks(was, fresh)
    return fresh


def move_hooks(was: nn.Module, fresh: nn.Module) -> None:
    """Give `fresh` the hooks of `was`: the same registries, so that their handles still remove them."""
    for name in HOOKS:
        if was.__dict__[name]:
            fresh.__dict__[name] = was.__dict__[name]
            fresh._is_full_backward_hook = was._is_full_backward_hook


def _check_movable(label: str, name: str, value: Any) -> None:
    """UsageError for what may belong to the old module alone: its methods, functions that hold it, its tensors."""
    plain = isinstance(value, FunctionType | BuiltinFunctionType | type) and name != "forward"
    if isinstance(value, Tensor) or (callable(value) and not plain):
        raise UsageError(
            f"'{label}': its attribute {name!r} ({type(value).__name__}) was set by hand, and this rewrite makes the "
            f"layer anew; remove the attribute, rewrite, and set it again"
        )


def carry(old: Model, new: Model, added: list[tuple[str, str, nn.Module | None]]) -> None:
    """Take what was put by hand on containers and blocks, and into them, over to those made anew."""
    before = {path: place for places in old._places.values() for path, (place, _) in places.items()}
    after = {path: place for places in new._places.values() for path, (place, _) in places.items()}
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
                    _check_movable(path, name, value)
                    place.__dict__[name] = value
    for path, name, module in added:
        held = after.get(path)
        if held is not None and held is not before[path]:
            if name in held._modules or hasattr(held, name):
                raise UsageError(f"'{path}.{name}': added by hand, and this rewrite needs the name; choose another one")
            held.add_module(name, module)


def check_hooks(label: str, parameter: Tensor) -> None:
    """UsageError for a parameter with hooks of its own, which a rewrite is about to replace."""
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise UsageError(
            f"'{label}' has hooks on its gradient, and this rewrite changes its shape; remove them, rewrite, and "
            "register them again"
        )


def state_of(places: Mapping[str, Places]) -> dict[str, dict[str, Any]]:
    """What was put by hand on containers and blocks, and their modes, by path; for `give_state`."""
    found: dict[str, dict[str, Any]] = {}
    for path, (place, _) in ((path, place) for group in places.values() for path, place in group.items() if path):
        kept = {name: place.__dict__[name] for name in (*HOOKS, "_parameters", "_buffers") if place.__dict__[name]}
        kept["_is_full_backward_hook"] = place._is_full_backward_hook
        found[path] = kept | {"training": place.training}
    return found


def give_state(places: Mapping[str, Places], state: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what `state_of` found onto containers and blocks made anew."""
    for path, (place, _) in ((path, place) for group in places.values() for path, place in group.items()):
        place.__dict__.update(state.get(path, {}))


def settings(model: Model) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """(class, attributes) that were set by hand, by path of the layer; the class if it is another one of torch.nn.

    UsageError for another class: only what is importable by everybody can be made again from its name.
    """
    found: dict[str, tuple[str | None, dict[str, Any]]] = {}
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
            found[path] = (kind, attributes)
    return found


def give_settings(model: Model, settings: Mapping[str, tuple[str | None, Mapping[str, Any]]]) -> None:
    """Set what `settings` found on a model of the same graph."""
    for path, (kind, attributes) in settings.items():
        module = model.get_submodule(path)
        if kind is not None:
            fresh: nn.Module = object.__new__(getattr(nn, kind))
            fresh.__dict__.update(module.__dict__)
            place, _, name = path.rpartition(".")
            model.get_submodule(place).add_module(name, fresh)
            module = fresh
        module.__dict__.update(attributes)
    model._adopt()
