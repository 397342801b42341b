"""`deterministic: true` and a pool that CUDA cannot train deterministically: refused where it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nasir.cli.main import main
from nasir.errors import SpecError
from nasir.spec import loads_spec
from nasir.spec.network import build

ROOT = Path(__file__).parents[2]
SPEC = """\
nasir: 1
name: pools
device: cuda
deterministic: true
input: {image: [1, 8, 8]}
blocks:
  pooling: {branch: [{adaptive_avg_pool: {size: 3}}], shortcut: none}
network:
  - conv_bn_relu: {out: 8}
  - adaptive_avg_pool: {size: 3, label: pool}
  - flatten
  - linear: {out: 10}
data: {dataset: digits, batch_size: 64, validation: 0.15}
phases:
  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}
"""
TEXT = (
    "adaptive_avg_pool 'pool' pools 8x8 to 3x3 by windows that differ in size or overlap, and CUDA has no "
    "deterministic gradient for that; use a size that divides 8x8, such as 2, or set `deterministic: false` or "
    "`device: cpu`"
)


def heard(text: str, *overrides: str) -> list[str]:
    """What is noted while the network is built."""
    notes: list[str] = []
    build(loads_spec(text, "s.yaml", overrides), notes.append)
    return notes


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_spec_for_cuda_is_refused_at_the_step(device: str) -> None:
    with pytest.raises(SpecError) as caught:
        heard(SPEC, f"device={device}")
    assert str(caught.value) == f"s.yaml:10:24: network.1.adaptive_avg_pool: {TEXT}"


def test_all_nodes_are_named_at_once() -> None:
    text = SPEC.replace("  - flatten\n", "  - conv_bn_relu: {out: 4}\n  - adaptive_avg_pool: {size: 2}\n  - flatten\n")
    with pytest.raises(SpecError) as caught:
        heard(text)
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["s.yaml:10:24:", "s.yaml:12:24:"]
    assert "pools 3x3 to 2x2" in lines[1] and "such as 1, or set" in lines[1]


def test_with_device_auto_it_is_noted() -> None:
    (note,) = heard(SPEC, "device=auto")
    assert note == (
        f"s.yaml:10:24: network.1.adaptive_avg_pool: {TEXT}; with `device: auto` a run is refused where there is a "
        "CUDA device"
    )


@pytest.mark.parametrize(
    "override", ["device=cpu", "deterministic=false", "network.1.adaptive_avg_pool.size=4", "input={image: [1, 9, 9]}"]
)
def test_what_can_be_had_is_accepted(override: str) -> None:
    assert heard(SPEC, override) == []
    assert heard(SPEC, "device=auto", override) == []


def test_a_block_is_refused_at_the_stage_that_uses_it() -> None:
    text = SPEC.replace("adaptive_avg_pool: {size: 3, label: pool}", "pooling: {label: p}")
    with pytest.raises(SpecError, match=r"s\.yaml:10:\d+: network\.1\.pooling: adaptive_avg_pool 'p\.[^']+' pools 8x8"):
        heard(text)


def test_check_refuses_and_notes_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SPEC)
    assert main(["check", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}:10:24: network.1.adaptive_avg_pool: {TEXT}\n"
    assert main(["check", str(file), "--set", "device=auto"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("pools: correct") and shown.err.count("note: ") == 1 and TEXT in shown.err
    assert main(["check", str(file), "--set", "device=cpu"]) == 0
    assert capsys.readouterr().err == ""
    code = (
        f"import sys; from nasir.cli.main import main; main(['check', {str(file)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and TEXT in done.stderr


def test_a_search_is_refused_for_an_alternative_and_notes_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SPEC.replace("size: 3, label", "size: {choose: [4, 3]}, label"))
    assert main(["check", str(file)]) == 2
    assert "pools 8x8 to 3x3" in capsys.readouterr().err
    assert main(["check", str(file), "--set", "device=auto"]) == 0
    assert capsys.readouterr().err.count("pools 8x8 to 3x3") == 1
    assert main(["check", str(file), "--set", "device=auto", "--set", "deterministic=false"]) == 0
    assert "pools 8x8" not in capsys.readouterr().err


def test_a_run_is_refused_before_it_makes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "s.yaml", tmp_path / "run"
    file.write_text(SPEC)
    assert main(["run", str(file), "--out", str(out)]) == 2
    assert TEXT in capsys.readouterr().err and not out.exists()
