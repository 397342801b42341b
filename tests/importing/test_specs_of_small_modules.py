"""`network: {from: module}` of a few layers: weights that do not fit, warnings as notes, files beside the spec."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import nasir
import nasir.api
from nasir.cli.main import main
from nasir.errors import SpecError
from nasir.spec.beside import digests_beside

CODE = """\
from torch import nn


def make(classes, width=16):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten(),
                         nn.Linear(16 * width, classes))


def hooked(classes):
    net = make(classes)
    net[0].register_forward_hook(lambda *a: None)
    return net


class Helped(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.head, self.aux = nn.Flatten(), nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, x):
        x = self.stem(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)
"""
SPEC = """\
nasir: 1
name: small
device: cpu
input: {image: [1, 8, 8]}
network: {from: module, module: net.py:make, args: {classes: 10}}
data: {dataset: digits, batch_size: 256, validation: 0.15}
phases:
  - name: train
    epochs: 1
    optimizer: {sgd: {lr: 0.05}}
"""


def written(folder: Path, more: str = "", function: str = "make") -> Path:
    (folder / "net.py").write_text(CODE)
    spec = folder / "small.yaml"
    spec.write_text(SPEC.replace(":make", f":{function}").replace("10}}", "10}" + more + "}"))
    return spec


def state(width: int = 16) -> dict[str, torch.Tensor]:
    layers = (nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(16 * width, 10))
    return nn.Sequential(*layers).state_dict()


def test_weights_of_other_sizes_are_told_at_their_line(tmp_path: Path) -> None:
    spec = written(tmp_path, ", weights: w.pt")
    torch.save(state(9), tmp_path / "w.pt")
    told = (
        rf"^{re.escape(str(spec))}:5:\d+: network\.weights: .*w\.pt of net\.py:make: "
        r"0\.weight has shape \(9, 1, 3, 3\) there and \(16, 1, 3, 3\) here, "
        r"0\.bias has shape \(9,\) there and \(16,\) here, 2\.weight .* here and 2 more; give the network the sizes"
    )
    with pytest.raises(SpecError, match=told):
        nasir.api.run(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_other_layers_are_told_by_name(tmp_path: Path) -> None:
    spec = written(tmp_path, ", weights: w.pt")
    stored = {name.replace("4.", "6."): tensor for name, tensor in state().items()}
    torch.save({**stored, "7.w": torch.ones(1), "8.w": torch.ones(1)}, tmp_path / "w.pt")
    told = r"only there are 6\.weight, 6\.bias, 7\.w and 1 more; only here are 4\.weight, 4\.bias; use the weights of"
    with pytest.raises(SpecError, match=told):
        nasir.api.run(spec, tmp_path / "run")
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(SpecError, match=r"small.yaml:5:\d+: network\.weights: .* holds no state_dict"):
        nasir.api.run(spec, tmp_path / "run")


def test_warnings_about_a_module_are_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = written(tmp_path, function="hooked")
    for command in (["run", str(spec), "--out", str(tmp_path / "run")], ["diff", "--import", str(spec), str(spec)]):
        assert main(command) == 0
        told = capsys.readouterr().err
        assert told.count("note: record: forward hooks of 0 were not called") == 1
        assert "NasirWarning" not in told
    with pytest.warns(nasir.NasirWarning, match="forward hooks of 0"):
        nasir.from_module(hooked(), torch.randn(2, 1, 8, 8))


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    net[0].register_forward_hook(lambda *a: None)
    return net


def test_auxiliary_heads_are_told_with_the_remedy(tmp_path: Path) -> None:
    told = r"small.yaml:5:\d+: network: net.py:Helped gives 2 tensors, .* one number a class; .* `aux_logits: false` in"
    with pytest.raises(SpecError, match=told):
        nasir.api.run(written(tmp_path, function="Helped"), tmp_path / "run")


def test_a_run_may_begin_in_the_folder_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `torch.classes` says that it lies, by a path that is relative."""
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "nowhere", SimpleNamespace(__file__="nowhere.py"))
    assert list(digests_beside(tmp_path / "net.py")) == ["net.py"]
    assert main(["run", "small.yaml", "--out", "run"]) == 0
