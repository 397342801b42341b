"""`nasir cost` as a user meets it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from networks import small_resnet
from small_runs import write_spec

from nasir.analysis.roofline import PROFILES, DeviceProfile, estimate
from nasir.cli import cost as cost_command
from nasir.cli.main import main
from nasir.errors import UsageError
from nasir.ir import Graph
from nasir.ir.cost import total
from nasir.report.cost_table import OUTSIDE, cost_table
from nasir.testing import random_graph


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def graph_file(tmp_path: Path) -> str:
    path = tmp_path / "graph.txt"
    path.write_text(small_resnet().to_text())
    return str(path)


def test_regions_nest_in_the_order_of_the_data_and_add_up() -> None:
    graph = small_resnet((2, 1))
    table = cost_table(graph, PROFILES["T4"], 3)
    assert [(row.name, row.kind, row.depth) for row in table.regions] == [
        ("s1", "stage", 0),
        ("s1.0", "block", 1),
        ("s1.1", "block", 1),
        ("s2", "stage", 0),
        ("s2.0", "block", 1),
    ]
    tops = [row for row in table.regions if row.depth == 0]
    assert total([table.outside.cost, *(row.cost for row in tops)]) == table.total.cost == graph.cost()
    assert table.total.seconds == pytest.approx(estimate(graph, PROFILES["T4"], 3))


@pytest.mark.parametrize("seed", range(5))
def test_any_network_has_a_table(seed: int) -> None:
    graph = random_graph(seed)
    table = cost_table(graph, nodes=True)
    assert {row.name for row in table.regions} == set(graph.regions)
    assert [row.name for row in table.nodes] == [graph.nodes[node_id].label for node_id in graph.order]
    assert total(row.cost for row in table.nodes) == table.total.cost


def test_the_table_as_text(graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    cost = small_resnet().cost()
    code, out, _ = run(["cost", graph_file], capsys)
    assert code == 0 and "MACs" in out and OUTSIDE in out and f"{cost.macs:,}" in out and "conv1" not in out
    assert "estimate" not in out
    code, out, _ = run(["cost", graph_file, "--nodes", "--flops"], capsys)
    assert code == 0 and "FLOPs" in out and f"{cost.flops:,}" in out and "\nconv1 " in out
    code, out, _ = run(["cost", graph_file, "--profile", "v100", "--batch", "32"], capsys)
    assert code == 0 and "batch of 32 on V100 (125,000 GFLOP/s, 900 GB/s)" in out


def test_the_table_as_data(graph_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    graph = small_resnet()
    code, out, _ = run(["cost", graph_file, "--json", "--nodes", "--profile", "T4", "--batch", "8"], capsys)
    data = json.loads(out)
    assert code == 0 and data["graph"] == graph.digest and data["batch"] == 8 and data["measured"] is None
    cost = graph.cost()
    assert data["total"]["macs"] == cost.macs and data["total"]["flops"] == cost.flops
    assert data["total"]["weight_bytes"] == cost.weight_bytes
    assert data["total"]["estimated_seconds"] == pytest.approx(estimate(graph, PROFILES["T4"], 8))
    assert len(data["nodes"]) == len(graph.nodes) and data["profile"]["name"] == "T4"


def test_estimate_and_measurement_stand_side_by_side(
    graph_file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("flops_per_second: 1e+11\nbytes_per_second: 2e+10\n")
    code, out, err = run(
        ["cost", graph_file, "--profile", str(profile), "--measure", "--device", "cpu", "--batch", "2"], capsys
    )
    assert code == 0, err
    assert "estimated: " in out and "on mine (100 GFLOP/s, 20 GB/s)" in out
    assert "measured:  " in out and "for a batch of 2 on cpu" in out


def test_here_is_the_device_at_hand(
    graph_file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasir.backends.torch.backend import TorchBackend

    asked: list[object] = []

    def calibrate(self: TorchBackend, device: str, threads: int | None) -> DeviceProfile:
        asked.append((device, threads))
        return DeviceProfile("this one", 1e9, 1e9)

    monkeypatch.setattr(TorchBackend, "calibrate", calibrate)
    code, out, _ = run(["cost", graph_file, "--profile", "here", "--device", "cpu", "--threads", "1"], capsys)
    assert code == 0 and "on this one" in out and asked == [("cpu", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "V1000"], "V100"),
        (["--profile", "missing.yaml"], "missing.yaml"),
        (["--batch", "0"], "--batch 0"),
        (["--measure", "--device", "moon"], "moon"),
        (["--measure", "--device", "cpu", "--threads", "0"], "threads: 0"),
    ],
)
def test_bad_options_end_with_2_and_a_message(
    arguments: list[str], message: str, graph_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["cost", graph_file, *arguments], capsys)
    assert code == 2 and message in err and not out


def test_a_bad_profile_is_refused_before_the_network_is_read() -> None:
    def load() -> Graph:
        raise AssertionError("read")

    parser = argparse.ArgumentParser()
    cost_command.add_options(parser)
    with pytest.raises(UsageError, match="V1000"):
        cost_command.run(load, parser.parse_args(["x", "--profile", "V1000"]))


def test_counting_never_imports_torch(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    code = (
        "import sys; from nasir.cli.main import main\n"
        f"assert main(['cost', {spec!r}, '--profile', 'V100', '--nodes']) == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["cost", "show"])
def test_overrides_of_what_is_no_spec_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.json").write_text(json.dumps(small_resnet().to_json()))
    code, _, error = run([command, str(tmp_path / "net.json"), "--set", "seed=1"], capsys)
    assert code == 2 and "--set changes a spec, and this is a graph" in error
