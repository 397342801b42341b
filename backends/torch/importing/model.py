"""`from_module`: any PyTorch module as a `Model`, which passes rewrite while the user's optimizer goes on."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.copies import fresh_copy, of_batch, samples_of
from nasir.backends.torch.importing.counting import counter
from nasir.backends.torch.importing.foreign import ALLOWED, OpaqueCall
from nasir.backends.torch.importing.names import named
from nasir.backends.torch.importing.origin import Origin
from nasir.backends.torch.importing.recording import Caller, record, record_structure
from nasir.backends.torch.lower.build import build
from nasir.backends.torch.lower.interface import Calling
from nasir.backends.torch.model import Model
from nasir.backends.torch.nested import tensors_in, with_tensors
from nasir.errors import NasirError
from nasir.importing.lift import Lifted, lift
from nasir.importing.recording import Recording
from nasir.importing.trees import names_in
from nasir.ir import Graph
from nasir.transfer import Key


def from_module(
    module: nn.Module,
    *example: Any,
    call: Caller | None = None,
    leaves: Collection[type[nn.Module]] = (),
    **named: Any,
) -> Model:
    """The module as a `Model` with the same parameters: an optimizer over `module.parameters()` goes on with it.

    `example`, `named`: arguments that it is called with, tensors with two or more samples; sizes other than the batch
    are fixed from then on. What nasir has no rule for runs as it is, and whatever it touches cannot be resized; `show`
    tells which. Raises NasirError for a module that is no data flow (see `record`).
    """
    recording, lifted = recorded_and_lifted(module, example, named, call=call, leaves=leaves)
    model = Model()
    model.training = module.training
    model.over = frozenset(lifted.over)
    model.calling = Calling(lifted.interface, {name: _class(name) for name in lifted.interface.kinds})
    tensors = {key: tensor for key, tensor in held(lifted, recording, module).items() if key.node not in lifted.modules}
    build(model, lifted.graph, tensors, None, _leaves(lifted, module))
    model.origin = origin(lifted, recording, module, (example, named), call)
    model.hold()
    return model


def origin(
    lifted: Lifted,
    recording: Recording,
    module: nn.Module,
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
    call: Caller | None,
) -> Origin:
    """What `Model.to_module` takes to give the module back."""
    names = {entry.key: (entry.key, *entry.aliases) for entry in recording.state}
    state = {key: names[name] for key, name in lifted.state.items()}
    held = {name for given in state.values() for name in given}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    rest = {name: tensor for name, tensor in tensors.items() if name not in held}
    samples = samples_of(list(tensors_in(example)))
    few = with_tensors(example, lambda tensor: of_batch(tensor, samples, 2))
    skeleton = fresh_copy(module, module.training, meta=True)
    return Origin(weakref.ref(module), skeleton, lifted.graph, state, rest, few, call)


def recorded_and_lifted(
    module: nn.Module,
    example: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    call: Caller | None = None,
    leaves: Collection[type[nn.Module]] = (),
) -> tuple[Recording, Lifted]:
    """What a module computes, and its graph; the functions that it calls can be called by networks from then on."""
    recording = record(module, example, named, call=call, leaves=leaves)
    lifted = lift(recording, counter(recording, module), positional(module, call), frozenset(dir(Model())))
    for opaque in lifted.opaque.values():
        ALLOWED.update((opaque.operation, *names_in((opaque.args, dict(opaque.kwargs)))))
    return recording, lifted


def graph_of(
    module: nn.Module,
    *example: Any,
    call: Caller | None = None,
    leaves: Collection[type[nn.Module]] = (),
    **named: Any,
) -> Graph:
    """The graph that `from_module` makes of a module, without its weights: nothing is computed, whatever its size.

    The module may be on the meta device. Raises NasirError for one that does not run there, as well as for what is no
    data flow.
    """
    recording = record_structure(module, example, named, call=call, leaves=leaves)
    return lift(recording, counter(recording, module), taken=frozenset(dir(Model()))).graph


def positional(module: nn.Module, call: Caller | None) -> tuple[str, ...]:
    """Names of the parameters of a module that may be passed by position, in order."""
    if call is None:
        parameters = list(inspect.signature(module.forward).parameters.values())
    else:
        parameters = list(inspect.signature(call).parameters.values())[1:]  # the module itself is the first
    return tuple([p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD])


def _class(name: str) -> type:
    """The class of an object that the module takes or returns; NasirError where it cannot be found by its name."""
    try:
        found: Any = named(name)
    except NasirError:
        raise NasirError(
            f"the module takes or returns a {name}, which cannot be found by that name; define the class at the top "
            "level of a module that can be imported"
        ) from None
    return found  # type: ignore[no-any-return]


def _leaves(lifted: Lifted, module: nn.Module) -> dict[int, nn.Module]:
    """The modules of the nodes that are leaves of the user's module."""
    graph, types = lifted.graph, lifted.graph.infer.types
    leaves: dict[int, nn.Module] = {}
    for node, path in lifted.modules.items():
        leaf = module.get_submodule(path)
        if node in lifted.opaque:
            inputs = tuple([types[port] for port in graph.nodes[node].inputs])
            leaf = OpaqueCall(graph.nodes[node].attrs, inputs, leaf)
        leaves[node] = leaf
    return leaves


def held(lifted: Lifted, recording: Recording, module: nn.Module) -> dict[Key, Tensor]:
    """The weights of all nodes: the user's own tensors, and constants."""
    own = module.state_dict(keep_vars=True)
    home = next(iter(own.values())).device if own else torch.device("cpu")
    tensors: dict[Key, Tensor] = {}
    for key, number in lifted.constants.items():
        dtype = getattr(torch, recording.values[number].dtype)
        tensors[key] = torch.tensor(recording.constants[number], dtype=dtype, device=home)
    for key, name in lifted.state.items():
        path, _, last = name.rpartition(".")
        tensors[key] = getattr(module.get_submodule(path), last)
    return tensors
