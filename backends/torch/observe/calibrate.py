"""The device profile of the device at hand, measured: the best that matrix products, convolutions and copies reach."""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nasir.analysis.roofline import DeviceProfile
from nasir.backends.torch.device.precision import float32_products
from nasir.backends.torch.observe.latency import cpu_threads, pick, timed

BUDGET = 0.3  # seconds for each of the four figures
LEAST = 5  # calls, whatever they take
CALLS = 200  # small ops in a row, to see what one call costs


def calibrate(device: torch.device | str | None = None, threads: int | None = None) -> DeviceProfile:
    """Peak float32 FLOP/s, copy bandwidth and seconds per call of `device` (None: CUDA where there is one).

    Takes one to two seconds. The peaks are the best of many calls: an estimate from them is what a network would take
    if each of its ops were as efficient as a large matrix product, so measured times are longer. Products are those of
    `precision: fp32`, in full. `threads`: of the CPU, while measuring (None: as set now). Raises RunError for a device
    that is not there.
    """
    place = pick(device)
    big = place.type == "cuda"
    with torch.inference_mode(), cpu_threads(threads), float32_products("ieee"):
        flops = max(_product(place, 4096 if big else 1024), _convolution(place, 64 if big else 4))
        bandwidth = _copy(place, 2**28 if big else 2**25)
        overhead = _call_cost(place)
        used = torch.get_num_threads()
    name = torch.cuda.get_device_name(place) if big else f"{platform.machine()} CPU, threads: {used}"
    return DeviceProfile(name, flops, bandwidth, overhead)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls."""
    timed(call, device)
    best = spent = timed(call, device)
    calls = 1
    while calls < LEAST or spent < BUDGET:
        taken = timed(call, device)
        best, spent, calls = min(best, taken), spent + taken, calls + 1
    return best


def _product(device: torch.device, size: int) -> float:
    """FLOP/s of a square matrix product."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / _best(lambda: torch.mm(a, b, out=out), device)


def _convolution(device: torch.device, batch: int) -> float:
    """FLOP/s of a 3x3 convolution, 256 to 256 channels at 28x28, channels last."""
    images = torch.rand(batch, 256, 28, 28, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    return 2 * batch * 28 * 28 * 256 * 256 * 9 / _best(lambda: F.conv2d(images, weight, padding=1), device)


def _copy(device: torch.device, size: int) -> float:
    """Bytes read and written each second by a copy of `size` floats, larger than any cache."""
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    target.copy_(source)  # touches every page once, off the clock
    return 2 * 4 * size / _best(lambda: target.copy_(source), device)


def _call_cost(device: torch.device) -> float:
    """Seconds of one op on next to nothing."""
    x = torch.zeros(1, device=device)

    def calls() -> Tensor:
        y = x
        for _ in range(CALLS):
            y = F.relu(y)
        return y

    return _best(calls, device) / CALLS
