"""The networks that commands look at: of a spec, of a run directory, of a graph file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nasir.cli.opening import open_run, print_note
from nasir.errors import GraphError, UnknownName, UsageError

if TYPE_CHECKING:
    from nasir.ir import Graph
    from nasir.spec import Spec
    from nasir.training.modules import ImportedModule, Untyped

LARGEST_GRAPH = 2**26
"""Bytes of a graph file that is read."""
GRAPH_FILES = (".json", ".txt")


def is_spec(what: str) -> bool:
    """Whether it is the name of a spec, not of a run or a graph file."""
    return not Path(what).is_dir() and Path(what).suffix not in GRAPH_FILES


def loaded(path: str, overrides: Sequence[str], runs: bool = False) -> Spec:
    """A checked spec; stderr is told what the check notes."""
    from nasir.spec import load_spec

    spec = load_spec(Path(path), overrides)
    if not (runs and spec.plugins):  # a run imports its plugins and then checks every name for good
        for note in spec.notes:
            print_note(note)
    return spec


@dataclass(frozen=True, slots=True)
class Opened:
    """A network; by label what is known of nodes that no rule types; what it was imported from, if that is at hand."""

    graph: Graph
    untyped: Mapping[str, Untyped] = field(default_factory=dict)
    module: ImportedModule | None = None


def graph_of(what: str, overrides: Sequence[str] = (), importing: bool = False) -> Graph:
    """The network of a spec, of a run directory (its last one), or of a graph file in text or JSON form."""
    return opened(what, overrides, importing).graph


def opened(what: str, overrides: Sequence[str] = (), importing: bool = False) -> Opened:
    """`graph_of`, and what is known beside it.

    `importing`: run the code that made the network of a spec or a run; NotImported where a spec needs that otherwise.
    """
    path = Path(what)
    if is_spec(what):
        return of_spec(loaded(what, overrides), importing)
    if overrides:
        raise UsageError(
            f"{path}: --set changes a spec, and this is a {'run' if path.is_dir() else 'graph'}; leave it out"
        )
    return _of_run(path, importing) if path.is_dir() else Opened(_of_file(path))


def of_spec(spec: Spec, importing: bool, note: Callable[[str], None] | None = None) -> Opened:
    """The network of a loaded spec; `importing` as in `opened`."""
    from nasir.spec import import_plugins
    from nasir.spec.imported import imported, made_by_code
    from nasir.spec.network import build

    if not (importing and made_by_code(spec)):
        return Opened(build(spec, note))
    for plugin in import_plugins(spec):
        print_note(f"imported plugin {plugin.path} (sha256 {plugin.sha256[:12]})")
    module = imported(spec)
    return Opened(build(spec, note, module=module), {} if module is None else module.untyped, module)


def _of_run(path: Path, importing: bool) -> Opened:
    from nasir.ir import Graph
    from nasir.records import EndRecord, NetworkRecord, StartRecord
    from nasir.spec.imported import untyped_in

    directory = open_run(path)
    records = directory.effective()
    digests = [record.graph for record in records if isinstance(record, NetworkRecord | EndRecord)]
    if not digests:
        raise UsageError(f"{path}: the run has no network yet; wait for its first record")
    start = next((record for record in records if isinstance(record, StartRecord)), None)
    try:
        graph = Graph.from_json(directory.get_blob(digests[-1]))
    except UnknownName as error:
        plugins = ", ".join(directory.env().get("plugins", ())) or "a plugin that is not installed"
        raise UsageError(
            f"{path}: the network needs {plugins}, which is never imported just to look at a run: "
            f"{str(error).partition(':')[0]}; install the plugin as a package to look at it"
        ) from None
    module = None
    if importing:
        from nasir.running.modules import module_behind
        from nasir.running.replay import reopen

        module = module_behind(reopen(directory)[0], graph)
    return Opened(graph, untyped_in(None if start is None else start.imported), module)


def _of_file(path: Path) -> Graph:
    from nasir.files import json_value
    from nasir.ir import Graph, parse

    try:
        if path.stat().st_size > LARGEST_GRAPH:
            raise UsageError(f"{path}: not a graph, which has at most {LARGEST_GRAPH} bytes; name another file")
        text = path.read_text(encoding="utf-8")
        return parse(text) if path.suffix == ".txt" else Graph.from_json(json_value(text))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a spec, a run directory or a graph file") from None
    except (ValueError, GraphError) as error:
        raise UsageError(
            f"{path}: not a graph ({error}); write one with `nasir show --json` (.json) or `--text` (.txt)"
        ) from None
