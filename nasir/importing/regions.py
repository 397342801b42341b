"""Blocks and stages of an imported network: from the modules that its calls lay in."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nasir.errors import GraphError
from nasir.ir import Draft, Region
from nasir.ir.regions import borders, boundary, covers, owners


def declare(draft: Draft, kinds: Mapping[str, str], joining: Collection[str]) -> None:
    """Declare as blocks the modules that begin and end at one value and join values themselves, and others of their
    classes; as stages what lies around them.

    `kinds`: class by path of the modules that are no leaves; `joining`: paths of those whose own code adds or
    concatenates. A repeated module is a block rather than one within it, such as the attention of a layer.
    """
    graph = draft.commit()
    tried = {path: Region(path, "block") for path in kinds if path}
    held = owners(graph.nodes, tried)
    crossing = borders(graph.nodes, graph.order, graph.outputs, tried, held)
    filled = {path for paths in held.values() for path in paths}

    def is_whole(path: str) -> bool:
        if path not in filled:
            return False
        try:
            boundary(graph.nodes, path, crossing[path])
        except GraphError:
            return False
        return True

    whole = {path for path in tried if is_whole(path)}
    times: dict[str, int] = {}
    for path in whole:
        times[kinds[path]] = times.get(kinds[path], 0) + 1
    found = [path for path in joining if path in whole]
    repeated = [path for path in found if times[kinds[path]] > 1]
    outer = _outermost(repeated)
    rest = [path for path in found if not any(covers(path, other) or covers(other, path) for other in outer)]
    classes = {kinds[path] for path in (*outer, *rest)}
    for path in sorted(_outermost([path for path in whole if kinds[path] in classes])):
        draft.region(path, "block")
    for path in sorted({path.rpartition(".")[0] for path in draft.regions} & whole):
        if path not in draft.regions:
            draft.region(path, "stage")


def _outermost(paths: Collection[str]) -> list[str]:
    """The paths that lie below no other."""
    return [path for path in paths if not any(other != path and covers(other, path) for other in paths)]
