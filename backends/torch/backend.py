"""The torch backend: makes sessions, measures networks and devices."""

from __future__ import annotations

from pathlib import Path

import torch

from nasir.analysis.roofline import DeviceProfile
from nasir.backends.torch.importing.modules import import_module, modules_kept
from nasir.backends.torch.observe.calibrate import calibrate
from nasir.backends.torch.observe.latency import measure, pick, timed_model
from nasir.backends.torch.session import TorchSession
from nasir.backends.torch.weights.stored_arrays import stored_weights
from nasir.ir import Graph
from nasir.training.backend import Latency, Setup, StoredWeights
from nasir.training.modules import ImportedModule, ModuleSource


class TorchBackend:
    """Makes torch sessions."""

    def open(self, setup: Setup) -> TorchSession:
        """Data on the device, no network yet. Raises DataError, or RunError for a device that is not there."""
        return TorchSession(setup)

    def import_module(self, source: ModuleSource) -> ImportedModule:
        """See `nasir.backends.torch.importing.modules.import_module`."""
        return import_module(source)

    def measure(
        self,
        graph: Graph,
        batch: int,
        device: str,
        threads: int | None = None,
        precision: str = "fp32",
        module: ImportedModule | None = None,
    ) -> Latency:
        """See `nasir.backends.torch.observe.latency.measure`."""
        if module is None:
            return measure(graph, batch, device=device, threads=threads, precision=precision)
        model = timed_model(graph, device, given=modules_kept(graph, module, pick(device)))
        return measure(model, batch, device=device, threads=threads, precision=precision)

    def stored_weights(self, checkpoint: Path, average: bool = False) -> StoredWeights:
        """See `nasir.backends.torch.weights.stored_arrays.stored_weights`."""
        return stored_weights(checkpoint, average)

    def calibrate(self, device: str, threads: int | None = None) -> DeviceProfile:
        """See `nasir.backends.torch.observe.calibrate.calibrate`."""
        return calibrate(device, threads)

    def cuda_devices(self) -> int:
        """How many CUDA devices torch sees; takes no memory on any."""
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
