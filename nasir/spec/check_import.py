"""What can be told of a network that code makes without running any of it: names, files, functions, arguments."""

from __future__ import annotations

import ast
from pathlib import Path as File

from nasir.files import read_bounded
from nasir.options import Path, suggestion
from nasir.spec import presets
from nasir.spec.check import Findings
from nasir.spec.libraries import is_installed, models_of
from nasir.spec.model import Spec
from nasir.spec.model_source import ImportedNetwork, ModuleNetwork, RunNetwork
from nasir.spec.plugins import MAX_BYTES


def check_import(spec: Spec, findings: Findings) -> None:
    """Checks of a network that is not written as steps."""
    network = spec.network
    if isinstance(network, tuple | RunNetwork):
        return
    if isinstance(network, ImportedNetwork) and network.is_preset:
        return
    if spec.init != "default":
        remedy = "remove `init`, or let its code initialize it otherwise"
        findings.add(("init",), "a network that is imported has the initial weights that its own code gives it", remedy)
    if isinstance(network, ModuleNetwork):
        _check_function(network, findings)
    else:
        _check_model(network, findings)


def _check_model(network: ImportedNetwork, findings: Findings) -> None:
    library = network.source
    if not is_installed(library):
        findings.add(("network", "from"), f"{library} is not installed", f"install it: `pip install {library}`")
        return
    name = network.model.partition(".")[0]  # the tag of published weights, which timm takes with it
    known = models_of(library)
    if known and name not in known and ":" not in name:  # timm takes addresses, too
        own = presets.names() if library == "torchvision" and network.args is None else ()
        text = f"unknown model {network.model!r} of {library}"
        findings.add(("network", "model"), text, suggestion(name, [*own, *known]))


def _check_function(network: ModuleNetwork, findings: Findings) -> None:
    """The file and what it defines, where it is a file; installed modules are left to a run."""
    path: Path = ("network", "module")
    if network.file is None:
        return
    function = network.made_by[1]
    try:
        tree = ast.parse(read_bounded(File(network.file), MAX_BYTES), network.file)
    except OSError as error:
        findings.add(path, f"{network.file} cannot be read ({error.strerror})", "paths are relative to the spec")
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        findings.add(path, f"{network.file} is no Python ({error})", "mend the file")
        return
    defined = _defined(tree)
    if function not in defined and "*" not in defined:
        known = [name for name, node in defined.items() if node is not None] or list(defined)
        findings.add(path, f"{network.file} has no function {function!r}", suggestion(function, known))
        return
    made = defined.get(function)
    if isinstance(made, ast.FunctionDef) and not made.decorator_list:
        _check_arguments(made, network, findings)


def _defined(tree: ast.Module) -> dict[str, ast.AST | None]:
    """Names that a file may have: functions and classes with their definitions; "*" where it takes over all of some."""
    names: dict[str, ast.AST | None] = {}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                if node in tree.body:
                    names[name] = node
                else:
                    names.setdefault(name, None)
            case ast.Import(names=taken) | ast.ImportFrom(names=taken):
                names.update({alias.asname or alias.name: None for alias in taken})
            case ast.Name(id=name, ctx=ast.Store()):
                names.setdefault(name, None)
    return names


def _check_arguments(made: ast.FunctionDef, network: ModuleNetwork, findings: Findings) -> None:
    a, given = made.args, network.args or {}
    known = [argument.arg for argument in (*a.args, *a.kwonlyargs)]
    odd = [name for name in given if name not in known] if a.kwarg is None else []
    for name in odd:
        findings.add_key(("network", "args", name), f"{made.name} takes no {name!r}", suggestion(name, known))
    positional = [argument.arg for argument in (*a.posonlyargs, *a.args)]
    needed = positional[: len(positional) - len(a.defaults)]
    needed += [argument.arg for argument, default in zip(a.kwonlyargs, a.kw_defaults, strict=True) if default is None]
    missing = [name for name in needed if name not in given]
    if missing and not odd:  # one of them may be it
        remedy = f"write `args: {{{missing[0]}: ...}}`"
        at: Path = ("network",) if network.args is None else ("network", "args")
        findings.add(at, f"{made.name} needs {missing[0]!r}", remedy)
