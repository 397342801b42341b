"""Building: a graph lowered into the parts of a model, taking over what another model has of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.forward import write_top
from nasir.backends.torch.lower.made import Made, check_hooks, refuse, taken_over
from nasir.backends.torch.lower.network import (
    BlockCode,
    Unit,
    attach,
    children_of,
    schedule,
    signature,
    trace_unit,
)
from nasir.backends.torch.lower.ops import Lowered, lower_op
from nasir.backends.torch.lower.overwriting import overwriting
from nasir.backends.torch.lower.parts import CODE, LoweredParts, LoweredUnit, Places, is_generated
from nasir.backends.torch.lower.twins import take_values, twin_of
from nasir.errors import RunError
from nasir.ir import Graph, Port, Slot
from nasir.transfer import Key


def build(
    model: LoweredParts,
    graph: Graph,
    fresh: Mapping[Key, Tensor],
    old: LoweredParts | None,
    given: Mapping[int, nn.Module] = MappingProxyType({}),
) -> None:
    """Lower `graph`, taking the modules `given` by node, tensors from `fresh` and everything else from `old`."""
    types = graph.infer.types
    changed = {key.node for key in fresh} | _borrowing_anew(graph, fresh, old)
    lowered: dict[int, Lowered] = {}
    made: dict[int, Made] = {}
    reused: set[int] = set()
    reshaped = set() if old is None else _reshaped(old.graph, graph)
    sources = set(graph.inputs)
    for node_id, node in graph.nodes.items():
        if node_id in sources or node.facts.family == "mode":  # the generated forward chooses by itself
            continue
        if old is not None and node_id not in changed and _can_lend(old, node_id, graph, reshaped):
            lowered[node_id] = old._lowered[node_id]
            if node_id in old._made:
                made[node_id] = old._made[node_id]
            reused.add(node_id)
            continue
        if node_id in given and node.facts.foreign:
            lowered[node_id], made[node_id] = given[node_id], Made.of(given[node_id])
            continue
        if old is not None and node_id not in old._lowered and (twin := twin_of(old, node)):
            lowered[node_id], made[node_id] = twin, Made.of(twin)
            take_values(twin, {name: fresh[Key(node_id, name)] for name in graph.infer.slots[node_id]})
            continue
        inputs = tuple([types[port] for port in node.inputs])
        module = lower_op(node.op, node.attrs, inputs, types[Port(node_id)])
        if isinstance(module, nn.Module):
            made[node_id] = Made.of(module)
            if node_id in given:
                lowered[node_id] = given[node_id]
                made[node_id] = made[node_id].holding(given[node_id])
                continue
            _fill(model, module, node_id, graph, fresh, old)
            if old is not None and node_id in old._made:
                was, label = old._lowered[node_id], graph.nodes[node_id].label
                assert isinstance(was, nn.Module)
                slots = weights_of(old.graph, node_id)
                module = taken_over(module, made[node_id], was, old._made[node_id], slots, label)
        lowered[node_id] = module
    for node_id, borrowed in graph.infer.borrowed.items():
        if node_id not in reused:
            for name, (owner, _) in borrowed.items():
                lender, borrower = lowered[owner.node], lowered[node_id]
                assert isinstance(lender, nn.Module) and isinstance(borrower, nn.Module)
                home, slot = _home(lender, owner.slot)
                tensor = home._parameters.get(slot)
                _put(borrower, name, home._buffers[slot] if tensor is None else tensor)  # type: ignore[arg-type]
    steps = schedule(graph, as_made=model.calling is not None)
    inplace = overwriting(graph, graph.order, model.over)
    units: dict[str, LoweredUnit] = {}
    for step in steps:
        if isinstance(step, Unit):
            units[step.path] = _unit(model, graph, step, lowered, inplace, reused, old)
            attach(model, step.path, units[step.path][2])
        elif isinstance(single := lowered.get(step), nn.Module):
            attach(model, graph.nodes[step].label, single)
    code, scope = write_top(graph, steps, lowered, inplace)
    exec(compile(code, "<nasir network>", "exec"), scope)
    written = {graph.nodes[node_id].inputs[0] for node_id in inplace}
    makers = [lowered[port.node] for port in written if isinstance(lowered.get(port.node), nn.Module)]
    makers += [block for unit, _, block in units.values() if not written.isdisjoint(unit.outputs)]
    # plain attributes, outside nn.Module's registries: none of these is a child
    model.__dict__.update(
        graph=graph,
        _lowered=lowered,
        _units=units,
        _inplace=inplace,
        _forward=scope["forward"],
        code=code,
        _makers=makers,
    )
    model.__dict__.update(_made=made, _places=filled_places(model, old), _foreign=foreign_nodes(model))


def weights_of(graph: Graph, node_id: int) -> dict[str, Slot]:
    """All weights that a node uses, its own and those of other nodes that it borrows."""
    borrowed = graph.infer.borrowed.get(node_id, {})
    return {**graph.infer.slots[node_id], **{name: slot for name, (_, slot) in borrowed.items()}}


def _borrowing_anew(graph: Graph, fresh: Mapping[Key, Tensor], old: LoweredParts | None) -> set[int]:
    """The nodes that borrow an array which is made anew, or another one than in the old model, or none any more."""
    if old is None:
        return set()
    before = old.graph.ties
    anew = {key.node for key, owner in graph.ties.items() if owner in fresh or before.get(key) != owner}
    return anew | {key.node for key in before if key not in graph.ties}


def filled_places(model: LoweredParts, old: LoweredParts | None) -> dict[str, Places]:
    """What now lies where, of blocks that were taken over as it was known."""
    leaves = {id(module) for module in model._lowered.values()}
    places: dict[str, Places] = {}
    for path, (_, sign, block) in model._units.items():
        before = old._units.get(path) if old is not None else None
        if old is not None and before is not None and before[2] is block:
            places[path] = old._places[path]
        else:
            places[path] = places_of(block, path, leaves) if is_generated(sign, block) else {}
    places[""] = places_of(model, "", leaves | {id(block) for _, _, block in model._units.values()})
    return places


def foreign_nodes(model: LoweredParts) -> frozenset[int]:
    """The nodes of blocks that were replaced by hand."""
    return frozenset(
        node for unit, sign, block in model._units.values() if not is_generated(sign, block) for node in unit.nodes
    )


def _can_lend(old: LoweredParts, node_id: int, graph: Graph, reshaped: set[Port]) -> bool:
    """Whether the old model's lowering of a node serves `graph` as it is; `reshaped` ports changed their shape."""
    mine, node = old.graph.nodes.get(node_id), graph.nodes[node_id]
    if mine is node:
        return reshaped.isdisjoint(node.inputs)
    if mine is None or (mine.op, mine.attrs) != (node.op, node.attrs) or len(mine.inputs) != len(node.inputs):
        return False
    ours, theirs = old.graph.infer.types, graph.infer.types
    return all(ours[a].shape == theirs[b].shape for a, b in zip(mine.inputs, node.inputs, strict=True))


def _fill(
    model: LoweredParts,
    module: nn.Module,
    node_id: int,
    graph: Graph,
    fresh: Mapping[Key, Tensor],
    old: LoweredParts | None,
) -> None:
    """Put tensors in the place of a module's meta tensors."""
    slots = graph.infer.slots[node_id]
    names = {name for held in (module._parameters, module._buffers) for name in held if held[name] is not None}
    if module._modules:
        names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    declared = weights_of(graph, node_id)
    if names != declared.keys():
        label = graph.nodes[node_id].label
        raise RunError(f"'{label}': its lowering holds {sorted(names)}, its op declares {sorted(declared)}")
    for name, slot in slots.items():
        key = Key(node_id, name)
        tensor = fresh.get(key)
        if tensor is None:
            assert old is not None
            _put(module, name, old._source(key))
            continue
        if model.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        before = old.find_tensor(key) if old is not None else None
        if before is not None:
            check_hooks(f"{graph.nodes[node_id].label}.{name}", before)
        wanted = before.requires_grad if before is not None else True
        if slot.kind == "param" and not (old is None and isinstance(tensor, nn.Parameter)):  # one that was given stays
            tensor = nn.Parameter(tensor, requires_grad=wanted)
        _put(module, name, tensor)
    was = None if old is None else old._lowered.get(node_id)
    module.train(was.training if isinstance(was, nn.Module) else (old or model).training)


def _unit(
    model: LoweredParts,
    graph: Graph,
    unit: Unit,
    lowered: Mapping[int, Lowered],
    inplace: set[int],
    reused: set[int],
    old: LoweredParts | None,
) -> LoweredUnit:
    before = old._units.get(unit.path) if old is not None else None
    if before is not None and old is not None and reused.issuperset(unit.nodes):
        # the same nodes, wired alike, need no new signature
        nodes, known = graph.nodes, old.graph.nodes
        alike = before[0] == unit and all(nodes[n] is known[n] for n in unit.nodes)
        if alike and not (inplace ^ old._inplace).intersection(unit.nodes):
            return before
    if before is not None and not is_generated(before[1], before[2]):
        raise refuse(unit.path, before[2], "this rewrite changes that block")
    sign = signature(graph, unit, lowered, inplace)
    if before is not None and reused.issuperset(unit.nodes) and before[1] == sign:
        return unit, sign, before[2]
    if sign not in CODE:
        CODE[sign] = BlockCode(trace_unit(graph, unit, lowered, inplace))
    children = {target: lowered[node_id] for target, node_id in children_of(graph, unit, lowered)}
    block = CODE[sign].instantiate(children, model.training)  # type: ignore[arg-type]
    return unit, sign, block


def places_of(root: nn.Module, path: str, leaves: set[int]) -> Places:
    """The containers at and below `root`, with what they hold; `leaves`: identities of modules not to look into."""
    places: Places = {path: (root, dict(root._modules))}
    for name, child in root._modules.items():
        if child is not None and id(child) not in leaves:
            places |= places_of(child, f"{path}.{name}" if path else name, leaves)
    return places


def _reshaped(old: Graph, new: Graph) -> set[Port]:
    """Ports of both graphs whose shapes differ."""
    before = old.infer.types
    return {p for p, value in new.infer.types.items() if p in before and before[p].shape != value.shape}


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    home, slot = _home(module, name)
    if slot in home._parameters:
        home._parameters[slot] = tensor  # type: ignore[assignment]
    else:
        home._buffers[slot] = tensor


def _home(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module within one that holds a tensor, and what it is called there."""
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last
