"""The weights of a checkpoint as arrays on the host, for what looks at a run without training it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nasir.backends.torch.weights import checkpoint
from nasir.errors import UsageError
from nasir.training.backend import StoredWeights


def stored_weights(path: Path, average: bool = False) -> StoredWeights:
    """Those of the checkpoint in the folder `path`, or their moving average (buffers that it lacks are the last ones).

    Raises CheckpointError for a damaged one, UsageError where it has no average.
    """
    loaded = checkpoint.load(path)
    weights = dict(loaded.tensors["model"])
    if average:
        if "ema" not in loaded.tensors:
            raise UsageError(f"{path}: no moving average was kept here; use the last weights, or give the phase `ema`")
        weights.update(loaded.tensors["ema"])
    return StoredWeights(loaded.meta, {name: np.asarray(tensor) for name, tensor in weights.items()})
