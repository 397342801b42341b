"""The moving average of the weights: it follows each step, is evaluated in their place, and goes through rewrites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.device.names import device_of
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.parts import tensors_of
from nasir.errors import GraphError
from nasir.rewriting.rewrite import Rewrite
from nasir.transfer import Key, TransferPlan, averages, execute


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Averages beside the tensors they follow: floats, which are averaged, and others, which are copied."""

    averages: list[Tensor]
    floats: list[Tensor]
    copies: list[Tensor]
    others: list[Tensor]

    def blend(self, average: Callable[..., None]) -> None:
        """One update, by a function of torch's that moves all averages at once."""
        with torch.no_grad():
            if self.floats:
                average(self.averages, self.floats, None)
            if self.others:
                torch._foreach_copy_(self.copies, self.others)


def _held(model: nn.Module) -> list[tuple[Mapping[str, Tensor | None], str, Tensor, int]]:
    """(registry, name, tensor, address of its memory) of every weight and buffer of every module."""
    return [
        (registry, name, tensor, tensor.data_ptr())
        for module in model.modules()
        for registry in (module._parameters, module._buffers)
        for name, tensor in registry.items()
        if tensor is not None
    ]


class Ema:
    """Exponential moving average of a model's float state (weights and running statistics), by state_dict name.

    After each step, average := d * average + (1 - d) * current; whole-number buffers are copied. d is `decay`; with
    `warmup` at most (1 + t) / (10 + t) after t updates, so that an average of few steps has no memory of the start.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.updates = 0  # so far
        self.tensors: dict[str, Tensor] = {
            name: t.detach().clone() for name, t in tensors_of(model, hidden=False).items()
        }

    @property
    def present_decay(self) -> float:
        """d of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present state."""
        self.follower(model)()

    def follower(self, model: nn.Module) -> Callable[[], None]:
        """`update` as a function to call after every step, as long as neither network nor averages are replaced.

        What a module puts in the place of a weight or buffer in between, or of its memory, is noticed; one that is new
        is not. Finding the tensors anew each time cost more than moving them.
        """
        held = _held(model)
        pairs = self._pairs(model)
        decay, average = self.present_decay, get_ema_multi_avg_fn(self.present_decay)  # type: ignore[no-untyped-call]

        def follow() -> None:
            nonlocal held, pairs, decay, average
            if any(
                registry.get(name) is not tensor or tensor.data_ptr() != place for registry, name, tensor, place in held
            ):
                held, pairs = _held(model), self._pairs(model)
            if self.present_decay != decay:
                decay = self.present_decay
                average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            pairs.blend(average)
            self.updates += 1

        return follow

    def _pairs(self, model: nn.Module) -> _Pairs:
        current = tensors_of(model, hidden=False)
        self._match(current)
        floats = [name for name, tensor in current.items() if tensor.is_floating_point()]
        others = [name for name in current if name not in set(floats)]
        return _Pairs(
            *([source[name] for name in names] for names in (floats, others) for source in (self.tensors, current)),
        )

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """For the length of a `with`, the model holds the averages (in place); then its own values again, exactly."""
        self._match(tensors_of(model, hidden=False))
        with holding(model, self.tensors):
            yield

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Take copies of other averages, laid out as they are: those of a snapshot, or with new statistics."""
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int = 0) -> None:
        """Take stored averages, which saw so many updates, each laid out in memory as the present one: torch moves only
        those like their weights all at once."""
        self.updates = updates
        present = self.tensors
        self.tensors = {
            name: (torch.empty_like(present[name]) if name in present else torch.empty_like(tensor)).copy_(tensor)
            for name, tensor in tensors.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The averages and how they move, as `load_state_dict` takes them; the tensors are not copies."""
        own = {"decay": self.decay, "warmup": self.warmup, "updates": self.updates}
        return {**own, "tensors": dict(self.tensors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same network; GraphError for another one's."""
        self._match(state["tensors"])
        self.decay, self.warmup = state["decay"], state.get("warmup", False)  # there was none once
        self.load(state["tensors"], state.get("updates", 0))

    def _match(self, current: Mapping[str, Tensor]) -> None:
        odd = sorted(current.keys() ^ self.tensors.keys())
        if odd:
            raise GraphError(
                f"moving average and model differ in {', '.join(odd[:3])} ({len(odd)} in all); "
                "transfer the average together with the weights"
            )


@contextmanager
def holding(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """For the length of a `with`, the model holds other values by state_dict name (in place); then its own, exactly."""
    current = tensors_of(model, hidden=False)
    own = {name: tensor.clone() for name, tensor in current.items()}
    with torch.no_grad():
        for name, tensor in current.items():
            tensor.copy_(tensors[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(own[name])


def carried_averages(
    tensors: Mapping[str, Tensor], rewrite: Rewrite, old: LoweredModule, new: LoweredModule
) -> dict[str, Tensor]:
    """Averages `tensors` of `old` carried through the plan (copies too, as the averaged network is rewritten like the
    other one); what is new in `new` starts at its own value. All by state_dict name, and no memory of the network's."""
    names = {key: name for name, key in old.keys().items()}

    def is_stored(key: Key) -> bool:
        return rewrite.graph.infer.slots[key.node][key.slot].stored

    carried = execute(
        TransferPlan(
            {key: source for key, source in rewrite.plan.sources.items() if averages(source) and is_stored(key)}
        ),
        rewrite.graph,
        lambda key: tensors[names[key]],
        TorchArrays(device_of(old), next(old.parameters()).dtype),
        seed=new.seed,
        ordinal=new.ordinal,
        blobs=rewrite.blobs,
        averaged=True,
    )
    state = new.tensors(hidden=False)
    return {
        name: carried[key]
        if key in carried
        else tensors[names[key]]
        if key in names and key not in rewrite.plan.sources
        else state[name].clone()
        for name, key in new.keys().items()
        if name in state
    }
