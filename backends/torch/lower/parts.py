"""`LoweredParts`: a network and its parts, as they were lowered: what runs, which tensor is where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from nasir.backends.torch.lower.interface import Calling
from nasir.backends.torch.lower.made import Made, refuse
from nasir.backends.torch.lower.naming import NamedWeights
from nasir.backends.torch.lower.network import BlockCode, Unit
from nasir.backends.torch.lower.ops import Lowered
from nasir.backends.torch.lower.overwriting import heard, keeping
from nasir.errors import GraphError, UsageError
from nasir.transfer import Key

LOWERED = ("graph", "code", "_lowered", "_units", "_made", "_places", "_foreign", "_inplace", "_makers", "_forward")
Children: TypeAlias = dict[str, nn.Module | None]
Places: TypeAlias = dict[str, tuple[nn.Module, Children]]  # by path: a container or block, and what was put into it
LoweredUnit: TypeAlias = tuple[Unit, Any, nn.Module]  # what runs, its signature, its module

CODE: dict[Any, BlockCode] = {}  # one generated class for each block signature


class LoweredParts(NamedWeights):
    """A network with the parts that `build` made of its graph, and where each of them is.

    Inputs are [N, *input shape], the result is the graph's output (a tuple when it has several). An imported network is
    called as the user's module is, and returns what that returns.
    """

    code: str  # the generated forward, blocks as calls; each block prints its own
    _lowered: dict[int, Lowered]  # by node id
    _units: dict[str, LoweredUnit]  # by block path
    _made: dict[int, Made]  # modules as their lowering gave them, by node id
    _places: dict[str, Places]  # containers as they were filled, by path of the block that they are in ("": none)
    _foreign: frozenset[int]  # nodes of blocks that were replaced by hand
    _inplace: set[int]  # nodes that overwrite their first input
    _makers: list[nn.Module]  # modules and blocks whose results those overwrite
    _forward: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        # there from the start, so that no label can take their names
        self.__dict__.update(dict.fromkeys(LOWERED))
        self.calling: Calling | None = None  # how the user's module is called that it was imported from
        self.over: frozenset[int] = frozenset()  # nodes whose result the user's module writes over their first input
        self.channels_last = False
        self.ordinal = 0  # rewrites so far: part of the key of every random fill
        self.seed = 0
        self._held: frozenset[int] = frozenset()  # nodes that are frozen now
        self._prefixes: tuple[str, ...] = ()  # of labels frozen beside those of the graph

    @property
    def units(self) -> Mapping[str, nn.Module]:
        """The blocks that run as one module each, by region path."""
        return {path: block for path, (_, _, block) in self._units.items()}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        calling = self.calling
        if calling is None or (calling.plain and not named and len(inputs) == len(calling.interface.batched)):
            return self._run(*inputs, **named)
        bound = calling.bound(inputs, named)
        return calling.packed(self._run(*bound), bound, self.training)

    def _run(self, *inputs: Any, **named: Any) -> Any:
        if heard(self._makers):
            with keeping():
                return self._forward(self, *inputs, **named)
        return self._forward(self, *inputs, **named)

    def tensor(self, key: Key) -> Tensor:
        """The parameter or buffer of a (node id, slot); raises GraphError when there is none."""
        weight = self.find_tensor(key)
        if weight is None or key.node in self._foreign:
            if key not in self.keys().values():
                raise GraphError(f"this network has no weight {tuple(key)}")
            raise self._strange(key.node)
        return weight

    def _source(self, key: Key) -> Tensor:
        """`tensor`, once it is seen that it has the shape that the graph says."""
        weight = self.tensor(key)
        if tuple(weight.shape) != self.graph.infer.slots[key.node][key.slot].shape:
            raise self._strange(key.node)
        return weight

    def _strange(self, node_id: int) -> UsageError:
        """The error about weights that are not those of the graph, because a module was replaced by hand."""
        for path, (unit, sign, block) in self._units.items():
            if node_id in unit.nodes and not is_generated(sign, block):
                return refuse(path, block, "the weights of that block are needed")
        label = self.graph.nodes[node_id].label
        return refuse(label, self._lowered[node_id], "its weights are not those that the graph describes")

    def find_tensor(self, key: Key) -> Tensor | None:
        """The parameter or buffer of a (node id, slot), or None."""
        module = self._lowered.get(key.node)
        if not isinstance(module, nn.Module):
            return None
        path, _, name = key.slot.rpartition(".")
        for part in path.split(".") if path else ():  # of a module of the user's that holds others
            inner = module._modules.get(part)
            if inner is None:
                return None
            module = inner
        parameter = module._parameters.get(name)
        return parameter if parameter is not None else module._buffers.get(name)

    def leaf(self, node_id: int) -> nn.Module | None:
        """The module of a node; None for nodes that are plain calls."""
        module = self._lowered[node_id]
        return module if isinstance(module, nn.Module) else None

    def tensors(self, hidden: bool = True) -> dict[str, Tensor]:
        """Every weight and buffer by its place, `label.slot`; if `hidden`, those that are in no `state_dict`, too."""
        own: dict[str, Tensor] = nn.Module.state_dict(self)
        slots = self.graph.infer.slots
        for name, key in self.keys().items() if hidden else ():
            if not slots[key.node][key.slot].stored:
                own[name] = self.tensor(key)
        return own

    def keys(self) -> dict[str, Key]:
        """(node id, slot) of the weight at each place; of one that several nodes share, those of its owner."""
        typing, nodes = self.graph.infer, self.graph.nodes
        owned = {f"{nodes[n].label}.{name}": Key(n, name) for n, slots in typing.slots.items() for name in slots}
        return owned | {
            f"{nodes[n].label}.{name}": owner
            for n, slots in typing.borrowed.items()
            for name, (owner, _) in slots.items()
        }


def tensors_of(model: nn.Module, hidden: bool = True) -> dict[str, Tensor]:
    """`LoweredParts.tensors` of a network; of any other module its `state_dict`."""
    return model.tensors(hidden) if isinstance(model, LoweredParts) else model.state_dict()


def is_generated(sign: Any, block: nn.Module) -> bool:
    """Whether a block is of the class that was generated for its signature, not one that a user put in its place."""
    return type(block) is CODE[sign].kind
