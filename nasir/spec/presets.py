"""Torchvision's ResNets as ordinary steps; labels are torchvision's, so that its state_dicts load as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ResNet:
    """Block, blocks of the four stages, and options of the block."""

    block: str
    depths: tuple[int, int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, classes: int, small: bool) -> list[tuple[str, dict[str, Any]]]:
        """(kind, options) of each step; `small`: a 3x3 stem of stride 1 without pooling, for CIFAR's 32x32."""
        stem = {"kernel": 3, "stride": 1} if small else {"kernel": 7, "stride": 2}
        steps: list[tuple[str, dict[str, Any]]] = [
            ("conv", {"out": 64, **stem, "bias": False, "label": "conv1"}),
            ("batch_norm", {"label": "bn1"}),
            ("relu", {"label": "relu"}),
        ]
        if not small:
            steps.append(("max_pool", {"kernel": 3, "stride": 2, "padding": 1, "label": "maxpool"}))
        for index, depth in enumerate(self.depths):
            stage = {"name": f"layer{index + 1}", "block": self.block, "out": 64 << index, "depth": depth}
            steps.append(("stage", {**stage, "stride": 2 if index else 1, **self.options}))
        return [*steps, ("classifier", {"classes": classes})]


RESNETS: Mapping[str, ResNet] = {
    "resnet18": ResNet("basic", (2, 2, 2, 2)),
    "resnet34": ResNet("basic", (3, 4, 6, 3)),
    "resnet50": ResNet("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNet("bottleneck", (3, 4, 23, 3)),
    "resnet152": ResNet("bottleneck", (3, 8, 36, 3)),
    "resnext50_32x4d": ResNet("bottleneck", (3, 4, 6, 3), {"groups": 32, "base_width": 4}),
    "resnext101_32x8d": ResNet("bottleneck", (3, 4, 23, 3), {"groups": 32, "base_width": 8}),
    "wide_resnet50_2": ResNet("bottleneck", (3, 4, 6, 3), {"base_width": 128}),
    "wide_resnet101_2": ResNet("bottleneck", (3, 4, 23, 3), {"base_width": 128}),
}
SMALL = "_cifar"
"""Suffix of a model's variant for 32x32 images, which torchvision does not have."""
CLASSES = 1000
INIT = "he_normal"  # torchvision initializes its ResNets so


def names() -> tuple[str, ...]:
    """All models, each also with the small stem."""
    return tuple(name + suffix for name in RESNETS for suffix in ("", SMALL))


def steps_of(model: str, classes: int | None) -> list[tuple[str, dict[str, Any]]]:
    """The steps of a model of `names()`."""
    return RESNETS[model.removesuffix(SMALL)].steps(classes or CLASSES, model.endswith(SMALL))
