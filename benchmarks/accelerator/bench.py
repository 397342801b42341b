"""What a stage is given: the device with its clock and its memory, sizes, scratch folders, and where figures go."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accelerator.metadata import ROOT
from benchmarks.common import small_resnet
from benchmarks.memory import Halve
from nasir.backends.torch.lower.compile import BlockCompiler
from nasir.backends.torch.session import TorchSession
from nasir.ir import Graph
from nasir.rewriting.rewrite import WHOLE
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan
from nasir.transfer import Key, TransferPlan

Nets = dict[str, tuple[tuple[int, ...], int]]  # widths of the stages and blocks in each, by name


class Skip(Exception):
    """What a stage needs is not there; the message says what and how to give it. `device`: it is the device."""

    def __init__(self, reason: str, device: bool = False) -> None:
        super().__init__(reason)
        self.device = device


def check(device: str) -> None:
    """Raise `Skip` unless the device is there."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise Skip(f"no CUDA device: torch {torch.__version__} sees none; `--device cpu --tiny` tries the code", True)


@dataclass(frozen=True)
class Sizes:
    """How much is measured. `turns`: fewest and most epochs timed; between them, `seconds` ends the timing."""

    nets: Nets
    images: int  # of random training images
    batch: int
    turns: tuple[int, int]
    seconds: float
    growths: int
    deep: str  # the larger network of checkpoints and rewrites, of torchvision's 32x32 ones
    halvings: int  # of its widths
    captured: tuple[int, ...]  # batch sizes of captured steps
    steps: int  # timed for each of them
    compiler: str
    tiny: bool = False


FULL = Sizes(
    nets={"resnet20": ((16, 32, 64), 3), "basic4resnet_2_2_2_2": ((64, 128, 256, 512), 2)},
    images=50_000,
    batch=512,
    turns=(3, 6),
    seconds=12.0,
    growths=8,
    deep="resnet50_cifar",
    halvings=0,
    captured=(128, 512),
    steps=50,
    compiler="inductor",
)
TINY = Sizes(
    nets={"tiny": ((4, 8), 2)},
    images=48,
    batch=16,
    turns=(1, 1),
    seconds=0.0,
    growths=2,
    deep="resnet18_cifar",
    halvings=5,
    captured=(8,),
    steps=2,
    compiler="eager",
    tiny=True,
)


class Device:
    """A device by name, its clock and its memory; on a CPU the memory is not known and reads None."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_cuda = self.device.type == "cuda"

    def choose_kernels(self) -> None:
        """From now on cuDNN tries its kernels at new shapes: sessions have it do so, hand-written loops do not."""
        if self.is_cuda:
            torch.backends.cudnn.benchmark = True

    def wait(self) -> None:
        """Until everything that was started is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], Any]) -> float:
        """How long a call takes, the work it starts on the device included."""
        self.wait()
        started = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - started

    def collect(self) -> None:
        """Free what only cycles of references hold, where memory is going to be read."""
        if self.is_cuda:
            gc.collect()

    def held(self) -> int | None:
        """Bytes of living tensors."""
        return torch.cuda.memory_allocated(self.device) if self.is_cuda else None

    def reserved(self) -> int | None:
        """Bytes the allocator has taken from the device."""
        return torch.cuda.memory_reserved(self.device) if self.is_cuda else None

    @contextmanager
    def peak(self) -> Iterator[Callable[[], int | None]]:
        """Within a `with`: how many bytes more than at its start are or were held."""
        self.wait()
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        before = self.held()
        yield lambda: None if before is None else torch.cuda.max_memory_allocated(self.device) - before


@dataclass(frozen=True)
class Bench:
    """What a stage is called with. `work` is shared by the stages of one call.

    `emit(figure, **values)` records and prints, `note` records only.
    """

    device: Device
    sizes: Sizes
    work: Path
    emit: Callable[..., None]
    note: Callable[..., None]

    @property
    def first_net(self) -> tuple[tuple[int, ...], int]:
        """The smallest network: ResNet-20, but for tests."""
        return next(iter(self.sizes.nets.values()))

    def deep_net(self) -> Graph:
        """The larger network: ResNet-50, but for tests."""
        graph = small_resnet(self.sizes.deep)
        for _ in range(self.sizes.halvings):
            graph = Halve().attempt(graph, WHOLE).graph
        return graph

    def random_images(self) -> Path:
        """CIFAR-10-sized random images as an npz file, made once for all stages."""
        path = self.work / f"random-{self.sizes.images}.npz"
        if not path.exists():
            random = np.random.default_rng(0)
            aside = path.with_suffix(".tmp.npz")
            arrays = {}
            for part, count in (("train", self.sizes.images), ("test", max(self.sizes.images // 50, 10))):
                arrays[f"x_{part}"] = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
                arrays[f"y_{part}"] = np.arange(count) % 10
            np.savez(aside, **arrays)  # type: ignore[arg-type]
            os.replace(aside, path)
        return path

    def session(
        self,
        graph: Graph,
        *,
        batch: int | None = None,
        compiled: bool = False,
        data: DataPlan | None = None,
        **plan: Any,
    ) -> TorchSession:
        """A session in its first phase: bf16, channels last, SGD with momentum unless `plan` says otherwise."""
        batch = batch or self.sizes.batch
        if data is None:
            options = {"path": str(self.random_images())}
            data = DataPlan("npz", options, batch_size=batch, augment=("pad_crop", "hflip"), drop_last=True)
        compile_ = "blocks" if compiled else False
        setup = Setup(data, self.work, 0, device=str(self.device.device), precision="bf16", compile=compile_)
        session = TorchSession(setup)
        if compiled and self.sizes.compiler != "inductor":
            session.compilation.compiler = BlockCompiler(self.sizes.compiler)
        fills = {Key(n, name): slot.init for n, slots in graph.infer.slots.items() for name, slot in slots.items()}
        session.build(graph, TransferPlan(fills))
        optimizer = OptimizerPlan("sgd", lr=0.1, weight_decay=5e-4)
        training = {"optimizer": optimizer, "batch_size": data.batch_size, "precision": "bf16", **plan}
        session.begin_phase(TrainPlan(**training), 100, False)
        return session

    def epoch(self, session: TorchSession, number: int) -> None:
        """Train one epoch."""
        session.train(number, number, None, lambda: False)

    def cifar10(self) -> Path:
        """The folder that holds the CIFAR-10 images, or `Skip`; it becomes NASIR_DATA, a scratch folder NASIR_CACHE."""
        os.environ["NASIR_CACHE"] = str(self.work / "cache")
        if self.sizes.tiny:
            folder = self.work / "data"
            if not (folder / "cifar10").exists():
                _few_images(folder / "cifar10")
        else:
            given = os.environ.get("NASIR_DATA")
            places = [Path(given)] if given else [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
            with_images = [place for place in places if any(place.glob("cifar10*"))]
            if not with_images:
                raise Skip(f"no CIFAR-10 images in {', '.join(map(str, places))}; set NASIR_DATA to their folder")
            folder = with_images[0]
        os.environ["NASIR_DATA"] = str(folder)
        return folder


def _few_images(folder: Path) -> None:
    """Ten classes of a few random JPEGs, in the tree that the CIFAR-10 images come in."""
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in range(10):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index:04}.jpg")
