"""The user's own module back, with the tensors of the model that was made of it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nasir.backends.torch.importing.names import class_name
from nasir.backends.torch.importing.recording import Caller
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.nested import tensors_in, with_tensors
from nasir.errors import UsageError
from nasir.ir import JSON, Graph, Node
from nasir.ir.canon import quoted
from nasir.transfer import Key

CLOSE = 1e-4
"""How far outputs may differ, relative to the largest of them: other sizes are summed up in another order."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    `module`: the user's own, as long as it is there; `skeleton`: a copy of it whose tensors have no numbers; `graph`:
    the network as it was imported; `state`: keys of the user's `state_dict` by weight; `rest`: tensors of the module
    that no call uses; `example`: arguments (args, kwargs) of two samples; `call`: how it is called, if not plainly.
    """

    module: weakref.ref[nn.Module] | None
    skeleton: nn.Module
    graph: Graph
    state: Mapping[Key, tuple[str, ...]]
    rest: Mapping[str, Tensor]
    example: tuple[tuple[Any, ...], Mapping[str, Any]]
    call: Caller | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        """For a copy of the model, which is not the user's own module."""
        rest = copy.deepcopy(dict(self.rest), memo)
        return Origin(None, self.skeleton, self.graph, self.state, rest, self.example, self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return _not_here, ()  # the code of the module may not be there where it is read

    def module_of(self, model: LoweredModule) -> nn.Module:
        """The module with the tensors of `model`; UsageError where it cannot compute what the model does."""
        told = differences(self.graph, model.graph)
        if told:
            raise UsageError(
                f"to_module: the architecture is no longer that of {class_name(type(self.skeleton))}: "
                f"{'; '.join(told)}; keep the model itself, or its graph and state_dict"
            )
        tensors = {key: model._source(key) for key in self.state}
        known = dict(self.skeleton.named_parameters()) | dict(self.skeleton.named_buffers())
        resized = [key for key, tensor in tensors.items() if known[self.state[key][0]].shape != tensor.shape]
        own = None if self.module is None or resized else self.module()
        made = self._anew() if own is None else own
        for key, tensor in tensors.items():
            for name in self.state[key]:
                _put(made, name, tensor)
        for key in resized:
            place = made.get_submodule(self.state[key][0].rpartition(".")[0])
            _resize(place, model.graph.nodes[key.node].attrs)
        self._set_modes(made, model)
        if resized:
            self._check(made, model)
        return made

    def _anew(self) -> nn.Module:
        made = copy.deepcopy(self.skeleton)
        for name, tensor in self.rest.items():
            _put(made, name, tensor)
        return made

    def _set_modes(self, made: nn.Module, model: LoweredModule) -> None:
        """Train or eval as the model is, and what it holds in eval mode."""
        made.train(model.training)
        for key, names in self.state.items():
            leaf = model.leaf(key.node)
            if leaf is not None:
                made.get_submodule(names[0].rpartition(".")[0]).training &= leaf.training

    def _check(self, made: nn.Module, model: LoweredModule) -> None:
        """UsageError where the module with other sizes does not compute what the model does, in either mode."""
        args, kwargs = with_tensors(self.example, _like(model))
        run = self.call or (lambda module, *given, **named: module(*given, **named))
        names = [self.graph.nodes[key.node].label for key in self.state]
        why = f"sizes in it do not follow from its tensors (the code of one of {quoted(names)} may hold them)"
        for training in (False, True):
            outputs = []
            for network, way in ((model, model.__class__.__call__), (made, run)):
                twin = copy.deepcopy(network).train(training)
                try:
                    with torch.no_grad(), torch.random.fork_rng():
                        torch.manual_seed(0)
                        outputs.append(list(tensors_in(way(twin, *copy.deepcopy(args), **copy.deepcopy(dict(kwargs))))))
                except Exception as error:  # the code of others
                    raise UsageError(
                        f"to_module: {class_name(type(made))} does not run with the new sizes ({type(error).__name__}: "
                        f"{error}): {why}; keep the model itself"
                    ) from error
            if not _alike(*outputs):
                raise UsageError(
                    f"to_module: with the new sizes {class_name(type(made))} does not compute what the model does: "
                    f"{why}; keep the model itself"
                )


def differences(before: Graph, after: Graph) -> list[str]:
    """What of a network is no longer as it was, sizes aside: short sentences, none where nothing is."""
    gone = [node.label for node_id, node in before.nodes.items() if node_id not in after.nodes]
    new = [node.label for node_id, node in after.nodes.items() if node_id not in before.nodes]
    changed = [
        node.label
        for node_id, node in before.nodes.items()
        if node_id in after.nodes and not _same_but_sizes(before, node_id, node, after.nodes[node_id])
    ]
    told = [f"{verb} {quoted(labels)}" for verb, labels in (("without", gone), ("with", new)) if labels]
    told += [f"changed {quoted(changed)}"] if changed and not told else []
    if not told and (before.outputs != after.outputs or before.ties != after.ties):
        told.append("other outputs or shared weights")
    return told


def _same_but_sizes(graph: Graph, node_id: int, one: Node, other: Node) -> bool:
    if (one.op, one.inputs) != (other.op, other.inputs):
        return False
    sizes = {name for name, _ in graph.infer.mirrors.get(node_id, {})}
    return all(other.attrs.get(name) == value for name, value in one.attrs.items() if name not in sizes)


def _put(module: nn.Module, key: str, tensor: Tensor) -> None:
    path, _, name = key.rpartition(".")
    place = module.get_submodule(path)
    held: dict[str, Any] = place._parameters if name in place._parameters else place._buffers
    held[name] = tensor


def _resize(layer: nn.Module, attrs: Mapping[str, JSON]) -> None:
    """Let the sizes that a layer of torch.nn notes be those of its tensors; `attrs`: of its node."""
    for kind, note in SIZES.items():
        if isinstance(layer, kind):
            note(layer, attrs)


def _convolution(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.groups = attrs.get("groups", layer.groups)
    first, second = layer.weight.shape[:2]
    if layer.transposed:
        layer.in_channels, layer.out_channels = first, second * layer.groups
    else:
        layer.in_channels, layer.out_channels = second * layer.groups, first


def _linear(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _batch_norm(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.num_features = len(next(t for t in (layer.weight, layer.running_mean) if t is not None))


def _layer_norm(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.normalized_shape = tuple(layer.weight.shape)


def _group_norm(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.num_channels, layer.num_groups = len(layer.weight), attrs.get("groups", layer.num_groups)


def _embedding(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _prelu(layer: Any, attrs: Mapping[str, JSON]) -> None:
    layer.num_parameters = len(layer.weight)


SIZES: Mapping[type[nn.Module], Callable[[Any, Mapping[str, JSON]], None]] = {
    _ConvNd: _convolution,
    nn.Linear: _linear,
    _NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.PReLU: _prelu,
}


def _like(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function that brings a tensor of the example to where the model is, and to its precision."""
    parameter = next(model.parameters(), None)

    def moved(tensor: Tensor) -> Tensor:
        if parameter is None:
            return tensor
        return tensor.to(parameter.device, parameter.dtype if tensor.is_floating_point() else tensor.dtype)

    return moved


def _alike(ones: list[Tensor], others: list[Tensor]) -> bool:
    if [t.shape for t in ones] != [t.shape for t in others]:
        return False
    for one, other in zip(ones, others, strict=True):
        if not one.is_floating_point():
            continue  # what follows from floating-point numbers may turn over
        bound = CLOSE * float(one.abs().max()) if one.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=bound, equal_nan=True):
            return False
    return True


def _not_here() -> None:
    return None
