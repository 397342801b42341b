"""Training of the weights that a rewrite made, until the network is as good as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nasir.backends.torch.data.batches import BatchSource
from nasir.backends.torch.model import Model
from nasir.backends.torch.optimizers.groups import build_optimizer, tagged
from nasir.backends.torch.train.loop import train_epoch
from nasir.rewriting.rewrite import Settle
from nasir.training.plans import OptimizerPlan, TrainPlan

EPOCHS = 1_000_000  # data order of settling epochs, for each rewrite: far from those of ordinary ones


def train_settling(
    model: Model,
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
    labels = {node: model.graph.nodes[node].label for node, _ in settle.slots}
    names = {f"{labels[node]}.{slot}" for node, slot in settle.slots}
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
            stop=stop,
        )
        if not result.finished:
            return None
        accuracies.append(result.metrics["train.accuracy"])
        if accuracies[-1] > target:
            break
    return {"epochs": len(accuracies), "train.accuracy": accuracies, "target": target}
