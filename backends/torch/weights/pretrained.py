"""Weights that imported networks start from: published ones, by the name their library has for them, and files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.weights.state_files import names_tensors, read_state
from nasir.errors import RunError, WeightsError
from nasir.training.modules import ModuleSource

CLASSIFIERS = ("fc.", "heads.head.", "classifier.")  # torchvision's names: ResNets, vision transformers, DenseNets
NAMED = 3  # weights that an error names of each kind
COUNTER = ".num_batches_tracked"  # which files written before torch counted batches lack
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
    """Copy torchvision's weights called `weights` (IMAGENET1K_V2), or those of a file that has torchvision's names,
    into `model`; returns the names left as they were.

    Keys of the state dict are the model's own, but for `RENAMED`. The classifier stays fresh where its number of
    classes differs. Raises WeightsError for weights that do not exist or do not fit, RunError where they cannot be
    fetched.
    """
    place = f"{weights} of {architecture}"
    stored = renamed(_state_of(place, weights, lambda: _fetch(place, architecture, weights)))
    own = model.tensors()
    fresh = _fresh(place, own, stored)
    with torch.no_grad():
        for name in own.keys() - set(fresh):
            own[name].copy_(stored[name])
    return fresh


def load_stored(module: nn.Module, source: ModuleSource) -> None:
    """Give a module the weights that its source names, by the names of its own `state_dict`; without any it stays.

    Where the source has a number of classes, a last layer of another number stays fresh. Raises WeightsError and
    RunError as `load_pretrained` does; the module then keeps its weights.
    """
    if source.weights is None:
        return
    place = f"{source.weights} of {source}"
    stored = dict(_state_of(place, source.weights, lambda: _published(place, source)))
    own = module.state_dict()
    remedy = "give the network the sizes that the weights were trained with (`args:`), or remove `weights:`"
    for name in _resized(place, own, stored, lambda name: _classifies(source, own[name], stored[name]), remedy):
        del stored[name]
    module.load_state_dict(stored, strict=False)


def _classifies(source: ModuleSource, own: Tensor, stored: Tensor) -> bool:
    """Whether a weight may be that of the last layer, which has another number of classes here."""
    return source.classes is not None and own.shape[:1] == (source.classes,) and own.shape[1:] == stored.shape[1:]


def _state_of(place: str, weights: str, published: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The tensors of a file, or, if the weights are no path, the published ones."""
    return read_state(place, Path(weights)) if Path(weights).is_absolute() else published()


def _published(place: str, source: ModuleSource) -> Mapping[str, Tensor]:
    if source.library != "timm":
        return _fetch(place, source.model, source.weights or "")
    import timm  # there, as it made the module

    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{source.model.partition('.')[0]}.*")]
    if source.weights not in tags:
        known = f"use {' or '.join(tags)}, or null for fresh ones" if tags else "remove `weights:`"
        raise WeightsError(f"{place}: no such weights; {known}")
    classes = {} if source.classes is None else {"num_classes": source.classes}  # timm renews a classifier by itself
    name = f"{source.model.partition('.')[0]}.{source.weights}"
    try:
        made = timm.create_model(name, pretrained=True, **{**classes, **source.args})
    except MemoryError:
        raise
    except Exception as error:  # no network, a damaged file, arguments that do not go with the weights
        raise RunError(
            f"weights {place}: cannot be loaded ({error}); check the connection, name a file that has them, or remove "
            "`weights:`"
        ) from error
    return made.state_dict()


def _fetch(place: str, architecture: str, weights: str) -> Mapping[str, Tensor]:
    from torchvision import models  # slow to import, and most runs start from fresh weights

    try:
        known: Any = models.get_model_weights(architecture)
    except ValueError:
        raise WeightsError(
            f"{place}: torchvision publishes no weights for {architecture!r}; remove `weights:`"
        ) from None
    names = [member.name for member in known]
    if weights not in names:
        raise WeightsError(f"{place}: no such weights; use {' or '.join(names)}, or null for fresh ones")
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
            raise WeightsError(
                f"{place}: {kept} is damaged ({error!r:.200}); remove it, to have it downloaded"
            ) from error
        raise RunError(
            f"weights {place}: cannot be downloaded ({error}); check the connection, put the file of "
            f"{known[weights].url} into {kept.parent}, or remove `weights:`"
        ) from error
    if not names_tensors(state):
        raise WeightsError(f"{place}: {kept} holds no weights by name; remove it, to have it downloaded")
    return state  # type: ignore[no-any-return]


def _fresh(place: str, own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names that the stored weights do not set; raises WeightsError where there is no good reason for it."""
    remedy = (
        "let `input:` have the channels (3) and, for a transformer, the size of the images that the weights were "
        "trained on, or remove `weights:`"
    )
    odd = _resized(place, own, stored, lambda name: name.startswith(CLASSIFIERS), remedy)
    return tuple([name for name in own if name in odd or name not in stored])


def _resized(
    place: str,
    own: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    may_differ: Callable[[str], bool],
    remedy: str,
) -> list[str]:
    """Names of weights that have another shape than the stored ones, and may; raises WeightsError for all others.

    It names the first of them, and the first that only the file or only the network has.
    """
    unknown = [name for name in stored if name not in own]
    missing = [name for name in own if name not in stored and not name.endswith(COUNTER)]
    odd = [name for name, tensor in own.items() if name in stored and stored[name].shape != tensor.shape]
    wrong = [name for name in odd if not may_differ(name)]
    shapes = [f"{name} has shape {tuple(stored[name].shape)} there and {tuple(own[name].shape)} here" for name in wrong]
    told = [
        *([_first(shapes)] if wrong else []),
        *([f"only there are {_first(unknown)}"] if unknown else []),
        *([f"only here are {_first(missing)}"] if missing else []),
    ]
    if told:
        other = "use the weights of this network, or remove `weights:`"
        raise WeightsError(f"{place}: {'; '.join(told)}; {other if unknown or missing else remedy}")
    return odd


def _first(texts: Sequence[str]) -> str:
    """Some of them in one line, and how many more there are."""
    rest = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
