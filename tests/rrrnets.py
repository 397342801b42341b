"""RRR-Net's networks: bottleneck ResNets of any depths with the stem of ImageNet, 128x128 images."""

from __future__ import annotations

from collections.abc import Sequence

from nasir.ir import Graph
from nasir.spec import loads_spec
from nasir.spec.network import build


def imagenet_bottlenecks(depths: Sequence[int] = (1, 1, 1, 1), classes: int = 20, size: int = 128) -> Graph:
    """Labels are torchvision's."""
    stages = "".join(
        f"  - stage: {{name: layer{n + 1}, block: bottleneck, out: {64 << n}, depth: {depth}, "
        f"stride: {2 if n else 1}}}\n"
        for n, depth in enumerate(depths)
    )
    return build(
        loads_spec(
            f"nasir: 1\nname: rrr\ninput: {{image: [3, {size}, {size}]}}\nnetwork:\n"
            "  - conv: {out: 64, kernel: 7, stride: 2, bias: false, label: conv1}\n"
            "  - batch_norm: {label: bn1}\n  - relu: {label: relu}\n"
            "  - max_pool: {kernel: 3, stride: 2, padding: 1}\n"
            f"{stages}  - classifier: {{classes: {classes}}}\n"
            "data: {dataset: synthetic}\nphases:\n  - {name: t, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
        )
    )
