"""The networks that runs begin with, and the modules that they were imported from: no run stores one of these, so its
code makes it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nasir.counted import counted
from nasir.errors import RunError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.records import StartRecord
from nasir.running.replay import reopen
from nasir.spec import Spec, import_plugins
from nasir.spec.imported import code_digests, imported, made_by_code, weights_of
from nasir.spec.inherit import Inherited, inherited
from nasir.spec.model_source import ModuleNetwork, RunNetwork
from nasir.spec.network import build
from nasir.training.modules import ImportedModule


@dataclass(frozen=True, slots=True)
class Beginning:
    """The network that a spec begins with, what it was imported from, and the run that it comes from, if any."""

    graph: Graph
    module: ImportedModule | None
    source: Inherited | None


def beginning(spec: Spec, notice: Callable[[str], None]) -> Beginning:
    """Import the plugins of a spec and make its network, by the code that makes it; `notice` hears which code is run.

    Raises SpecError.
    """
    for plugin in import_plugins(spec):
        notice(f"imported plugin {plugin.path} (sha256 {plugin.sha256[:12]})")
    source = inherited(spec) if isinstance(spec.network, RunNetwork) else None
    module = imported(spec) if source is None else module_behind(spec, source.graph)
    for text in told(module, spec.network) if module is not None else ():
        notice(text)
    return Beginning(build(spec, module=module) if source is None else source.graph, module, source)


def module_behind(spec: Spec, graph: Graph) -> ImportedModule | None:
    """What the network `graph` of a spec needs to run: the module that it, or a run before it, was imported from.

    None for a network that nasir can compute by itself. Raises SpecError where the code has changed since, or fails.
    """
    if isinstance(spec.network, RunNetwork) and any(node.facts.foreign for node in graph.nodes.values()):
        return module_behind(reopen(RunDirectory.open(spec.network.run))[0], graph)
    return imported(spec)


def module_again(spec: Spec, start: StartRecord, graph: Graph, notice: Callable[[str], None]) -> ImportedModule | None:
    """`module_behind` of a run that began with the network `graph`.

    Raises RunError where the code gives another network by now; `notice` hears of other versions of packages.
    """
    module = module_behind(spec, graph)
    if module is None or not made_by_code(spec):
        return module
    before = start.imported or {}
    now = code_digests(spec.network) if isinstance(spec.network, ModuleNetwork) else {}
    changed = [name for name, digest in now.items() if _of(before, "code").get(name, digest) != digest]
    if changed or module.graph != graph:
        what = f"{', '.join(changed)} changed" if changed else "it gives another network than it did"
        place = spec.locate(("network",))
        raise RunError(f"{place}: {module.source}: {what} since the run began; restore it, or start a new run")
    for name, version in module.versions.items():
        known = _of(before, "versions").get(name, version)
        if known != version and name not in OTHERWISE_TOLD:
            notice(f"resuming will not be bit-exact: {name} was {known!r}, is {version!r}")
    return module


def check_weights(module: ImportedModule | None, start: StartRecord) -> None:
    """Raise RunError where the file of weights that a run began with, and begins with again, has changed since."""
    known, now = (start.imported or {}).get("weights"), None if module is None else weights_of(module)
    if now != known and start.imported is not None and module is not None:
        raise RunError(f"{module.source.weights}: changed since the run began; restore it, or start a new run")


def told(module: ImportedModule, network: Any) -> Iterator[str]:
    """Remarks on what a run imports."""
    for name, digest in (code_digests(network) if isinstance(network, ModuleNetwork) else {}).items():
        yield f"imported {name} (sha256 {digest[:12]})"
    if module.untyped:
        calls = counted(len(module.untyped), "call")
        yield f"{module.source}: {calls} without a rule, whose sizes stay as they are; `nasir show` tells of them"


OTHERWISE_TOLD = ("torch",)
"""Packages whose versions a session describes."""


def _of(facts: Any, key: str) -> dict[str, str]:
    return dict(facts.get(key) or {})
