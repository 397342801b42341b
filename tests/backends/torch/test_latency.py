"""Timing: what is reported, what is put back, what is refused. No test judges a time."""

from __future__ import annotations

import pytest
import torch
from networks import small_resnet

from nasir.analysis.roofline import estimate
from nasir.backends.torch import Model
from nasir.backends.torch.observe import calibrate as calibration
from nasir.backends.torch.observe import latency
from nasir.backends.torch.observe.calibrate import calibrate
from nasir.backends.torch.observe.latency import compare, cpu_threads, latency_probe, measure
from nasir.errors import RunError, UsageError
from nasir.ir import Draft, Graph

CPU = {"device": "cpu", "repeats": 3, "warmup": 1}


def test_a_graph_is_timed_with_constant_weights() -> None:
    timing = measure(small_resnet(), 2, **CPU)
    assert 0 < timing.minimum <= timing.median and timing.spread >= 0
    assert (timing.batch, timing.device, timing.threads) == (2, "cpu", torch.get_num_threads())


def test_constant_weights_keep_activations_in_range() -> None:
    graph = small_resnet((6, 6, 6))
    logits = latency._model(graph, "cpu", "auto").eval()(torch.ones(1, 3, 8, 8))
    assert torch.isfinite(logits).all() and 1e-3 < logits.abs().max() < 1e30


def test_a_model_is_timed_as_it_is_and_keeps_its_flags_and_weights() -> None:
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    assert measure(model, **CPU).median > 0
    assert [module.training for module in model.modules()] == flags and not frozen.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_networks_take_turns_each_round_begun_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def call(model: Model, batch: int, precision: str) -> object:
        return lambda: called.append(len(model.graph.nodes))

    monkeypatch.setattr(latency, "_call", call)
    graphs = [small_resnet((1,)), small_resnet((2,)), small_resnet((3,))]
    a, b, c = (len(graph.nodes) for graph in graphs)
    timings = compare(graphs, repeats=2, warmup=1, device="cpu")
    assert len(timings) == 3
    assert called == [a, b, c, b, c, a, c, a, b]


def test_the_probe_times_equal_architectures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Graph] = []
    real = latency.measure

    def counted(graph: Graph, *arguments: object, **options: object) -> object:
        timed.append(graph)
        return real(graph, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(latency, "measure", counted)
    probe = latency_probe("cpu", 2, repeats=2)
    first = probe(small_resnet())
    assert probe(small_resnet()) == first > 0
    probe(small_resnet((2, 2)))
    assert len(timed) == 2


def test_threads_are_set_for_the_measurement_only() -> None:
    before = torch.get_num_threads()
    assert measure(small_resnet(), threads=before + 1, **CPU).threads == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="threads: 0"), cpu_threads(0):
        pass


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_layout_of_a_graph_can_be_chosen(channels_last: bool) -> None:
    assert latency._model(small_resnet(), "cpu", channels_last).channels_last is channels_last
    assert measure(small_resnet(), channels_last=channels_last, **CPU).median > 0


def test_the_layout_is_channels_last_for_convolutions_only() -> None:
    draft = Draft()
    draft.output(draft.add("linear", draft.add("input", (), "x", shape=[4]), "fc", out=2))
    assert not latency._model(draft.commit(), "cpu", "auto").channels_last
    assert latency._model(small_resnet(), "cpu", "auto").channels_last


def test_networks_without_weights_and_bf16_are_timed() -> None:
    draft = Draft()
    draft.output(draft.add("relu", draft.add("input", (), "x", shape=[4]), "r"))
    assert measure(draft.commit(), **CPU).device == "cpu"
    assert measure(small_resnet(), precision="bf16", **CPU).median > 0


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"repeats": 0}, {"warmup": -1}, {"threads": 0}, {"precision": "fp16"}, {"device": "moon"}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        measure(small_resnet(), **options)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RunError, match="cuda"):
        measure(small_resnet(), device="cuda:99")


@pytest.mark.parametrize("batch", [10**12, 10**17])
def test_a_batch_that_fits_no_memory_is_refused(batch: int) -> None:
    with pytest.raises(RunError, match=f"batch: {batch} samples: not enough memory"):
        measure(small_resnet(), batch, **CPU)


def test_a_model_is_not_moved() -> None:
    model = Model.from_graph(small_resnet(), device="meta")
    with pytest.raises(UsageError, match="meta"):
        measure(model, device="cpu")


def test_calibration_gives_a_profile_that_estimates_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BUDGET", 0.0)
    monkeypatch.setattr(calibration, "LEAST", 1)
    before = torch.get_num_threads()
    profile = calibrate("cpu", threads=1)
    assert profile.name.endswith("threads: 1") and profile.overhead_seconds > 0
    assert estimate(small_resnet(), profile) > 0
    assert torch.get_num_threads() == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_timed_by_events() -> None:
    timing = measure(small_resnet(), 4, device="cuda", repeats=5)
    assert timing.device == "cuda:0" and 0 < timing.minimum <= timing.median
    assert estimate(small_resnet(), calibrate("cuda")) > 0
