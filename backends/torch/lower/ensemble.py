"""Ensembles of branches: the mean prediction, and the loss of branches that train side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def mean_prediction(logits: Tensor, average: str) -> Tensor:
    """Logits [N, branches, C] as one prediction [N, C]: log of the mean probability, or mean of the logits."""
    if average == "logits":
        return logits.mean(1)
    return torch.logsumexp(torch.log_softmax(logits, 2), 1) - math.log(logits.shape[1])


class Ensemble(nn.Module):
    """See the op `ensemble`."""

    def __init__(self, average: str, train: str) -> None:
        super().__init__()
        self.average = average
        self.separate = train == "separate"

    def forward(self, *x: Tensor) -> Tensor:
        # a branch that is itself an ensemble of separate branches comes as [N, branches, C]
        logits = torch.cat([branch if branch.dim() == 3 else branch.unsqueeze(1) for branch in x], 1)
        return logits if self.training and self.separate else mean_prediction(logits, self.average)


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Mean over the batch of the cross-entropy; of logits [N, branches, C] the sum over branches.

    With `weights` [C], the mean weighted by those of the labels.
    The branches share no parameter, so the gradient of the sum is for each the gradient of its own loss.
    """
    if logits.dim() == 2:
        return functional.cross_entropy(logits, labels, weights, label_smoothing=label_smoothing)
    several = labels.repeat_interleave(logits.shape[1])
    flat = logits.flatten(0, 1)
    total = functional.cross_entropy(flat, several, weights, reduction="sum", label_smoothing=label_smoothing)
    return total / (len(labels) if weights is None else weights[labels].sum())


def predicted(model: nn.Module, logits: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """(mean loss of a branch, averaged prediction [N, C]) of what a model put out in training mode."""
    if logits.dim() == 2:
        return loss, logits
    graph = getattr(model, "graph", None)
    average = graph.nodes[graph.outputs[0].node].attrs.get("average") if graph is not None else None
    return loss / logits.shape[1], mean_prediction(logits.detach(), average or "probabilities")
