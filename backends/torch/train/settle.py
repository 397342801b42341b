"""Training of the weights that a rewrite made, until the network is as good as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nasir.backends.torch.data.batches import BatchSource
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers.groups import build_optimizer, tagged
from nasir.backends.torch.train.loop import train_epoch
from nasir.backends.torch.train.refresh import moving_norms, statistics
from nasir.errors import Decline
from nasir.rewriting.rewrite import Refresh, Rewrite, Settle
from nasir.training.plans import OptimizerPlan, TrainPlan

EPOCHS = 1_000_000  # data order of settling epochs, for each rewrite: far from those of ordinary ones


def refuse_frozen(rewrite: Rewrite, prefixes: Sequence[str]) -> None:
    """Decline where all that a rewrite asks to settle is frozen, by the network or below `prefixes` of labels."""
    if rewrite.settle is None:
        return
    graph = rewrite.graph
    held = {
        graph.nodes[node].label: graph.is_frozen(node) or graph.below(node, prefixes)
        for node, _ in rewrite.settle.slots
    }
    if all(held.values()):
        names = " and ".join(f"'{label}'" for label in held) or "nothing"
        raise Decline(
            f"{names} would be trained right after it, and all of that is frozen; use another `init`, or act before "
            "it is frozen"
        )


def train_settling(
    model: LoweredModule,
    source: BatchSource,
    plan: TrainPlan,
    settle: Settle,
    target: float,
    *,
    seed: int,
    stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Train only the slots of `settle` by Adam until the training accuracy exceeds `target` (a fraction).

    `plan` is that of the phase, whose batches, precision and weight decay hold here too. None where `stop` says so.
    """
    names = _names(model, settle)
    chosen = [member for member in tagged(model) if member[0] in names]
    own = TrainPlan(
        optimizer=OptimizerPlan("adam", lr=settle.lr, weight_decay=plan.optimizer.weight_decay),
        batch_size=plan.batch_size,
        label_smoothing=plan.label_smoothing,
        precision=plan.precision,
        channels_last=plan.channels_last,
    )
    optimizer = build_optimizer(chosen, own.optimizer)
    accuracies: list[float] = []
    for epoch in range(settle.max_epochs):
        result = train_epoch(
            model,
            optimizer,
            source,
            own,
            seed=seed,
            epoch=EPOCHS * model.ordinal + epoch,
            phase_epoch=epoch,
            phase_epochs=settle.max_epochs,
            trainable=names,
            class_weights=source.class_weights,
            stop=stop,
        )
        if not result.finished:
            return None
        accuracies.append(result.metrics["train.accuracy"])
        if accuracies[-1] > target:
            break
    return {"epochs": len(accuracies), "train.accuracy": accuracies, "target": target}


def settled(model: LoweredModule, settle: Settle) -> dict[str, Tensor]:
    """What settling moved, by state_dict name: the slots, and the running statistics of norms that are not frozen."""
    state = model.tensors()
    return {
        **{name: state[name] for name in _names(model, settle)},
        **statistics(moving_norms(model, Refresh(batches=1))),
    }


def _names(model: LoweredModule, settle: Settle) -> set[str]:
    return {f"{model.graph.nodes[node].label}.{slot}" for node, slot in settle.slots}
