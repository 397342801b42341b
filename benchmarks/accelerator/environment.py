"""What the figures were measured on, and what the device does at best."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.accelerator.metadata import ROOT, project

if TYPE_CHECKING:
    from benchmarks.accelerator.bench import Bench

FOR_TESTS = ("pytest", "pytest-timeout")


def packages(emit: Callable[..., None]) -> None:
    """Versions of what nasir and its tests need, by name; of what is not installed the names alone."""
    versions: dict[str, str] = {}
    missing = []
    for wanted in (*project()["dependencies"], *FOR_TESTS):
        name = re.split(r"[^A-Za-z0-9_.-]", wanted)[0]
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    emit("packages", missing=missing, **versions)


def run(bench: Bench) -> None:
    import torch

    from nasir.backends.torch.device.names import computes_bf16
    from nasir.version import VERSION

    packages(bench.emit)
    device = bench.device
    facts: dict[str, Any] = {
        "nasir": VERSION,
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "bf16": computes_bf16(device.device),
    }
    if device.is_cuda:
        properties = torch.cuda.get_device_properties(device.device)
        facts |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "devices": torch.cuda.device_count(),
        }
    else:
        facts |= {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    bench.emit("machine", **facts)
    _ceilings(bench)


def _ceilings(bench: Bench) -> None:
    """Rates of a large bf16 product and of a large copy (bytes read and written): what no figure can exceed."""
    import torch

    side, count = (64, 2**16) if bench.sizes.tiny else (8192, 2**30)
    # random: zeros multiply faster than real numbers do
    a, b = (torch.randn(side, side, device=bench.device.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(count, dtype=torch.uint8, device=bench.device.device).random_(256)
    target = torch.empty_like(source)
    for _ in range(2):
        product = min(bench.device.seconds(lambda: a @ b) for _ in range(5))
        copy = min(bench.device.seconds(lambda: target.copy_(source)) for _ in range(5))
    bench.emit("ceilings", bf16_tflops=round(2 * side**3 / product / 1e12, 1), copy_gb_s=round(2 * count / copy / 1e9))


def _output(*command: str) -> str | None:
    """What a command prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
