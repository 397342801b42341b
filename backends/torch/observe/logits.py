"""What a network answers, to compare two networks by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nasir.backends.torch.device.precision import float32_products
from nasir.backends.torch.train.loop import evaluating


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Eval-mode logits in full precision: rounding to bf16 or TF32 would hide what a rewrite does."""
    with evaluating(model), torch.no_grad(), float32_products("ieee"):
        logits: Tensor = model(images.to(next(model.parameters()).dtype))
    return logits
