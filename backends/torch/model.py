"""`Model`: a graph as an ordinary `nn.Module`, rewritten in place by passes.

`state_dict` keys are node labels plus slot names. A rewrite allocates only what is new or reshaped: every other
parameter is the same tensor object before and after, and blocks that did not change are the same modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Self, TypeAlias, overload

import torch
from torch import Tensor, nn

from nasir.backends.torch import attached
from nasir.backends.torch.applying import rewrite_of
from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.attached import Made, Places
from nasir.backends.torch.lower.network import (
    BlockCode,
    Unit,
    attach,
    children_of,
    inplace_relus,
    schedule,
    signature,
    trace_unit,
    write_top,
)
from nasir.backends.torch.lower.ops import Lowered, lower_op
from nasir.backends.torch.optimizers import forgotten
from nasir.backends.torch.wrapped import refuse_wrapped
from nasir.errors import Decline, GraphError, RunError, UsageError
from nasir.ir import Graph, Port
from nasir.ir.infer import collector_paused
from nasir.ir.regions import covers
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Pass, Rewrite, Site
from nasir.transfer import Key, TransferPlan, execute

LOWERED = ("graph", "code", "_lowered", "_units", "_made", "_places", "_foreign", "_inplace", "_forward")
LoweredUnit: TypeAlias = tuple[Unit, Any, nn.Module]  # what runs, its signature, its module

_CODE: dict[Any, BlockCode] = {}  # one generated class for each block signature


class Model(nn.Module):
    """A network lowered from `graph`. Make one with `Model.from_graph`; change it with `apply`.

    Inputs are [N, *input shape], the result is the graph's output (a tuple when it has several).
    """

    graph: Graph
    code: str  # the generated forward, blocks as calls; each block prints its own
    _lowered: dict[int, Lowered]  # by node id
    _units: dict[str, LoweredUnit]  # by block path
    _made: dict[int, Made]  # modules as their lowering gave them, by node id
    _places: dict[str, Places]  # containers as they were filled, by path of the block that they are in ("": none)
    _foreign: frozenset[int]  # nodes of blocks that were replaced by hand
    _inplace: set[int]  # ReLUs that overwrite their input
    _forward: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        # there from the start, so that no label can take their names
        self.__dict__.update(dict.fromkeys(LOWERED))
        self.channels_last = False
        self.ordinal = 0  # rewrites so far: part of the key of every random fill
        self.seed = 0
        self._held: frozenset[int] = frozenset()  # nodes that are frozen now
        self._prefixes: tuple[str, ...] = ()  # of labels frozen beside those of the graph

    # -- making

    @classmethod
    def from_graph(
        cls,
        graph: Graph,
        seed: int = 0,
        *,
        plan: TransferPlan | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> Model:
        """A freshly initialized model. `plan` overrides the ops' own initializers; `seed` keys every random fill."""
        if plan is None:
            plan = TransferPlan(
                {Key(n, name): slot.init for n, slots in graph.infer.slots.items() for name, slot in slots.items()}
            )
        arrays = TorchArrays(torch.device(device), dtype, channels_last)
        fresh = execute(plan, graph, _nothing_to_fetch, arrays, seed=seed, ordinal=0)
        model = cls()
        model.seed, model.channels_last = seed, channels_last
        model._build(graph, fresh, None)
        model.hold()
        return model

    def _build(
        self,
        graph: Graph,
        fresh: Mapping[Key, Tensor],
        old: Model | None,
        given: Mapping[int, nn.Module] = MappingProxyType({}),
    ) -> None:
        """Lower `graph`, taking the modules `given` by node, tensors from `fresh` and everything else from `old`."""
        types = graph.infer.types
        changed = {key.node for key in fresh}
        lowered: dict[int, Lowered] = {}
        made: dict[int, Made] = {}
        reused: set[int] = set()
        reshaped = set() if old is None else _reshaped(old.graph, graph)
        sources = set(graph.inputs)
        for node_id, node in graph.nodes.items():
            if node_id in sources:
                continue
            if old is not None and node_id not in changed and old._can_lend(node_id, graph, reshaped):
                lowered[node_id] = old._lowered[node_id]
                if node_id in old._made:
                    made[node_id] = old._made[node_id]
                reused.add(node_id)
                continue
            inputs = tuple([types[port] for port in node.inputs])
            module = lower_op(node.op, node.attrs, inputs, types[Port(node_id)])
            if isinstance(module, nn.Module):
                made[node_id] = Made.of(module)
                if node_id in given:
                    lowered[node_id] = given[node_id]
                    made[node_id] = made[node_id].holding(given[node_id])
                    continue
                self._fill(module, node_id, graph, fresh, old)
                if old is not None and node_id in old._made:
                    module = attached.taken_over(module, made[node_id], old, node_id, graph.nodes[node_id].label)
            lowered[node_id] = module
        steps = schedule(graph)
        inplace = inplace_relus(graph, graph.order)
        units: dict[str, LoweredUnit] = {}
        for step in steps:
            if isinstance(step, Unit):
                units[step.path] = self._unit(graph, step, lowered, inplace, reused, old)
                attach(self, step.path, units[step.path][2])
            elif isinstance(single := lowered.get(step), nn.Module):
                attach(self, graph.nodes[step].label, single)
        code, scope = write_top(graph, steps, lowered, inplace)
        exec(compile(code, "<nasir network>", "exec"), scope)
        # plain attributes, outside nn.Module's registries: none of these is a child
        self.__dict__.update(
            graph=graph, _lowered=lowered, _units=units, _inplace=inplace, _forward=scope["forward"], code=code
        )
        self.__dict__.update(_made=made, _places=self._filled_places(old), _foreign=self._find_foreign())

    def _filled_places(self, old: Model | None) -> dict[str, Places]:
        """What now lies where, of blocks that were taken over as it was known."""
        leaves = {id(module) for module in self._lowered.values()}
        found: dict[str, Places] = {}
        for path, (_, sign, block) in self._units.items():
            before = old._units.get(path) if old is not None else None
            if old is not None and before is not None and before[2] is block:
                found[path] = old._places[path]
            else:
                found[path] = attached.places_of(block, path, leaves) if _is_generated(sign, block) else {}
        found[""] = attached.places_of(self, "", leaves | {id(block) for _, _, block in self._units.values()})
        return found

    def _find_foreign(self) -> frozenset[int]:
        return frozenset(
            node for unit, sign, block in self._units.values() if not _is_generated(sign, block) for node in unit.nodes
        )

    def _adopt(self) -> attached.Changes:
        """Take modules that were put into this model by hand for those of their layers and blocks."""
        found = attached.changes(self)
        for node_id, module in found.leaves.items():
            was = self._lowered[node_id]
            if was is not module and isinstance(was, nn.Module):
                forgotten.note_replaced(self, was, module, self.graph.nodes[node_id].label)
            self._lowered[node_id] = module
        for path, block in found.blocks.items():
            unit, sign, former = self._units[path]
            forgotten.note_replaced(self, former, block, path)
            self._units[path] = (unit, sign, block)
            self._places[path] = {}
        if found.blocks:
            self._foreign = self._find_foreign()
        return found

    def _can_lend(self, node_id: int, graph: Graph, reshaped: set[Port]) -> bool:
        """Whether this model's lowering of a node serves `graph` as it is; `reshaped` ports changed their shape."""
        mine, node = self.graph.nodes.get(node_id), graph.nodes[node_id]
        if mine is node:
            return reshaped.isdisjoint(node.inputs)
        if mine is None or (mine.op, mine.attrs) != (node.op, node.attrs) or len(mine.inputs) != len(node.inputs):
            return False
        ours, theirs = self.graph.infer.types, graph.infer.types
        return all(ours[a].shape == theirs[b].shape for a, b in zip(mine.inputs, node.inputs, strict=True))

    def _fill(
        self, module: nn.Module, node_id: int, graph: Graph, fresh: Mapping[Key, Tensor], old: Model | None
    ) -> None:
        """Put tensors in the place of a module's meta tensors."""
        slots = graph.infer.slots[node_id]
        names = {name for held in (module._parameters, module._buffers) for name in held if held[name] is not None}
        if module._modules:
            names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
        if names != slots.keys():
            label = graph.nodes[node_id].label
            raise RunError(f"'{label}': its lowering holds {sorted(names)}, its op declares {sorted(slots)}")
        for name, slot in slots.items():
            key = Key(node_id, name)
            tensor = fresh.get(key)
            if tensor is None:
                assert old is not None
                _put(module, name, old._source(key))
                continue
            if self.channels_last and tensor.dim() == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            before = old.find_tensor(key) if old is not None else None
            if before is not None:
                attached.check_hooks(f"{graph.nodes[node_id].label}.{name}", before)
            wanted = before.requires_grad if before is not None else True
            _put(module, name, nn.Parameter(tensor, requires_grad=wanted) if slot.kind == "param" else tensor)
        if old is not None:
            was = old._lowered.get(node_id)
            module.train(was.training if isinstance(was, nn.Module) else old.training)

    def _unit(
        self,
        graph: Graph,
        unit: Unit,
        lowered: Mapping[int, Lowered],
        inplace: set[int],
        reused: set[int],
        old: Model | None,
    ) -> LoweredUnit:
        before = old._units.get(unit.path) if old is not None else None
        if before is not None and old is not None and reused.issuperset(unit.nodes):
            # the same nodes, wired alike, need no new signature
            nodes, known = graph.nodes, old.graph.nodes
            alike = before[0] == unit and all(nodes[n] is known[n] for n in unit.nodes)
            if alike and not (inplace ^ old._inplace).intersection(unit.nodes):
                return before
        if before is not None and not _is_generated(before[1], before[2]):
            raise attached.refuse(unit.path, before[2], "this rewrite changes that block")
        sign = signature(graph, unit, lowered, inplace)
        if before is not None and reused.issuperset(unit.nodes) and before[1] == sign:
            return unit, sign, before[2]
        if sign not in _CODE:
            _CODE[sign] = BlockCode(trace_unit(graph, unit, lowered, inplace))
        children = {target: lowered[node_id] for target, node_id in children_of(graph, unit, lowered)}
        block = _CODE[sign].instantiate(children, self.training)  # type: ignore[arg-type]
        return unit, sign, block

    @property
    def units(self) -> Mapping[str, nn.Module]:
        """The blocks that run as one module each, by region path."""
        return {path: block for path, (_, _, block) in self._units.items()}

    def use_channels_last(self) -> None:
        """Keep convolution weights in channels-last memory from now on, through rewrites too."""
        self.channels_last = True
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    # -- running

    def forward(self, *inputs: Tensor) -> Any:
        return self._forward(self, *inputs)

    # -- looking

    def tensor(self, key: Key) -> Tensor:
        """The parameter or buffer of a (node id, slot); raises GraphError when there is none."""
        found = self.find_tensor(key)
        if found is None or key.node in self._foreign:
            if key not in self.keys().values():
                raise GraphError(f"this network has no weight {tuple(key)}")
            raise self._strange(key.node)
        return found

    def _source(self, key: Key) -> Tensor:
        """`tensor`, once it is seen that it has the shape that the graph says."""
        found = self.tensor(key)
        if tuple(found.shape) != self.graph.infer.slots[key.node][key.slot].shape:
            raise self._strange(key.node)
        return found

    def _strange(self, node_id: int) -> UsageError:
        """The error about weights that are not those of the graph, because a module was replaced by hand."""
        for path, (unit, sign, block) in self._units.items():
            if node_id in unit.nodes and not _is_generated(sign, block):
                return attached.refuse(path, block, "the weights of that block are needed")
        label = self.graph.nodes[node_id].label
        return attached.refuse(label, self._lowered[node_id], "its weights are not those that the graph describes")

    def find_tensor(self, key: Key) -> Tensor | None:
        """The parameter or buffer of a (node id, slot), or None."""
        module = self._lowered.get(key.node)
        if not isinstance(module, nn.Module):
            return None
        found = module._parameters.get(key.slot)
        return found if found is not None else module._buffers.get(key.slot)

    def leaf(self, node_id: int) -> nn.Module | None:
        """The module of a node; None for nodes that are plain calls."""
        module = self._lowered[node_id]
        return module if isinstance(module, nn.Module) else None

    def keys(self) -> dict[str, Key]:
        """(node id, slot) of every state_dict name."""
        return {
            f"{self.graph.nodes[node_id].label}.{name}": Key(node_id, name)
            for node_id, slots in self.graph.infer.slots.items()
            for name in slots
        }

    def observe(self, needs: Iterable[Need], images: Tensor | None = None, labels: Tensor | None = None) -> Evidence:
        """What a pass needs to see before its next rewrite of this model: `change.attempt(graph, site, seen)`.

        Activations are measured on `images` [N, ...], gradients on them and `labels` [N]; raises NasirError where
        they are missing.
        """
        from nasir.backends.torch.observe.evidence import observe

        self._adopt()
        return observe(self, needs, images, labels, seed=self.seed, ordinal=self.ordinal + 1)

    # -- rewriting

    def rewritten(self, rewrite: Rewrite) -> Model:
        """The model after a rewrite, sharing every unchanged tensor and block; this one stays valid."""
        if rewrite.before is not self.graph and rewrite.before != self.graph:
            raise GraphError("the rewrite was made for another graph than this model's; apply the pass to model.graph")
        added = self._adopt().added
        parameter = next((p for p in self.parameters()), None)
        device = parameter.device if parameter is not None else torch.device("cpu")
        dtype = parameter.dtype if parameter is not None else torch.float32
        with torch.no_grad(), collector_paused():
            fresh = execute(
                rewrite.plan,
                rewrite.graph,
                self._source,
                TorchArrays(device, dtype, self.channels_last),
                seed=self.seed,
                ordinal=self.ordinal + 1,
                blobs=rewrite.blobs,
            )
            model = Model()
            model.seed, model.ordinal, model.channels_last = self.seed, self.ordinal + 1, self.channels_last
            model.training = self.training
            model._build(rewrite.graph, fresh, self)
            attached.carry(self, model, added)
        return model

    def become(self, other: Model) -> None:
        """Take the place of `other` (from `rewritten`), keeping this object's identity and hooks."""
        self._modules = other._modules
        for name in ("ordinal", *LOWERED):
            self.__dict__[name] = other.__dict__[name]
        self.hold(self._prefixes)

    # -- copying

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """A second model that shares nothing but the graph, with what was changed by hand."""
        self._adopt()
        memo[id(self.graph)] = self.graph
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update({name: deepcopy(value, memo) for name, value in self._own().items()})
        return copy

    def _own(self) -> dict[str, Any]:
        """All attributes but what `compile` made, which runs this very model."""
        return {name: value for name, value in self.__dict__.items() if name != "_compiled_call_impl"}

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, and so for torch.save: the graph as data, and the modules of its nodes."""
        added = self._adopt().added
        own = {name: value for name, value in self._own().items() if name not in (*LOWERED, "_modules")}
        leaves = {node_id: module for node_id, module in self._lowered.items() if isinstance(module, nn.Module)}
        blocks = {path: block for path, (_, sign, block) in self._units.items() if not _is_generated(sign, block)}
        return _revived, (type(self), self.graph.to_json(), own, leaves, blocks, attached.state_of(self._places), added)

    # -- freezing

    def hold(self, prefixes: Iterable[str] = ()) -> None:
        """Freeze what lies below the graph's frozen labels or `prefixes`, and release what was frozen so far besides.

        Frozen parameters have requires_grad False; frozen modules (norms, dropout) stay in eval mode in training. What
        a user froze by hand is left as it is, unless it was among these.
        """
        self._prefixes = tuple(prefixes)
        wanted = frozenset([node_id for node_id, node in self.graph.nodes.items() if self._holds(node_id, node.label)])
        for node_id in wanted | self._held:
            module = self._lowered.get(node_id)
            if not isinstance(module, nn.Module):
                continue
            free = node_id not in wanted
            module.train(self.training and free)
            for parameter in module.parameters():
                parameter.requires_grad_(free)
                if not free:
                    parameter.grad = None
        self._held = wanted

    def _holds(self, node_id: int, label: str) -> bool:
        return self.graph.is_frozen(node_id) or any(covers(prefix, label) for prefix in self._prefixes)

    @property
    def held_prefixes(self) -> tuple[str, ...]:
        """The prefixes that `hold` was given last."""
        return self._prefixes

    def is_held(self, node_id: int) -> bool:
        """Whether a node is frozen now, by the graph or by the prefixes given to `hold`."""
        return node_id in self._held

    def train(self, mode: bool = True) -> Model:
        """As nn.Module's, but what is frozen stays in eval mode."""
        super().train(mode)
        for node_id in self._held:
            module = self._lowered.get(node_id)
            if isinstance(module, nn.Module):
                module.train(False)
        return self

    @overload
    def apply(
        self,
        change: Pass,
        /,
        site: Site,
        *,
        optimizers: Iterable[torch.optim.Optimizer] = (),
        averages: Iterable[Any] = (),
        images: Tensor | None = None,
        labels: Tensor | None = None,
        on_decline: Callable[[Decline], Any] | None = None,
    ) -> Rewrite | None: ...

    @overload
    def apply(
        self, rewrite: Rewrite, /, *, optimizers: Iterable[torch.optim.Optimizer] = (), averages: Iterable[Any] = ()
    ) -> Rewrite: ...

    @overload
    def apply(self, fn: Callable[[nn.Module], Any]) -> Self: ...

    def apply(
        self,
        fn: Any,
        site: Site | None = None,
        *,
        optimizers: Iterable[torch.optim.Optimizer] = (),
        averages: Iterable[Any] = (),
        images: Tensor | None = None,
        labels: Tensor | None = None,
        on_decline: Callable[[Decline], Any] | None = None,
    ) -> Rewrite | Self | None:
        """Rewrite this model in place, with the state of its optimizers; or call a function on every submodule.

        - `apply(change, site, optimizers=...)`: what the Pass needs is measured first, activations on `images`
          [N, ...], gradients on them and `labels` [N]. Returns the Rewrite, or None when the pass declines:
          `on_decline` then gets the Decline, whose text is the reason (`on_decline=print` prints it).
        - `apply(rewrite, optimizers=...)`: carries out a Rewrite that was made for this model's graph.
        - `apply(fn)`: as in nn.Module, `fn` is called on every submodule and then on this model, which is returned.

        `averages` of the weights (`AveragedModel(model)`, say) go through the same plan. The model and the optimizers
        stay the same objects; gradients that have been accumulated are carried, too. An
        optimizer that holds this model's parameters and is not given is told of at its next step (NasirWarning). Raises
        UsageError for what is none of the three, and for arguments that do not go with it, before anything changes.
        """
        change = rewrite_of(self, fn, site, optimizers, averages, images, labels, on_decline)
        if change is None:
            return None
        if not isinstance(change, Rewrite):
            return super().apply(change)
        refuse_wrapped(self)
        from nasir.backends.torch.optimizers.gradients import moved_gradients
        from nasir.backends.torch.optimizers.transfer import transfer_optimizers
        from nasir.backends.torch.train.averages import checked_averages, moved_averages

        given, following = tuple(optimizers), checked_averages(averages, self)
        before, held = forgotten.learning(self), forgotten.held_by(given)
        with collector_paused():
            new = self.rewritten(change)
            gradients = moved_gradients(self, new, change.plan)
            moves = moved_averages(following, self, new, change)
            transfer_optimizers(given, self, new, change.plan)
            self.become(new)
            for move in moves:
                move()
        for parameter, gradient in gradients:
            parameter.grad = gradient if parameter.requires_grad else None
        forgotten.note(self, before, held, given, f"{change.made_by.get('pass')} at {change.site}")
        return change


def _revived(
    kind: type[Model],
    graph: Mapping[str, Any],
    own: Mapping[str, Any],
    leaves: Mapping[int, nn.Module],
    blocks: Mapping[str, nn.Module],
    state: Mapping[str, Mapping[str, Any]],
    added: Sequence[tuple[str, str, nn.Module | None]],
) -> Model:
    """A model from what `Model.__reduce__` gives; raises UnknownName for ops that no plugin has registered yet."""
    model = kind()
    model.training = own["training"]
    model._build(Graph.from_json(graph), {}, None, leaves)
    model.__dict__.update(own)
    attached.give_state(model._places, state)
    for path, block in blocks.items():
        place, _, name = path.rpartition(".")
        model.get_submodule(place).add_module(name, block)
    for path, name, module in added:
        model.get_submodule(path).add_module(name, module)
    model._adopt()
    return model


def _is_generated(sign: Any, block: nn.Module) -> bool:
    """Whether a block is of the class that was generated for its signature, not one that a user put in its place."""
    return type(block) is _CODE[sign].kind


def _reshaped(old: Graph, new: Graph) -> set[Port]:
    """Ports of both graphs whose shapes differ."""
    before = old.infer.types
    return {p for p, value in new.infer.types.items() if p in before and before[p].shape != value.shape}


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = tensor  # type: ignore[assignment]
    else:
        module._buffers[name] = tensor


def _nothing_to_fetch(key: Key) -> Tensor:
    raise GraphError(f"the first network takes nothing from another one, but its plan reads {tuple(key)}")
