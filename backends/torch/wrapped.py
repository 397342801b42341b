"""Wrappers that hold on to the parameters of a model, and would not notice that a rewrite replaces them."""

from __future__ import annotations

import gc
import sys

import torch
from torch import nn

from nasir.errors import UsageError

# by module, so that none is imported for the question
WRAPPERS = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel"),
)


def refuse_wrapped(model: nn.Module) -> None:
    """UsageError where a data-parallel wrapper of this process holds `model`, or it is sharded.

    Such a wrapper has put the parameters into buckets when it was made: gradients of those that come later would not
    be averaged over the ranks, which then differ, and those that are gone would be waited for. A model does not know
    what it is wrapped in, so all objects are looked through: only where torch.distributed is in use, at a rewrite.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if sharded is not None and any(isinstance(module, sharded) for module in model.modules()):
        raise UsageError(
            "apply: the model is sharded (fully_shard), and a rewrite cannot replace parts of shards; gather its "
            "state_dict, rewrite a Model that is not sharded and has loaded it, and shard that one"
        )
    kinds = tuple(kind for place, name in WRAPPERS if (kind := getattr(sys.modules.get(place), name, None)) is not None)
    if _holder(model, kinds) is None:
        return
    gc.collect()  # a wrapper that was given up may still be there
    holder = _holder(model, kinds)
    if holder is not None:
        kind = type(holder).__name__
        raise UsageError(
            f"apply: the model is wrapped in {kind}, which would not notice new parameters; take it out, rewrite it on "
            "every rank alike, and wrap it anew: `model = wrapped.module; del wrapped; model.apply(..., "
            f"optimizers=[...]); wrapped = {kind}(model)`"
        )


def _holder(model: nn.Module, kinds: tuple[type, ...]) -> nn.Module | None:
    """A wrapper of these kinds that is alive and has `model` in it."""
    for thing in gc.get_objects():
        if issubclass(type(thing), kinds) and any(module is model for module in thing.modules()):
            wrapper: nn.Module = thing
            return wrapper
    return None
