"""Published weights for imported networks: torchvision's, loaded by their own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasir.backends.torch.lower.module import LoweredModule
from nasir.errors import DataError, RunError

CLASSIFIERS = ("fc.", "heads.head.", "classifier.")  # torchvision's names: ResNets, vision transformers, DenseNets
RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (  # where torchvision's names are not ours
    (r"^class_token$", "class_token.weight"),
    (r"^encoder\.pos_embedding$", "encoder.pos_embedding.weight"),
    (r"^encoder\.layers\.encoder_layer_", "encoder.layers."),
    (r"\.self_attention\.in_proj_", ".self_attention.in_proj."),
    (r"\.mlp\.linear_1\.", ".mlp.0."),  # in files written before torchvision 0.14
    (r"\.mlp\.linear_2\.", ".mlp.3."),
    (r"\.denselayer(\d+)\.", lambda match: f".{int(match[1]) - 1}."),
    (r"(\.denseblock\d\.\d+\.(?:norm|conv))\.", r"\1"),  # in the published files
)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of one of torchvision's networks under the names that its weights have here."""
    state_dict = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        state_dict[name] = tensor
    return state_dict


def load_pretrained(model: LoweredModule, architecture: str, weights: str) -> tuple[str, ...]:
    """Copy torchvision's weights called `weights` (IMAGENET1K_V2) into `model`; returns the names left as they were.

    Keys of the state dict are the model's own, but for `RENAMED`. The classifier stays fresh where its number of
    classes differs. Raises DataError for weights that do not exist or do not fit, RunError where they cannot be
    fetched.
    """
    place = f"network: weights: {weights} of {architecture}"
    stored = renamed(_fetch(place, architecture, weights))
    own = model.tensors()
    fresh = _fresh(place, own, stored)
    with torch.no_grad():
        for name in own.keys() - set(fresh):
            own[name].copy_(stored[name])
    return fresh


def _fetch(place: str, architecture: str, weights: str) -> Mapping[str, Tensor]:
    from torchvision import models  # slow to import, and most runs start from fresh weights

    try:
        known: Any = models.get_model_weights(architecture)
    except ValueError:
        raise DataError(f"{place}: torchvision publishes no weights for {architecture!r}; remove `weights:`") from None
    names = [member.name for member in known]
    if weights not in names:
        raise DataError(f"{place}: no such weights; use {' or '.join(names)}, or null for fresh ones")
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(known[weights].url).name)
    there = kept.exists()
    try:
        state = models.get_weight(f"{known.__name__}.{weights}").get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except MemoryError:
        raise
    except Exception as error:  # no network, a file that does not have its hash; of pickle, whatever a file makes of it
        if there:
            raise DataError(f"{place}: {kept} is damaged ({error!r:.200}); remove it, to have it downloaded") from error
        raise RunError(
            f"{place}: cannot be downloaded ({error}); check the network, put the file of "
            f"{known[weights].url} into {kept.parent}, or remove `weights:`"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()
    ):
        raise DataError(f"{place}: {kept} holds no weights by name; remove it, to have it downloaded")
    return state


def _fresh(place: str, own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names that the stored weights do not set; raises DataError where there is no good reason for it."""
    unknown = sorted(stored.keys() - own.keys())
    # files written before torch counted batches lack the counter
    missing = [name for name in own if name not in stored and not name.endswith(".num_batches_tracked")]
    if unknown or missing:
        names = ", ".join([*unknown, *missing][:3])
        raise DataError(f"{place}: {names} are not in both the file and the network; remove `weights:`")
    odd = [name for name, tensor in own.items() if name in stored and stored[name].shape != tensor.shape]
    for name in odd:
        if not name.startswith(CLASSIFIERS):
            raise DataError(
                f"{place}: {name} has shape {tuple(stored[name].shape)} there and {tuple(own[name].shape)} here; "
                "let `input:` have the channels (3) and, for a transformer, the size of the images that the weights "
                "were trained on, or remove `weights:`"
            )
    return tuple([name for name in own if name in odd or name not in stored])
