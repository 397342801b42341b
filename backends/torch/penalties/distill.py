"""Distillation: the network learns to predict what a teacher predicts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.penalties.forward import ForwardPass
from nasir.ir import Graph
from nasir.training.forward_penalties import Distill


class Distillation:
    """T ** 2 times the Kullback-Leibler divergence KL(teacher || network) of softmax(logits / T), mean over the batch.

    Of branches that are trained separately the sum over them, as of their cross-entropies.
    """

    def __init__(self, graph: Graph, penalty: Distill, device: torch.device) -> None:
        self.teacher, self.temperature, self.strength = penalty.teacher, penalty.temperature, penalty.strength

    def watching(self, model: LoweredModule) -> AbstractContextManager[None]:
        return nullcontext()

    def loss(self, forward: ForwardPass) -> Tensor | None:
        if not self.strength:
            return None
        wanted = (forward.taught(self.teacher) / self.temperature).log_softmax(-1)
        given = (forward.logits / self.temperature).log_softmax(-1)
        if given.dim() == 3:  # [N, branches, classes]
            wanted = wanted.unsqueeze(1).expand_as(given)
        total = functional.kl_div(given, wanted, reduction="sum", log_target=True)
        return self.strength * self.temperature**2 * total / len(forward.labels)
