"""The `state_dict` of a network under the names that its graph gives weights (`Graph.names`), in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nasir.ir import Graph

Names = tuple[str, ...]


class NamedWeights(nn.Module):
    """A module whose tensors lie at `label.slot`, as its parameters are named, and may have other names when stored."""

    graph: Graph

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module's, with the names of the graph: those of the module that a network was imported from."""
        state = super().state_dict(*args, **kwargs)
        start = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for names, places in self._places_by_names().items():
            found = [state.pop(f"{start}{place}") for place in places if f"{start}{place}" in state]
            state.update({f"{start}{name}": found[0] for name in names if found})
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
        own = nn.Module.state_dict(self, keep_vars=True)
        for names, places in self._places_by_names().items():
            given = {name: state_dict.pop(f"{prefix}{name}", None) for name in names}
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

    def _places_by_names(self) -> dict[Names, list[str]]:
        """For the names of each array: where it lies in the tree of modules, once for each node that uses it."""
        graph: Graph | None = self.graph
        if graph is None:
            return {}
        label = {
            key: f"{graph.nodes[key.node].label}.{key.slot}" for names in (graph.names, graph.ties) for key in names
        }
        return {
            names: [label[key], *[label[k] for k in graph.shared.get(key, ())]] for key, names in graph.names.items()
        }
