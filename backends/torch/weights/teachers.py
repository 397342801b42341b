"""Teachers: networks that do not learn, whose predictions a term of the loss compares those in training with.

They lie in each checkpoint, so that a resumed run is taught by the same bits wherever they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.weights import checkpoint
from nasir.errors import CheckpointError, RunError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.trained import trained_network
from nasir.training.penalties import INITIAL, PREVIOUS
from nasir.training.teachers import unfit

Lower = Callable[[Graph], LoweredModule]
"""Makes a network of a graph, whose weights are about to be overwritten."""
GROUP, META = "teacher", "teachers"  # in a checkpoint: GROUP_0, ...; their names and graphs


class TeacherSet(Mapping[str, LoweredModule]):
    """The teachers of a session by name, each in evaluation; see `nasir.training.Penalty.taught_by`."""

    def __init__(self) -> None:
        self._networks: dict[str, LoweredModule] = {}

    def __getitem__(self, name: str) -> LoweredModule:
        return self._networks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    def keep(self, name: str, model: LoweredModule, averages: Mapping[str, Tensor] | None) -> None:
        """Let a copy of a network as it is now, with its averages where it has some, be a teacher."""
        teacher = deepcopy(model)
        _fill(teacher, averages or {}, name)
        self._networks[name] = _at_rest(teacher)

    def begin(
        self,
        wanted: set[str],
        model: LoweredModule,
        averages: Mapping[str, Tensor] | None,
        resumed: bool,
        base: Path,
        lower: Lower,
    ) -> None:
        """Have the teachers of a phase, and no other but the initial one.

        `model`, with `averages`: the network that the phase begins with, unless it was `resumed`. Directories of runs
        are relative to `base`. Raises CheckpointError, or RunError for a run whose network cannot teach it.
        """
        kept = {INITIAL, *(wanted if resumed else wanted - {PREVIOUS})}
        self._networks = {name: network for name, network in self._networks.items() if name in kept}
        for name in sorted(wanted - self._networks.keys()):
            if name == PREVIOUS and not resumed:
                self.keep(name, model, averages)
            elif name in (PREVIOUS, INITIAL):
                raise CheckpointError(f"the checkpoint lacks the teacher {name!r}; start the run again")
            else:
                self._networks[name] = _at_rest(_of_run(base / name, model.graph, lower))

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """Their weights and buffers, as groups of a checkpoint."""
        return {f"{GROUP}_{n}": network.tensors() for n, network in enumerate(self._networks.values())}

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of them; nothing where there are none."""
        told = [{"name": name, "graph": network.graph.to_json()} for name, network in self._networks.items()]
        return {META: told} if told else {}

    def load(self, stored: checkpoint.Checkpoint, lower: Lower) -> None:
        """Take those of a checkpoint."""
        self._networks = {}
        for number, told in enumerate(stored.meta.get(META, ())):
            teacher = lower(Graph.from_json(told["graph"]))
            _fill(teacher, stored.tensors[f"{GROUP}_{number}"], told["name"])
            self._networks[told["name"]] = _at_rest(teacher)


def _at_rest(model: LoweredModule) -> LoweredModule:
    return model.eval().requires_grad_(False)


def _fill(model: LoweredModule, tensors: Mapping[str, Tensor], name: str) -> None:
    own = model.tensors()
    odd = [key for key, tensor in tensors.items() if key not in own or own[key].shape != tensor.shape]
    if odd:
        raise CheckpointError(f"teacher {name!r}: the stored {odd[0]} is not of its network; restore it from a copy")
    with torch.no_grad():
        for key, tensor in tensors.items():
            own[key].copy_(tensor)


def _of_run(path: Path, graph: Graph, lower: Lower) -> LoweredModule:
    """The network of a run's newest checkpoint, averaged where it kept averages, as it was evaluated."""
    trained = trained_network(RunDirectory.open(path))
    if trained is None:
        raise CheckpointError(f"teacher {path}: the run has no checkpoint yet; wait for its first")
    if (problem := unfit(trained.graph, graph)) is not None:
        raise RunError(f"the network of {path} cannot teach this one: {problem}")
    stored, teacher = checkpoint.load(trained.checkpoint), lower(trained.graph)
    stored.fill(teacher)
    _fill(teacher, stored.tensors.get("ema", {}), str(path))
    return teacher
