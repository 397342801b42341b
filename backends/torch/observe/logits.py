"""What a network answers, to compare two networks by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nasir.backends.torch.device.precision import float32_products
from nasir.backends.torch.lower.interface import first_floating
from nasir.backends.torch.train.ema import holding
from nasir.backends.torch.train.loop import evaluating
from nasir.errors import NotFinite
from nasir.rewriting.rewrite import Rewrite
from nasir.training.backend import Effect

Tensors = Mapping[str, Tensor]


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Eval-mode logits in full precision: rounding to bf16 or TF32 would hide what a rewrite does."""
    with evaluating(model), torch.no_grad(), float32_products("ieee"):
        logits = first_floating(model(as_input(model, images)))
    return logits


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Examples in the precision of a model; whole numbers, such as indices of words, stay so."""
    return images.to(next(model.parameters()).dtype) if images.is_floating_point() else images


def effect_of(
    rewrite: Rewrite, old: nn.Module, new: nn.Module, images: Tensor, averages: tuple[Tensors, Tensors] | None
) -> Effect:
    """What `rewrite` did to the logits; `averages`: those of both networks, which are compared in the same way.

    Raises NotFinite where logits of the new network are not finite.
    """
    effect = _compared(rewrite, logits_of(old, images), logits_of(new, images))
    if averages is None:
        return effect
    logits = []
    for model, tensors in zip((old, new), averages, strict=True):
        with holding(model, tensors):
            logits.append(logits_of(model, images))
    return replace(effect, averaged=_compared(rewrite, *logits))


def _compared(rewrite: Rewrite, before: Tensor, after: Tensor) -> Effect:
    delta = float((before - after).abs().max())
    if not math.isfinite(delta):
        raise NotFinite(
            f"{rewrite.made_by['pass']} at {rewrite.site}: the rewritten network gives logits that are not finite"
        )
    return Effect(delta, float(before.abs().max()))
