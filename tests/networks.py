"""Small networks for tests, built by hand so that no test of the graph depends on the spec builder."""

from __future__ import annotations

from nasir.ir import Draft, Graph, Port


def basic_block(draft: Draft, x: Port, path: str, out: int, stride: int = 1, project: bool = False) -> Port:
    y = draft.add("conv2d", x, f"{path}.conv1", out=out, kernel=3, stride=stride, padding=1)
    y = draft.add("batch_norm", y, f"{path}.bn1")
    y = draft.add("relu", y, f"{path}.relu")
    y = draft.add("conv2d", y, f"{path}.conv2", out=out, kernel=3, padding=1)
    y = draft.add("batch_norm", y, f"{path}.bn2")
    if project:
        x = draft.add("conv2d", x, f"{path}.downsample.0", out=out, kernel=1, stride=stride)
        x = draft.add("batch_norm", x, f"{path}.downsample.1")
    y = draft.add("add", (y, x), f"{path}.add")
    draft.region(path, "block", {"block": "basic", "options": {"out": out}})
    return draft.add("relu", y, f"{path}.relu_out")


def small_resnet(depths: tuple[int, ...] = (1, 2), width: int = 4, size: int = 8, classes: int = 3) -> Graph:
    """Stem, stages of post-activation basic blocks whose width doubles, pooling, classifier."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, size, size])
    x = draft.add("conv2d", x, "conv1", out=width, kernel=3, padding=1)
    x = draft.add("batch_norm", x, "bn1")
    x = draft.add("relu", x, "relu")
    for stage, depth in enumerate(depths):
        path = f"s{stage + 1}"
        out = width << stage
        draft.region(path, "stage", {"block": "basic", "options": {"out": out}})
        for block in range(depth):
            first = block == 0 and stage > 0
            x = basic_block(draft, x, f"{path}.{block}", out, 2 if first else 1, first)
    x = draft.add("global_avg_pool", x, "pool")
    x = draft.add("linear", x, "fc", out=classes)
    draft.output(x)
    return draft.commit()
