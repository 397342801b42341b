"""`network: {from: module | timm | torchvision}`: imported when a run begins, made again when it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Killed, killed_and_resumed, stable, weights

import nasir
import nasir.api
from nasir.cli.main import main
from nasir.errors import DataError, RunError, SpecError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.records import Record, StartRecord
from nasir.running.replay import replay_graphs
from nasir.spec.imported import NotImported, imported

CODE = """\
import torch
from gates import Gate
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, 8, 3, stride=2, padding=1)
        self.gate = Gate()
        self.cell = nn.GRU(8, 6, batch_first=True, dropout=0.0)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = self.gate(self.conv(torch.relu(self.norm(self.stem(x)))))
        x, _ = self.cell(x.flatten(2).transpose(1, 2))
        return self.fc(x[:, -1])


def make(classes, width=8):
    return Net(classes, width)


class Twice(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.cell = nn.GRU(6, 6, batch_first=True)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        for _ in range(2):
            x, _ = self.cell(x)
            x, _ = self.attend(x, x, x)
        return self.fc(x.mean(1))


class Averages(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, classes)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return {"logits": self.fc(x - self.mean)}


def tuples(classes):
    return nn.Linear(3, classes), None


def halves(classes):
    return make(classes).half()


def held(classes):
    net = make(classes)
    net.fc.weight.requires_grad_(False)
    return net


def images(classes):
    return nn.Conv2d(3, classes, 3)


def fails(classes):
    raise ValueError(f"no {classes} classes today")
"""
GATES = """\
from torch import nn


class Gate(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()
"""
SPEC = """\
nasir: 1
name: own
seed: 3
device: cpu
precision: fp32
channels_last: false
input: {image: [3, 8, 8]}
network: {from: module, module: net.py:make, args: {classes: 3}}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 96, test: 48}
  batch_size: 16
  validation: 24
phases:
  - name: prune
    epochs: 3
    optimizer: {adamw: {lr: 0.01}}
    ema: {decay: 0.9}
    rules:
      - every: 1
        do: {prune-channels: {fraction: 0.3}}
"""
NETWORK = "{from: module, module: net.py:make, args: {classes: 3}}"


def written(folder: Path, network: str = NETWORK, more: str = "") -> Path:
    """The spec with another network, beside the code."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(CODE)
    (folder / "gates.py").write_text(GATES)
    spec = folder / "own.yaml"
    spec.write_text(SPEC.replace(NETWORK, network) + more)
    return spec


def first_network(spec: Path) -> tuple[nasir.Graph, torch.nn.Module, torch.nn.Module]:
    """The graph of a spec, the module that it was imported from, and the network that training begins with."""
    from nasir.backends.torch.backend import TorchBackend
    from nasir.backends.torch.importing.modules import module_of
    from nasir.running.engine import setup_of
    from nasir.spec.network import build, initial_plan

    made = nasir.load_spec(spec)
    module = imported(made)
    graph = build(made, module=module)
    session = TorchBackend().open(setup_of(made, spec.parent, module))
    session.build(graph, initial_plan(graph, made))
    session.close()
    return graph, module_of(module), session.model


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        NETWORK.replace("make", "Twice"),
        "{from: torchvision, model: resnet18, args: {num_classes: 3}}",
        "{from: torchvision, model: mobilenet_v3_small, classes: 3}",
        "{from: timm, model: resnet10t, classes: 3}",
    ],
)
def test_training_begins_with_the_network_of_the_module(network: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    text = written(tmp_path, network).read_text().replace("[3, 8, 8]", "[3, 32, 32]").replace("size: 8", "size: 32")
    spec = tmp_path / "own.yaml"
    spec.write_text(text)
    graph, module, model = first_network(spec)
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert graph.infer.types[graph.outputs[0]].shape == (3,)
    for own, other in ((module.eval(), model.eval()), (module.train(), model.train())):
        torch.manual_seed(1)
        wanted = own(x)
        torch.manual_seed(1)
        assert torch.equal(other(x), wanted)
    held = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    assert held.isdisjoint(id(tensor) for tensor in model.state_dict(keep_vars=True).values())
    assert len(list(model.parameters())) == len(list(module.parameters()))  # shared ones once
    _, again, _ = first_network(spec)  # drawn by the seed of the spec
    drawn = dict(again.named_parameters())
    assert all(torch.equal(drawn[name], value) for name, value in module.named_parameters())


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """With a module that no rule types, which the resumed run makes anew and fills from the checkpoint."""
    spec = written(tmp_path)
    whole = nasir.api.run(spec, tmp_path / "whole")
    assert [record.kind for record in whole.journal].count("rewrite") == 2
    assert any(node.attrs["live"] for node in whole.graph.nodes.values() if node.facts.family == "opaque")
    for ordinal in (2, 7):
        other = killed_and_resumed(spec, tmp_path / f"killed{ordinal}", ordinal)
        assert stable(other.journal) == stable(whole.journal) and weights(other.path) == weights(whole.path)
    assert replay_graphs(RunDirectory.open(whole.path))[-1] == whole.graph
    start = whole.journal[0]
    assert isinstance(start, StartRecord) and start.imported is not None
    assert start.imported["module"] == "net.py:make" and set(start.imported["code"]) == {"net.py", "gates.py"}
    assert start.imported["untyped"]["cell"][0] == "torch.nn.modules.rnn.GRU"
    assert "cell (torch.nn.modules.rnn.GRU), " in start.imported["untyped"]["cell"][1]


@pytest.mark.slow
def test_another_run_goes_on_with_its_network(tmp_path: Path) -> None:
    spec = written(tmp_path)
    parent = nasir.api.run(spec, tmp_path / "parent")
    child = tmp_path / "child.yaml"
    child.write_text(spec.read_text().replace(NETWORK, "{from: run, run: parent}"))
    done = nasir.api.run(child, tmp_path / "child")
    assert done.journal[0].graph == parent.journal[-1].graph  # type: ignore[union-attr]
    child.write_text(child.read_text().replace("run: parent}", "run: parent, weights: none}"))
    with pytest.raises(SpecError, match=r"child.yaml:8:\d+: network.weights: .*'cell'.*; use `weights: last`"):
        nasir.api.run(child, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("file", ["net.py", "gates.py"])
def test_code_that_changed_is_told_before_the_run_goes_on(file: str, tmp_path: Path) -> None:
    from nasir.running.engine import Signals

    class Stop(Signals):
        def wanted(self) -> bool:
            self.exit_code = 75
            return True

    spec = written(tmp_path)
    with pytest.raises(nasir.NasirError, match="stopped"):
        nasir.api.run(spec, tmp_path / "run", signals=Stop())
    with (tmp_path / file).open("a") as code:
        code.write("\n# another line\n")
    with pytest.raises((SpecError, RunError), match=rf"{file}.* changed since the run began.*; restore it"):
        nasir.api.resume(tmp_path / "run")


def test_buffers_that_forward_computes_go_on_in_a_run(tmp_path: Path) -> None:
    text = written(tmp_path, NETWORK.replace("make", "Averages")).read_text()
    spec = tmp_path / "own.yaml"
    spec.write_text(text[: text.index("    rules:")])
    run = nasir.api.run(spec, tmp_path / "run")
    newest = RunDirectory(run.path).checkpoint(RunDirectory(run.path).checkpoint_steps()[-1])
    assert load_file(newest / "model.safetensors")["mean.value"].abs().min() > 0


def test_logits_that_do_not_fit_the_data_are_told_with_the_way_to_change_them(tmp_path: Path) -> None:
    spec = written(tmp_path, NETWORK.replace("classes: 3", "classes: 4"))
    with pytest.raises(DataError, match=r"gives \[4\] logits, .* has 3 classes; .*, or the `args:` of a module"):
        nasir.api.run(spec, tmp_path / "run")


def test_stored_weights(tmp_path: Path) -> None:
    spec = written(tmp_path)
    _, module, _ = first_network(spec)
    state = {
        name: torch.randn(value.shape) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        spec = written(tmp_path, NETWORK.replace("}}", "}, weights: " + name + "}"))
        _, _, model = first_network(spec)
        held = model.state_dict()
        assert all(torch.equal(held[name], value) for name, value in state.items())
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w.pt of net.py:make: holds 'model', 'epoch', not tensors by name; store"):
        first_network(spec)
    torch.save({**state, "stem.weight": torch.zeros(9, 3, 3, 3)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"stem.weight has shape \(9, 3, 3, 3\) there and \(8, 3, 3, 3\) here"):
        first_network(spec)
    (tmp_path / "w.pt").write_bytes(b"not a file of weights")
    with pytest.raises(DataError, match="holds no state_dict"):
        first_network(spec)
    (tmp_path / "w.pt").unlink()
    with pytest.raises(SpecError, match=r"own.yaml:8:\d+: network.weights: no file .*w.pt; paths are relative to the"):
        first_network(spec)


def test_a_classifier_of_another_size_stays_fresh_where_classes_are_given(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.mobilenet_v3_small()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    network = "{from: torchvision, model: mobilenet_v3_small, classes: 3, weights: w.pt}"
    _, _, model = first_network(written(tmp_path, network))
    held = model.state_dict()
    assert torch.equal(held["features.0.0.weight"], net.features[0][0].weight)
    assert held["classifier.3.weight"].shape == (3, 1024)
    with pytest.raises(DataError, match=r"classifier.3.weight has shape \(1000, 1024\) there and \(3, 1024\) here"):
        first_network(written(tmp_path, network.replace("classes: 3", "args: {num_classes: 3}")))


def kill(ordinal: int, record: Record) -> None:
    if record.n == ordinal:
        raise Killed


@pytest.mark.slow
def test_stored_weights_count_until_there_is_a_checkpoint(tmp_path: Path) -> None:
    spec = written(tmp_path)
    state = first_network(spec)[1].state_dict()
    torch.save(state, tmp_path / "w.pt")
    spec = written(tmp_path, NETWORK.replace("}}", "}, weights: w.pt}"))
    whole = nasir.api.run(spec, tmp_path / "whole")
    assert stable(killed_and_resumed(spec, tmp_path / "early", 1).journal) == stable(whole.journal)

    for folder, ordinal in (("before", 1), ("after", 7)):
        with pytest.raises(Killed):
            nasir.api.run(spec, tmp_path / folder, listener=partial(kill, ordinal))
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, tmp_path / "w.pt")
    with pytest.raises(RunError, match=r"w.pt: changed since the run began; restore it, or start a new run"):
        nasir.api.resume(tmp_path / "before")
    (tmp_path / "w.pt").unlink()
    with pytest.raises(DataError, match=r"w.pt cannot be read \(No such file or directory\); restore it"):
        nasir.api.resume(tmp_path / "before")
    assert stable(nasir.api.resume(tmp_path / "after").journal) == stable(whole.journal)


@pytest.mark.slow
def test_latency_is_measured_where_the_module_is_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = written(tmp_path)
    run = nasir.api.run(spec, tmp_path / "run")
    for what in (spec, run.path):
        assert main(["cost", "--measure", "--import", "--device", "cpu", "--json", str(what)]) == 0
        assert json.loads(capsys.readouterr().out)["graph"]
    assert main(["cost", "--measure", "--device", "cpu", str(run.path)]) == 1
    assert "GRU: a module of yours, which is not at hand" in capsys.readouterr().err


REFUSED = [
    ("tuples", "gives a tuple, not an nn.Module"),
    ("halves", "is torch.float16, and a run keeps weights as float32"),
    ("held", "fc.weight has requires_grad False"),
    ("images", r"gives \[3, 6, 6\] for each sample, not one number a class"),
    ("fails", "cannot be made: ValueError: no 3 classes today"),
]


@pytest.mark.parametrize(("function", "text"), REFUSED)
def test_what_no_run_can_train_is_refused_at_its_line(function: str, text: str, tmp_path: Path) -> None:
    spec = written(tmp_path, NETWORK.replace("make", function))
    with pytest.raises(SpecError, match=rf"own.yaml:8:\d+: network: .*{text}.*; "):
        nasir.api.run(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


WRONG = [
    ("{from: module, module: other.py:make}", r"network.module: .*other.py cannot be read .*; paths are relative"),
    ("{from: module, module: net.py:mak}", r"network.module: .*net.py has no function 'mak'; did you mean 'make'\?"),
    ("{from: module, module: net.py:make, args: {clases: 3}}", r"args.clases: make takes no 'clases'; did you mean"),
    ("{from: module, module: net.py:make}", r"network: make needs 'classes'; write `args: \{classes: ...\}`"),
    ("{from: module, module: net.py}", r"'net.py' names no function of a module; write package.module:function"),
    ("{from: module, module: net.py:make, classes: 3}", "network.classes: unknown key; sizes, such as the number of"),
    ("{from: module, module: net.py:make, weights: BEST}", "network.weights: 'BEST' is no file; name a file such as"),
    ("{from: timm, model: resnet10}", "network.model: unknown model 'resnet10' of timm; did you mean 'resnet10t'"),
    ("{from: torchvision, model: resnet19}", "unknown model 'resnet19' of torchvision; did you mean 'resnet18'"),
]


@pytest.mark.parametrize(("network", "text"), WRONG)
def test_a_check_tells_what_it_can_know(network: str, text: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SpecError, match=text) as told:
        nasir.load_spec(written(tmp_path, network))
    assert str(told.value).count("\n") == 0 and "own.yaml:8:" in str(told.value)


def test_other_initial_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="init: a network that is imported has the initial weights that its own code"):
        nasir.load_spec(written(tmp_path, more="init: he_normal\n"))


SILENT = """
import sys
from nasir.cli.main import main
codes = [main([command, sys.argv[1]]) for command in ("check", "show")]
print(codes, sorted({"torch", "torchvision", "timm", "gates"} & sys.modules.keys()))
"""


def test_check_and_show_run_no_code_of_the_network(tmp_path: Path) -> None:
    spec = written(tmp_path)
    (tmp_path / "net.py").write_text(CODE + "\nraise SystemExit('ran')\n")
    done = subprocess.run([sys.executable, "-c", SILENT, str(spec)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[0, 2] []", done.stderr
    assert "own: correct as far as can be told without its network" in done.stdout
    with pytest.raises(NotImported, match=r"own.yaml:8:10: network: the code that makes it is not run .*: net.py:make"):
        nasir.build(spec)


def test_check_and_show_import_where_that_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = written(tmp_path)
    assert main(["check", "--import", str(spec)]) == 0
    assert "own: correct\n" in capsys.readouterr().out
    assert main(["check", "--import", "--json", str(spec)]) == 0
    assert json.loads(capsys.readouterr().out)["params"] == sum(p.numel() for p in first_network(spec)[1].parameters())
    run = nasir.api.run(spec, tmp_path / "run")
    for what in (["show", "--import", str(spec)], ["show", str(run.path)]):
        assert main(what) == 0
        told = capsys.readouterr().out
        assert "torch.nn.modules.rnn.GRU" in told and "net.py:18" in told
        assert '@nasir.importing.rule("torch.nn.modules.rnn.GRU")' in told


def test_code_by_path_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASIR_ALLOW_LOCAL_CODE", "0")
    with pytest.raises(UsageError, match=r"network.module: NASIR_ALLOW_LOCAL_CODE=0 forbids Python files by path"):
        nasir.api.run(written(tmp_path), tmp_path / "run")


PLUGIN = """\
from nasir.importing import Typed, rule


@rule("gates.Gate")
def gate(place, x, value):
    return Typed("OP", (x,), {})
"""


def typed_by(op: str, folder: Path) -> Path:
    """The spec with a plugin whose rule says that a gate is an op."""
    spec = written(folder, more="plugins: [./gate_rule.py]\n")
    (folder / "gate_rule.py").write_text(PLUGIN.replace("OP", op))
    return spec


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that a test registers are gone after it."""
    from nasir.importing import extending
    from nasir.importing.rules import place

    monkeypatch.setattr(place, "RULES", dict(place.RULES))
    monkeypatch.setattr(extending, "RULES", place.RULES)
    monkeypatch.setattr(extending, "LEAVES", set())


@pytest.mark.usefixtures("own_rules")
def test_a_plugin_has_rules_of_its_own(tmp_path: Path) -> None:
    run = nasir.api.run(typed_by("silu", tmp_path), tmp_path / "run")
    gate = run.graph.nodes[run.graph.find("gate")]
    assert gate.op == "silu" and gate.facts.family != "opaque"


@pytest.mark.usefixtures("own_rules")
@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("gelu", "net.py:make: the network gives numbers that differ from the module's by .*; a rule that types one"),
        ("flatten", "gates.Gate in gate .*flatten gives .* nasir's rule is wrong"),
    ],
)
def test_a_rule_that_is_wrong_is_told(op: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=rf"own.yaml:8:10: network: .*{text}"):
        nasir.api.run(typed_by(op, tmp_path), tmp_path / "run")


@pytest.mark.usefixtures("own_rules")
def test_a_rule_that_fails_is_named() -> None:
    from nasir.importing import rule

    @rule(torch.nn.Mish)
    def broken(place: object, x: int, value: object) -> str:
        return str(1 // (x - x))

    with pytest.raises(nasir.NasirError, match=r"Mish in 0 .*: the rule .*broken failed: ZeroDivisionError.*; mend it"):
        nasir.from_module(torch.nn.Sequential(torch.nn.Mish()), torch.randn(2, 3))
    rule("torch.nn.modules.activation.Mish")(lambda place, x, value: "mish")
    with pytest.raises(nasir.NasirError, match="gives a str; let it give Typed or None"):
        nasir.from_module(torch.nn.Sequential(torch.nn.Mish()), torch.randn(2, 3))
    with pytest.raises(UsageError, match="name what it is for"):
        rule()
