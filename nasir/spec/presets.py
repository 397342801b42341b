"""Torchvision's ResNets, DenseNets and vision transformers as steps; labels are its own, so that its weights load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Steps: TypeAlias = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ResNet:
    """Block, blocks of the four stages, and options of the block."""

    block: str
    depths: tuple[int, int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, classes: int, small: bool) -> Steps:
        """(kind, options) of each step; `small`: a 3x3 stem of stride 1 without pooling, for CIFAR's 32x32."""
        stem = {"kernel": 3, "stride": 1} if small else {"kernel": 7, "stride": 2}
        steps: Steps = [
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


@dataclass(frozen=True, slots=True)
class DenseNet:
    """Channels of the stem and that each layer adds, layers of the four dense blocks (Huang et al. 2017, table 1)."""

    stem: int
    growth: int
    depths: tuple[int, int, int, int]

    def steps(self, classes: int) -> Steps:
        """(kind, options) of each step; transitions halve channels and sides."""
        steps: Steps = [
            ("conv", {"out": self.stem, "kernel": 7, "stride": 2, "bias": False, "label": "features.conv0"}),
            ("batch_norm", {"label": "features.norm0"}),
            ("relu", {"label": "features.relu0"}),
            ("max_pool", {"kernel": 3, "stride": 2, "padding": 1, "label": "features.pool0"}),
        ]
        channels = self.stem
        for number, depth in enumerate(self.depths, start=1):
            name = f"features.denseblock{number}"
            steps.append(("stage", {"name": name, "block": "dense", "depth": depth, "growth": self.growth}))
            channels += depth * self.growth
            if number < len(self.depths):
                path, channels = f"features.transition{number}", channels // 2
                steps += [
                    ("batch_norm", {"label": f"{path}.norm"}),
                    ("relu", {"label": f"{path}.relu"}),
                    ("conv", {"out": channels, "kernel": 1, "bias": False, "label": f"{path}.conv"}),
                    ("avg_pool", {"kernel": 2, "label": f"{path}.pool"}),
                ]
        steps += [("batch_norm", {"label": "features.norm5"}), ("relu", {"label": "relu"})]
        return [*steps, ("classifier", {"classes": classes, "label": "classifier"})]


@dataclass(frozen=True, slots=True)
class VisionTransformer:
    """Side of a patch, blocks, channels, heads and hidden units of a block (Dosovitskiy et al. 2021, table 1)."""

    patch: int
    depth: int
    channels: int
    heads: int
    mlp: int

    def steps(self, classes: int) -> Steps:
        """(kind, options) of each step."""
        options = {"heads": self.heads, "head_dim": self.channels // self.heads, "mlp": self.mlp}
        conv = {"out": self.channels, "kernel": self.patch, "stride": self.patch, "padding": 0, "bias": True}
        return [
            ("conv", {**conv, "label": "conv_proj"}),
            ("tokens", {"label": "tokens"}),
            ("class_token", {"label": "class_token"}),
            ("position_embedding", {"label": "encoder.pos_embedding"}),
            ("stage", {"name": "encoder.layers", "block": "transformer", "depth": self.depth, **options}),
            ("layer_norm", {"eps": 1e-6, "label": "encoder.ln"}),
            ("select_token", {"label": "select_token"}),
            ("linear", {"out": classes, "label": "heads.head"}),
        ]


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
TRANSFORMERS: Mapping[str, VisionTransformer] = {
    "vit_b_16": VisionTransformer(16, 12, 768, 12, 3072),
    "vit_b_32": VisionTransformer(32, 12, 768, 12, 3072),
    "vit_l_16": VisionTransformer(16, 24, 1024, 16, 4096),
    "vit_l_32": VisionTransformer(32, 24, 1024, 16, 4096),
}
DENSENETS: Mapping[str, DenseNet] = {
    "densenet121": DenseNet(64, 32, (6, 12, 24, 16)),
    "densenet169": DenseNet(64, 32, (6, 12, 32, 32)),
    "densenet201": DenseNet(64, 32, (6, 12, 48, 32)),
    "densenet161": DenseNet(96, 48, (6, 12, 36, 24)),
}
SMALL = "_cifar"
"""Suffix of a ResNet's variant for 32x32 images, which torchvision does not have."""
CLASSES = 1000


def names() -> tuple[str, ...]:
    """All models, each ResNet also with the small stem."""
    return (*(name + suffix for name in RESNETS for suffix in ("", SMALL)), *DENSENETS, *TRANSFORMERS)


def init_of(model: str) -> str:
    """The initializer that torchvision uses for a model of `names()`."""
    return "vit" if model in TRANSFORMERS else "he_normal_in" if model in DENSENETS else "he_normal"


def steps_of(model: str, classes: int | None) -> Steps:
    """The steps of a model of `names()`."""
    plain: dict[str, VisionTransformer | DenseNet] = {**TRANSFORMERS, **DENSENETS}
    if model in plain:
        return plain[model].steps(classes or CLASSES)
    return RESNETS[model.removesuffix(SMALL)].steps(classes or CLASSES, model.endswith(SMALL))
