"""Taking blocks out of a network: their shortcuts remain."""

from __future__ import annotations

from collections.abc import Iterable

from nasir.ir import Draft, Graph, Port


def shortcut_padding(graph: Graph, path: str) -> int | None:
    """Zero channels that the input of a block lacks to have the shape of its output, 0 where the shapes are equal.

    None when zero channels do not make it so: the block then cannot go.
    """
    entry, exit_ = graph.boundary(path)
    before, after = graph.infer.types[entry].shape, graph.infer.types[Port(exit_)].shape
    if before == after:
        return 0
    return after[0] - before[0] if len(before) == 3 and before[1:] == after[1:] and after[0] > before[0] else None


def remove_blocks(draft: Draft, paths: Iterable[str]) -> None:
    """Delete blocks, named in the order of the network; their readers read what they read.

    Where a block added channels (ResBuilder's sums), its input is padded with zero channels. A stage ends with its
    last block.
    """
    graph = draft.base
    assert graph is not None
    stands_for: dict[Port, Port] = {}
    for path in paths:
        entry, exit_ = graph.boundary(path)
        source = stands_for.get(entry, entry)
        missing = shortcut_padding(graph, path)
        assert missing is not None, path
        draft.remove_region(path)
        if missing:
            source = draft.add("pad_channels", source, f"{path}_pad", after=missing)
            draft.join(graph.stage_of(path), f"{path}_pad")
        draft.rewire(Port(exit_), source)
        stands_for[Port(exit_)] = source
        parent = path.rpartition(".")[0]
        if parent in draft.regions and not any(node.label.startswith(f"{parent}.") for node in draft.nodes.values()):
            del draft.regions[parent]
