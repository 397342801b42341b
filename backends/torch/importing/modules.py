"""Networks of specs that code makes as modules: made from their source, imported, and put into models of runs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module as imported_package
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.foreign import OpaqueCall
from nasir.backends.torch.importing.model import held, recorded_and_lifted
from nasir.backends.torch.importing.names import class_name
from nasir.backends.torch.importing.operands import tensors_in
from nasir.backends.torch.lower.module import LoweredModule, zeros_of
from nasir.errors import NasirError, UsageError
from nasir.importing.data import call_from_json
from nasir.importing.lift import Lifted
from nasir.importing.recording import Recording
from nasir.ir import Graph
from nasir.options import suggestion
from nasir.training.modules import ImportedModule, ModuleSource, Untyped

SAMPLES = 2  # of the example
TOLERANCE, TINY = 1e-3, 1e-6  # of differences by rounding, beside the largest number


@dataclass(frozen=True, slots=True)
class _State:
    """What the torch backend keeps of an imported module."""

    module: nn.Module
    recording: Recording
    lifted: Lifted


def import_module(source: ModuleSource) -> ImportedModule:
    """Make a module and import it, on the CPU; its weights are those that its code draws by the seed.

    Raises UsageError where it cannot be made, or holds what a run would change unasked; NasirError where it cannot be
    imported (see `record`).
    """
    with _seeded(source.seed):
        module = _made(source)
        example = torch.randn(SAMPLES, *source.shape)
    _check(module, source)
    recording, lifted = recorded_and_lifted(module, (example,), {})
    nodes = lifted.graph.nodes
    untyped = {nodes[node].label: Untyped(call.operation, call.within) for node, call in lifted.opaque.items()}
    versions = {name: version(name) for name in ("torch", *([source.library] if source.library else []))}
    imported = ImportedModule(source, lifted.graph, untyped, versions, _State(module, recording, lifted))
    _compare(imported, example)
    return imported


def module_of(imported: ImportedModule) -> nn.Module:
    """The module itself, which no session changes but by loading its stored weights."""
    return _state(imported).module


def modules_kept(graph: Graph, imported: ImportedModule, device: torch.device) -> dict[int, nn.Module]:
    """Copies of the leaf modules that run as they are, for the nodes of a network that came of the imported one."""
    kept: dict[int, nn.Module] = {}
    types = graph.infer.types
    for node_id, node in graph.nodes.items():
        if node.facts.family != "opaque" or not node.attrs["live"]:
            continue
        call = call_from_json(node.attrs["call"])
        assert call.module is not None
        leaf = deepcopy(module_of(imported).get_submodule(call.module)).to(device)
        kept[node_id] = OpaqueCall(node.attrs, tuple([types[port] for port in node.inputs]), leaf)
    return kept


def take_weights(model: LoweredModule, imported: ImportedModule) -> None:
    """Give a model of the imported network the weights, statistics and constants of the module."""
    state = _state(imported)
    with torch.no_grad():
        for key, tensor in held(state.lifted, state.recording, state.module).items():
            model.tensor(key).copy_(tensor)


def _state(imported: ImportedModule) -> _State:
    assert isinstance(imported.state, _State)  # of this backend
    return imported.state


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Generators of torch, numpy and Python that begin with a seed, and go on afterwards as if nothing had been."""
    kept_python, kept_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(kept_python)
        np.random.set_state(kept_numpy)


# -- making


def _made(source: ModuleSource) -> nn.Module:
    try:
        made = source.make(**source.args) if source.make is not None else _of_library(source)
    except NasirError:
        raise
    except Exception as error:  # the code of others
        raise UsageError(
            f"{source} cannot be made: {type(error).__name__}: {error}; see its `args`, and whether its code works "
            "without nasir"
        ) from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{source} gives a {type(made).__name__}, not an nn.Module; name a function that makes one")
    return made


def _of_library(source: ModuleSource) -> nn.Module:
    library = package(source.library or "")
    args: dict[str, Any] = dict(source.args)
    if source.classes is not None:
        args = {"num_classes": source.classes, **args}
    if source.library == "timm":
        if not library.is_model(source.model):
            raise UsageError(
                f"unknown model {source.model!r} of timm; {suggestion(source.model, library.list_models())}"
            )
        return library.create_model(source.model, pretrained=False, **args)  # type: ignore[no-any-return]
    known = library.models.list_models(module=library.models)
    if source.model not in known:
        raise UsageError(f"unknown model {source.model!r} of torchvision; {suggestion(source.model, known)}")
    return library.models.get_model(source.model, weights=None, **args)  # type: ignore[no-any-return]


def package(name: str) -> Any:
    """A package that nasir does not need itself; raises UsageError where it is not installed."""
    try:
        return imported_package(name)
    except ImportError as error:
        raise UsageError(f"{name} cannot be imported ({error}); install it: `pip install {name}`") from error


def _compare(imported: ImportedModule, example: Tensor) -> None:
    """Refuse a network that computes something else than the module, as one does where a rule is wrong."""
    source, module, graph = imported.source, module_of(imported), imported.graph
    if len(graph.answers) != 1:
        return  # no run takes it
    cpu = torch.device("cpu")
    model = LoweredModule.from_graph(graph, plan=zeros_of(graph), given=modules_kept(graph, imported, cpu))
    take_weights(model, imported)
    was_training = module.training
    with torch.no_grad(), _seeded(source.seed):
        wanted, given = next(iter(tensors_in(module.eval()(example)))), model.eval()(example)
    module.train(was_training)
    most, least = float((given - wanted).abs().max()), TOLERANCE * float(wanted.abs().max()) + TINY
    if not most <= least and bool(wanted.isfinite().all()):
        raise NasirError(
            f"{source}: the network gives numbers that differ from the module's by {most:.3g}; a rule that types one "
            "of its calls is wrong (`nasir.importing.rule`)"
        )


def _check(module: nn.Module, source: ModuleSource) -> None:
    """Refuse what a run would change unasked: numbers of another precision, weights that are held."""
    tensors: Mapping[str, Tensor] = dict(module.named_parameters())
    odd = [name for name, tensor in tensors.items() if tensor.dtype != torch.float32]
    if odd:
        raise UsageError(
            f"{source}: {odd[0]} is {tensors[odd[0]].dtype}, and a run keeps weights as float32; make it with float(), "
            "and choose how it computes by `precision:`"
        )
    frozen = [name for name, tensor in tensors.items() if not tensor.requires_grad]
    if frozen:
        raise UsageError(
            f"{source}: {frozen[0]} has requires_grad False, and what is not trained is for the spec to say; let all "
            "weights require gradients, and write `freeze:` into a phase"
        )
    moved = [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]
    if moved:
        raise UsageError(f"{source}: {moved[0]} is on {tensors[moved[0]].device}; make it on the CPU, a run moves it")
    if not tensors:
        raise UsageError(f"{source}: {class_name(type(module))} has no parameters, so there is nothing to train")
