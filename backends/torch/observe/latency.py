"""Measured seconds of one forward pass, and what the device at hand can do at best.

Times are taken in eval mode without gradients, after warm-up; on CUDA by events on the device. Several networks are
timed by turns, each turn beginning with another one, so that a machine that slows down slows all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TypeAlias, get_args

import torch
from torch import Tensor, nn

from nasir.backends.torch.device.memory import memory_told
from nasir.backends.torch.device.names import check_precision, choose_device, device_of
from nasir.backends.torch.device.precision import float32_products, products_of
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.train.loop import evaluating, is_convolutional, wants_bf16
from nasir.errors import UsageError
from nasir.ir import Fill, Graph, Port
from nasir.ir.types import FLOAT
from nasir.training.backend import Latency
from nasir.training.plans import Precision, TrainPlan
from nasir.transfer import Key, TransferPlan

Network: TypeAlias = LoweredModule | Graph


def measure(
    network: Network,
    batch: int = 1,
    *,
    device: torch.device | str | None = None,
    repeats: int = 20,
    warmup: int = 3,
    channels_last: bool | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Latency:
    """Latency of one network; see `compare`."""
    options = {"device": device, "repeats": repeats, "warmup": warmup, "channels_last": channels_last}
    return compare([network], batch, **options, precision=precision, threads=threads)[0]  # type: ignore[arg-type]


def compare(
    networks: Sequence[Network],
    batch: int = 1,
    *,
    device: torch.device | str | None = None,
    repeats: int = 20,
    warmup: int = 3,
    channels_last: bool | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> tuple[Latency, ...]:
    """Latencies of several networks on one device, timed by turns, in the order of `networks`.

    A Graph is built with constant weights on `device` (None, "auto": CUDA where there is one), its memory layout as
    `channels_last` says ("auto": for convolutional nets). A Model is timed where and as it is: `device` must be its
    own or None, its layout stays, and so do its train flags. `precision`: "fp32", "tf32", "bf16" or "auto".
    `threads`: of the CPU, while measuring (None: as set now). Raises UsageError for options out of range, RunError for
    a device that is not there or too small for the batch.
    """
    if batch < 1 or repeats < 1 or warmup < 0:
        raise UsageError(f"batch {batch}, repeats {repeats}, warmup {warmup}: use at least 1, 1 and 0")
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: use one of {', '.join(get_args(Precision))}")
    models = [_model(network, device, channels_last) for network in networks]
    for model in models:
        check_precision(precision, device_of(model))
    times: list[list[float]] = [[] for _ in models]
    with ExitStack() as stack:
        stack.enter_context(memory_told(f"batch: {batch} samples", "use fewer"))
        stack.enter_context(float32_products(products_of(precision)))
        stack.enter_context(cpu_threads(threads))
        stack.enter_context(torch.inference_mode())
        calls = []
        for model in models:
            stack.enter_context(evaluating(model))
            calls.append(_call(model, batch, precision))
        for turn in range(warmup + repeats):
            for step in range(len(models)):
                index = (turn + step) % len(models)
                seconds = timed(calls[index], device_of(models[index]))
                if turn >= warmup:
                    times[index].append(seconds)
        used = torch.get_num_threads()
    return tuple([_latency(taken, batch, device_of(m), used) for taken, m in zip(times, models, strict=True)])


def latency_probe(
    device: torch.device | str | None = None,
    batch: int = 1,
    *,
    repeats: int = 10,
    warmup: int = 2,
    channels_last: bool | str = "auto",
    precision: str = "fp32",
) -> Callable[[Graph], float]:
    """A function that builds a candidate network and gives its median seconds; equal architectures are timed once."""
    known: dict[str, float] = {}

    def probe(graph: Graph) -> float:
        if graph.digest not in known:
            known[graph.digest] = measure(
                graph,
                batch,
                device=device,
                repeats=repeats,
                warmup=warmup,
                channels_last=channels_last,
                precision=precision,
            ).median
        return known[graph.digest]

    return probe


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, everything it put on the device included."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            begin.record()
            call()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """torch's CPU threads for the length of a `with` (None: as they are); raises UsageError below 1."""
    if count is not None and count < 1:
        raise UsageError(f"threads: {count}; use 1 or more")
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def pick(device: torch.device | str | None) -> torch.device:
    """The device asked for, None being `auto`; raises as `choose_device`."""
    return choose_device("auto" if device is None else str(device))


def _model(network: Network, device: torch.device | str | None, channels_last: bool | str) -> LoweredModule:
    if isinstance(network, LoweredModule):
        own = device_of(network)
        if device is not None and pick(device) != own:
            raise UsageError(f"the model is on {own}, not on {device}; move it there, or leave `device` out")
        return network
    return timed_model(network, device, channels_last)


def timed_model(
    graph: Graph,
    device: torch.device | str | None,
    channels_last: bool | str = "auto",
    given: Mapping[int, nn.Module] = MappingProxyType({}),
) -> LoweredModule:
    """A graph with constant weights, in the memory layout that suits it; `given`: see `LoweredModule.from_graph`."""
    model = LoweredModule.from_graph(graph, plan=_constants(graph), device=pick(device), given=given)
    if is_convolutional(model) if channels_last == "auto" else channels_last:
        model.use_channels_last()
    return model


def _constants(graph: Graph) -> TransferPlan:
    """One number for each weight array, 1 / fan-in where a random one would go: no stream to draw, and activations
    that neither vanish to denormal numbers, which are slow on a CPU, nor overflow."""
    sources: dict[Key, Fill] = {}
    for node_id, slots in graph.infer.slots.items():
        for name, slot in slots.items():
            shape = slot.shape
            fan_in = slot.size // shape[0] if len(shape) > 1 else 1
            flat = slot.init.rule in ("zeros", "ones", "constant")
            sources[Key(node_id, name)] = slot.init if flat else Fill("constant", {"value": 1.0 / fan_in})
    return TransferPlan(sources)


def _call(model: LoweredModule, batch: int, precision: str) -> Callable[[], object]:
    """The forward pass on random images, as a function without arguments."""
    place = device_of(model)
    parameter = next(model.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    bf16 = wants_bf16(TrainPlan(precision=precision), model, place)  # type: ignore[arg-type]
    inputs: list[Tensor] = []
    for node_id in model.graph.inputs:
        value = model.graph.infer.types[Port(node_id)]
        values = torch.rand((batch, *value.shape), generator=torch.Generator().manual_seed(0))
        values = values.to(place, dtype if value.dtype == FLOAT else getattr(torch, value.dtype))
        inputs.append(
            values.contiguous(memory_format=torch.channels_last)
            if model.channels_last and values.dim() == 4
            else values
        )

    def call() -> object:
        with torch.autocast(place.type, torch.bfloat16, enabled=bf16):
            return model(*inputs)

    return call


def _latency(taken: list[float], batch: int, device: torch.device, threads: int) -> Latency:
    low, middle, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else (taken[0],) * 3
    return Latency(middle, min(taken), high - low, batch, str(device), threads)
