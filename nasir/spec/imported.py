"""Networks that code makes as modules: found, as far as no code of theirs is run, and imported where that is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path as File
from typing import Any

from nasir.errors import DataError, NasirError, SpecError
from nasir.options import suggestion
from nasir.spec.beside import digest_of, digests_beside, importable_beside
from nasir.spec.model import Spec
from nasir.spec.model_source import ImportedNetwork, ModuleNetwork, is_file
from nasir.spec.plugins import load_file
from nasir.spec.problems import SpecProblems
from nasir.training.backend import make_backend
from nasir.training.modules import ImportedModule, ModuleSource, Untyped


class NotImported(SpecProblems):
    """The network is made by code, which nobody asked to run."""


def made_by_code(spec: Spec) -> bool:
    """Whether only code outside nasir can make the network: of torchvision, of timm, of the user."""
    network = spec.network
    return isinstance(network, ModuleNetwork) or (isinstance(network, ImportedNetwork) and not network.is_preset)


def code_name(spec: Spec) -> str:
    """What makes the network, for messages."""
    return str(_source(spec, None))


def imported(spec: Spec) -> ImportedModule | None:
    """Run the code that makes the network of a spec, and import what it gives; None where no other code makes it.

    Raises SpecError at the line of `network:` where that fails, where the environment forbids local code, and where
    the network is none that a run can train: one input and one output, a number for each class.
    """
    if not made_by_code(spec):
        return None
    backend = make_backend(spec.backend)
    if not hasattr(backend, "import_module"):
        text = f"the backend {spec.backend!r} imports no modules"
        raise spec.problem(("network",), text, "write the network as steps, or use `backend: torch`")
    network = spec.network
    try:
        if not isinstance(network, ModuleNetwork):
            module: ImportedModule = backend.import_module(_source(spec, None))
        elif network.file is None:
            module = backend.import_module(_source(spec, _function(spec, network, _installed(spec, network))))
        else:
            with importable_beside(File(network.file)) as changed:
                names = vars(load_file(spec, network.file, ("network", "module"), anew=changed))
                module = backend.import_module(_source(spec, _function(spec, network, names)))
    except SpecError:
        raise
    except NasirError as error:
        raise spec.problem(("network",), str(error)) from error
    _check_ends(spec, module)
    return module


def code_digests(network: ModuleNetwork) -> dict[str, str]:
    """SHA-256 by name of the Python file that makes a network and of those beside it, as far as they are imported."""
    home, _ = network.made_by
    made_in = network.file or getattr(sys.modules.get(home), "__file__", None)
    if made_in is None:
        return {}
    if network.file is None and "." not in home:  # beside it lie the modules of others
        return {File(made_in).name: digest_of(made_in)}
    return digests_beside(File(made_in))


def _source(spec: Spec, make: Callable[..., Any] | None) -> ModuleSource:
    network = spec.network
    assert isinstance(network, ImportedNetwork | ModuleNetwork)
    shape, args = spec.input.shape, network.args or {}
    if isinstance(network, ModuleNetwork):
        file, (home, function) = network.file, network.made_by
        name = f"{home if file is None else File(file).name}:{function}"
        return ModuleSource(name, shape, spec.seed, args=args, weights=network.weights, make=make)
    return ModuleSource(network.model, shape, spec.seed, network.source, args, network.classes, network.weights)


def _installed(spec: Spec, network: ModuleNetwork) -> dict[str, Any]:
    home, _ = network.made_by
    try:
        return vars(import_module(home))
    except Exception as error:  # code of others; ImportError among them
        text = f"{home} cannot be imported: {type(error).__name__}: {error}"
        remedy = "install it, put it on PYTHONPATH, or name its file: path/to/file.py:function"
        raise spec.problem(("network", "module"), text, remedy) from error


def _function(spec: Spec, network: ModuleNetwork, names: Mapping[str, Any]) -> Callable[..., Any]:
    home, function = network.made_by
    made = names.get(function)
    if not callable(made):
        known = [name for name, value in names.items() if callable(value) and not name.startswith("_")]
        raise spec.problem(("network", "module"), f"{home} has no function {function!r}", suggestion(function, known))
    return made  # type: ignore[no-any-return]


def _check_ends(spec: Spec, module: ImportedModule) -> None:
    graph = module.graph
    if len(graph.answers) != 1:
        text = f"{module.source} gives {len(graph.answers)} tensors, and training needs one number a class"
        remedy = "let it return the logits alone, as torchvision's GoogLeNet and Inception do by `aux_logits: false`"
        raise spec.problem(("network",), text, f"{remedy} in `args:`")
    shape = graph.infer.types[graph.answers[0]].shape
    if len(shape) != 1:
        text = f"{module.source} gives {list(shape)} for each sample, not one number a class"
        raise spec.problem(("network",), text, "let it end with a pooling and a linear layer")


def facts_of(spec: Spec, module: ImportedModule) -> Mapping[str, Any]:
    """What the journal says of a module that a network was imported from."""
    network = spec.network
    return {
        "module": str(module.source),
        "versions": dict(module.versions),
        "code": code_digests(network) if isinstance(network, ModuleNetwork) else {},
        "weights": weights_of(module),
        "untyped": {label: [kept.runs, kept.place] for label, kept in module.untyped.items()},
    }


def weights_of(module: ImportedModule) -> str | None:
    """The stored weights of a module: the name of published ones, or the SHA-256 of a file. Raises DataError."""
    weights = module.source.weights
    try:
        return digest_of(weights) if weights is not None and is_file(weights) else weights
    except OSError as error:
        raise DataError(f"network: weights: {weights} cannot be read ({error.strerror}); restore it") from error


def untyped_in(facts: Mapping[str, Any] | None) -> dict[str, Untyped]:
    """By label, what runs as it is, from the `facts_of` a network that a journal has."""
    told = (facts or {}).get("untyped") or {}
    return {label: Untyped(str(runs), str(place)) for label, (runs, place) in told.items()}
