"""The `state_dict` of a network under the names that its graph gives weights (`Graph.names`), in both directions."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

from nasir.ir import Graph

Names = tuple[str, ...]


def places_by_names(graph: Graph) -> dict[Names, list[str]]:
    """For the names of each array: where it lies in the tree of modules, once for each node that uses it."""
    label = {key: f"{graph.nodes[key.node].label}.{key.slot}" for names in (graph.names, graph.ties) for key in names}
    return {names: [label[key], *[label[k] for k in graph.shared.get(key, ())]] for key, names in graph.names.items()}


def give_names(state: MutableMapping[str, Any], graph: Graph, prefix: str = "") -> None:
    """Call tensors that `state` holds by their places, behind `prefix`, by the names that the graph gives them."""
    found: dict[str, Any] = {}  # put back at the end: the name of one may be the place of another
    for names, places in places_by_names(graph).items():
        held = [state.pop(f"{prefix}{place}") for place in places if f"{prefix}{place}" in state]
        found |= {f"{prefix}{name}": held[0] for name in names if held}
    state.update(found)


class NamedWeights(nn.Module):
    """A module whose tensors lie at `label.slot`, as its parameters are named, and may have other names when stored."""

    graph: Graph

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module's, with the names of the graph: those of the module that a network was imported from."""
        state = super().state_dict(*args, **kwargs)
        if self.graph is not None:
            give_names(state, self.graph, kwargs.get("prefix", args[1] if len(args) > 1 else ""))
        return state

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        named = {} if self.graph is None else places_by_names(self.graph)
        own = nn.Module.state_dict(self, keep_vars=True) if named else {}
        taken = [{name: state_dict.pop(f"{prefix}{name}", None) for name in names} for names in named]
        for (names, places), given in zip(named.items(), taken, strict=True):
            missing_keys += [f"{prefix}{name}" for name, tensor in given.items() if tensor is None]
            found = next((tensor for tensor in given.values() if tensor is not None), None)
            for place in places:
                held: Tensor | None = own.get(place)
                if held is None:
                    continue  # a module put there by hand has no such weight
                if found is not None and found.shape != held.shape:
                    error_msgs.append(
                        f"size mismatch for {prefix}{names[0]}: {tuple(found.shape)} is given, the network has "
                        f"{tuple(held.shape)}"
                    )
                    found = None
                # itself where there is nothing: it has been told of under its name, and not under its place
                state_dict[f"{prefix}{place}"] = held if found is None else found
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
