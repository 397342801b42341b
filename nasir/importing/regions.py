"""Blocks and stages of an imported network: from the modules that its calls lay in, else from where its paths part and
meet again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from nasir.errors import GraphError
from nasir.importing.chains import joined_step_by_step
from nasir.importing.meeting import joins, meeting_places
from nasir.importing.recording import Recording
from nasir.ir import Draft, Graph, Port, Region
from nasir.ir.regions import borders, boundary, covers, owners, paths_above
from nasir.ir.types import Border

CONTAINERS = "torch.nn.modules.container."
"""Where the classes are that only hold other modules."""


def declare(draft: Draft, recording: Recording, place: Callable[[str], str]) -> None:
    """Declare the blocks and stages of a lifted recording; `place`: where a module lies in the labels, by its path.

    Blocks are the modules that begin and end at one value and join values themselves, others of their classes, and what
    stands in their place. A repeated module is a block rather than one within it, such as the attention of a layer.
    Where there are none, blocks are the parts in which paths leave a value and meet again; where nothing does, modules
    of a class that follow one another over one shape. A stage is a module that holds nothing but blocks, or a run of
    blocks, one behind the other, whose outputs have one shape.
    """
    held = {scope.path: scope.kind for call in recording.calls for scope in call.scope if scope.path != call.module}
    kinds = {place(path): kind for path, kind in held.items()}
    graph = joined_step_by_step(draft, kinds)
    modules = _Modules(graph, kinds)
    blocks = modules.blocks()
    if not blocks and not _declare_parts(draft, graph):
        blocks = modules.plain()
    for path in blocks:
        draft.region(path, "block")
    _declare_stages(draft, modules)


def _declare_parts(draft: Draft, graph: Graph) -> bool:
    """Declare as blocks the parts in which paths leave a value and meet again; whether there are any."""
    labels = [tuple([graph.nodes[node_id].label for node_id in nodes]) for nodes in meeting_places(graph)]
    tried = {str(number): Region(str(number), "block", parts=parts) for number, parts in enumerate(labels)}
    crossing = borders(graph.nodes, graph.order, graph.outputs, tried, owners(graph.nodes, tried))
    for number, region in tried.items():
        if _ends(graph, number, crossing[number]) is not None:  # labels below those of a part belong to it, too
            draft.region(_free(draft, "block"), "block", parts=region.parts)
    return bool(draft.regions)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Where a region begins and ends, and the shapes there."""

    entry: Port
    exit: int
    before: tuple[int, ...]
    after: tuple[int, ...]


class _Modules:
    """The modules of a network as regions. `kinds`: the class of each that is no leaf, by path."""

    def __init__(self, graph: Graph, kinds: Mapping[str, str]) -> None:
        self.graph, self.kinds = graph, kinds
        labels = [node.label for node in graph.nodes.values()]
        self.paths = paths_above(labels)
        tried = {path: Region(path, "block") for path in self.paths}
        crossing = borders(graph.nodes, graph.order, graph.outputs, tried, owners(graph.nodes, tried))
        self.whole = {path: ends for path in self.paths if (ends := _ends(graph, path, crossing[path])) is not None}
        self.times: dict[str, int] = {}
        for path in self.whole:
            if path in kinds:
                self.times[kinds[path]] = self.times.get(kinds[path], 0) + 1
        homes = {graph.nodes[node_id].label.rpartition(".")[0] for node_id in graph.nodes if joins(graph, node_id)}
        self.joining = {path for home in homes if (path := self._joiner(home))}
        self.steps: dict[str, list[_Ends]] = {}  # of each class those that keep the shape
        for path, ends in self.whole.items():
            if path in kinds and ends.before == ends.after:
                self.steps.setdefault(kinds[path], []).append(ends)

    def blocks(self) -> list[str]:
        """Paths of the blocks."""
        repeated = {self._lifted(path) for path in self.joining if self.times[self.kinds[path]] > 1}
        outer = _outermost(repeated)
        if self.steps.keys().isdisjoint(self.kinds[path] for path in outer):  # as stages that begin and end with a sum
            outer = _outermost([path for path in repeated if self._runs_on(self.kinds[path])]) or outer
        rest = [p for p in self.joining if not any(covers(p, other) or covers(other, p) for other in outer)]
        classes = {self.kinds[path] for path in (*outer, *rest)}
        # what changes the shape wherever it stands is a passage between stages, unless all are like that
        classes = classes & self.steps.keys() or classes
        found = _outermost([path for path in self.whole if self.kinds.get(path) in classes])
        return sorted(_outermost([*found, *self._beside(found)]))

    def plain(self) -> list[str]:
        """Paths of the blocks of a network that joins nothing: of classes that follow one another over one shape."""
        kinds = {kind for kind in self.steps if not kind.startswith("torch.") and self._runs_on(kind)}
        return sorted(_outermost([path for path in self.whole if self.kinds.get(path) in kinds]))

    def _joiner(self, path: str) -> str:
        """The module that a sum in the module at `path` belongs to: itself, or one around it that there are several of;
        "" where there is none."""
        if path in self.whole and path in self.kinds:
            return path
        while path:
            path = path.rpartition(".")[0]
            if path in self.whole and self.times.get(self.kinds.get(path, ""), 0) > 1:
                return path
        return ""

    def _lifted(self, path: str) -> str:
        """The module around one that is repeated as a whole, several times over one shape, as a layer of two parts."""
        best, above = path, path.rpartition(".")[0]
        while above:
            kind = self.kinds.get(above, CONTAINERS)
            if not kind.startswith(CONTAINERS):
                if above not in self.whole or not self._runs_on(kind):
                    break
                best = above
            above = above.rpartition(".")[0]
        return best

    def _runs_on(self, kind: str) -> bool:
        """Whether modules of a class, which keep the shape, follow one another."""
        steps = self.steps.get(kind, ())
        exits = {ends.exit for ends in steps}
        return any(ends.entry.node in exits for ends in steps)

    def _beside(self, blocks: Collection[str]) -> Iterable[str]:
        """What stands where blocks do: in a module like others, beside them, that hold nothing but blocks."""
        children: dict[str, set[str]] = {}
        for path in (*self.paths, *(node.label for node in self.graph.nodes.values())):
            children.setdefault(path.rpartition(".")[0], set()).add(path)
        homes = {block.rpartition(".")[0] for block in blocks}
        full = {path for path in homes if path in self.kinds and children[path].issubset(blocks)}
        like = {(path.rpartition(".")[0], self.kinds[path]) for path in full if "." in path}
        for path in self.whole:
            if (path.rpartition(".")[0], self.kinds.get(path)) not in like or path in full:
                continue
            inner = children[path]
            if all(child in self.whole and child in self.kinds for child in inner):
                yield from inner


def _ends(graph: Graph, path: str, border: Border) -> _Ends | None:
    """The ends of a region; None where it has several entries or exits, or its exit is not the first output of a node,
    as passes take it."""
    try:
        entry, exit_ = boundary(graph.nodes, path, border)
    except GraphError:
        return None
    if Port(exit_) not in border[1]:
        return None
    return _Ends(entry, exit_, graph.infer.types[entry].shape, graph.infer.types[Port(exit_)].shape)


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths that lie below no other."""
    given = set(paths)
    return [path for path in given if given.isdisjoint(paths_above([path]))]


def _declare_stages(draft: Draft, modules: _Modules) -> None:
    graph = draft.commit()
    ends = {block.path: _ends(graph, block.path, graph.borders[block.path]) for block in graph.blocks}
    homes: dict[str, list[str]] = {}
    for block in graph.blocks:
        homes.setdefault(block.parent, []).append(block.path)
    inside = {node_id for block in graph.blocks for node_id in graph.members(block.path)}
    mixed = paths_above(node.label for node_id, node in graph.nodes.items() if node_id not in inside)
    for home, blocks in homes.items():
        runs = _runs(graph, [(path, ends[path]) for path in blocks])
        if home in modules.whole and (home not in mixed or len(runs) == 1):
            draft.region(home, "stage")
        elif len(blocks) > 1:
            for run in runs:
                draft.region(_free(draft, f"{home}.stage" if home else "stage"), "stage", parts=run)


def _runs(graph: Graph, blocks: Iterable[tuple[str, _Ends | None]]) -> list[list[str]]:
    """Blocks that follow one another, with nothing else reading what is between them, and whose outputs have one
    shape."""
    runs: list[list[str]] = []
    last: _Ends | None = None
    outputs = {port.node for port in graph.outputs}
    for path, ends in blocks:
        follows = last is not None and ends is not None and ends.entry.node == last.exit and ends.after == last.after
        if last is not None and follows:
            follows = last.exit not in outputs and set(graph.members(path)).issuperset(graph.users(last.exit))
        if follows:
            runs[-1].append(path)
        else:
            runs.append([path])
        last = ends
    return runs


def _free(draft: Draft, stem: str) -> str:
    """The first of `stem1`, `stem2`, ... that names nothing."""
    labels = [node.label for node in draft.nodes.values()]
    names = {*draft.regions, *labels, *paths_above(labels)}
    number = 1
    while f"{stem}{number}" in names:
        number += 1
    return f"{stem}{number}"
