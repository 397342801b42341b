"""The device that a spec names, and what a device can compute natively."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nasir.errors import RunError, UsageError
from nasir.options.texts import DEVICE


def choose_device(name: str) -> torch.device:
    """The device called `name`: `cpu`, `cuda`, `cuda:N`, or `auto`, which is CUDA where there is one.

    UsageError for another name, RunError for a device that is not there.
    """
    if not re.fullmatch(DEVICE, name):
        raise UsageError(f"device: {name!r} is not one of auto, cpu, cuda and cuda:N, such as cuda:0")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RunError(f"device: {name} needs a CUDA device, but torch finds none; use `device: auto` or `cpu`")
    _, numbered, number = name.partition(":")
    if not numbered:
        return torch.device("cuda", torch.cuda.current_device())  # from now on this one, whichever is current later
    count = torch.cuda.device_count()
    if int(number) >= count:
        known = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise RunError(f"device: there is no {name}; torch sees {count} CUDA device{'s' * (count > 1)}, {known}")
    return torch.device("cuda", int(number))


def device_named(device: torch.device | str) -> torch.device:
    """What torch calls `device`; UsageError where it knows none of that name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise UsageError(f"device: {device!r:.60} is none that torch knows; give cpu, cuda or cuda:N") from None


def described(device: torch.device) -> dict[str, Any]:
    """Torch's version, the device and its name, and the threads that compute on a CPU."""
    return {
        "torch": torch.__version__,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's weights; the CPU where it has none."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively; elsewhere autocast to it is slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # added to torch.cpu after this project's oldest supported version; without it fp32 is the safe answer
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def check_precision(precision: str, device: torch.device) -> None:
    """RunError where a device cannot compute what a spec's `precision` asks for: TF32 needs CUDA, Ampere or later."""
    if precision != "tf32":
        return
    if device.type != "cuda":
        raise RunError(f"precision: tf32 needs a CUDA device, but this run is on {device}; use fp32 or auto")
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise RunError(
            f"precision: tf32 needs compute capability 8.0, {torch.cuda.get_device_name(device)} has {major}.{minor}; "
            "use fp32 or auto"
        )
