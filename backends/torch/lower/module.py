"""`LoweredModule`: a graph as an ordinary `nn.Module` that holds its tensors, freezes them and survives rewrites.

`state_dict` keys are node labels plus slot names, unless the graph names weights otherwise (see `lower.naming`). A
rewrite allocates only what is new or reshaped: every other parameter is the same tensor object before and after, and
blocks that did not change are the same modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.device.names import device_named
from nasir.backends.torch.lower import attached
from nasir.backends.torch.lower.build import build, foreign_nodes
from nasir.backends.torch.lower.interface import Calling
from nasir.backends.torch.lower.parts import LOWERED, LoweredParts
from nasir.blocks import block_starts
from nasir.errors import GraphError
from nasir.ir import Fill, Graph
from nasir.ir.infer import collector_paused
from nasir.rewriting.rewrite import Rewrite
from nasir.transfer import Key, TransferPlan, execute


def zeros_of(graph: Graph) -> TransferPlan:
    """A plan for a network whose weights are about to be overwritten."""
    return TransferPlan({Key(node, slot): Fill("zeros") for node, slots in graph.infer.slots.items() for slot in slots})


class LoweredModule(LoweredParts):
    """A network lowered from `graph`, with all that training, measuring and storing need of it.

    What users make and rewrite is a `Model`, which is one with `observe` and `apply`.
    """

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
        given: Mapping[int, nn.Module] = MappingProxyType({}),
        calling: Calling | None = None,
    ) -> Self:
        """A freshly initialized model. `plan` overrides the ops' own initializers, and those of blocks that have some;
        `seed` keys every random fill.

        `given`: by node, modules with weights of their own, for nodes that only they can compute; `calling`: how it is
        called and what it returns, if not simply the inputs and outputs of the graph.
        """
        if plan is None:
            own = block_starts(graph)
            plan = TransferPlan(
                {
                    Key(n, name): own.get(Key(n, name), slot.init)
                    for n, slots in graph.infer.slots.items()
                    for name, slot in slots.items()
                }
            )
        arrays = TorchArrays(device_named(device), dtype, channels_last)
        fresh = execute(plan, graph, _nothing_to_fetch, arrays, seed=seed, ordinal=0)
        model = cls()
        model.seed, model.channels_last, model.calling = seed, channels_last, calling
        build(model, graph, fresh, None, given)
        model.hold()
        return model

    def _adopt(self) -> attached.Changes:
        """Take modules that were put into this model by hand for those of their layers and blocks."""
        changed = attached.changes(self)
        for node_id, module in changed.leaves.items():
            was = self._lowered[node_id]
            if was is not module and isinstance(was, nn.Module):
                self._was_replaced(was, module, self.graph.nodes[node_id].label)
            self._lowered[node_id] = module
        for path, block in changed.blocks.items():
            unit, sign, former = self._units[path]
            self._was_replaced(former, block, path)
            self._units[path] = (unit, sign, block)
            self._places[path] = {}
        if changed.blocks:
            self._foreign = foreign_nodes(self)
        return changed

    def _was_replaced(self, was: nn.Module, now: nn.Module, path: str) -> None:
        """Called for each module `was` that is found replaced by hand; who has to tell others of it overrides this."""

    def use_channels_last(self) -> None:
        """Keep convolution weights in channels-last memory from now on, through rewrites too."""
        self.channels_last = True
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    # -- rewriting

    def rewritten(self, rewrite: Rewrite) -> Self:
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
            model = type(self)()
            model.seed, model.ordinal, model.channels_last = self.seed, self.ordinal + 1, self.channels_last
            model.training, model.calling, model.over = self.training, self.calling, self.over
            build(model, rewrite.graph, fresh, self)
            attached.carry(self, model, added)
        return model

    def become(self, other: LoweredModule) -> None:
        """Take the place of `other` (from `rewritten`), keeping this object's identity and hooks."""
        self._modules = other._modules
        for name in ("ordinal", *LOWERED):
            self.__dict__[name] = other.__dict__[name]
        self.hold(self._prefixes)

    # -- copying

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
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

    # -- freezing

    def hold(self, prefixes: Iterable[str] = ()) -> None:
        """Freeze what lies below the graph's frozen labels or `prefixes`, and release what was frozen so far besides.

        Frozen parameters have requires_grad False; frozen modules (norms, dropout) stay in eval mode in training. What
        a user froze by hand is left as it is, unless it was among these.
        """
        self._prefixes = tuple(prefixes)
        wanted = frozenset([node_id for node_id in self.graph.nodes if self._holds(node_id)])
        for node_id in (*(self._held - wanted), *wanted):  # what is frozen last stays so where nodes share weights
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

    def _holds(self, node_id: int) -> bool:
        return self.graph.is_frozen(node_id) or self.graph.below(node_id, self._prefixes)

    @property
    def held_prefixes(self) -> tuple[str, ...]:
        """The prefixes that `hold` was given last."""
        return self._prefixes

    def is_held(self, node_id: int) -> bool:
        """Whether a node is frozen now, by the graph or by the prefixes given to `hold`."""
        return node_id in self._held

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but what is frozen stays in eval mode."""
        super().train(mode)
        for node_id in self._held:
            module = self._lowered.get(node_id)
            if isinstance(module, nn.Module):
                module.train(False)
        return self


def _nothing_to_fetch(key: Key) -> Tensor:
    raise GraphError(f"the first network takes nothing from another one, but its plan reads {tuple(key)}")
