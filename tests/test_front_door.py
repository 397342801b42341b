"""What `import nasir` offers, and how it answers: names, ways to give a spec, one-line reprs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_records import made

import nasir
import nasir.passes
from nasir.errors import NasirError, SpecError, UnknownName
from nasir.ir import Graph, Node, Port, parse
from nasir.registry import passes

LAZY = ("nasir", "nasir.passes", "nasir.search")
QUICKSTART = Path(__file__).parents[1] / "specs/quickstart.yaml"
TEXT = """\
nasir: 1
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - classifier: {classes: 3}
data: {dataset: synthetic, options: {classes: 3, train: 60, test: 30}, batch_size: 20, validation: 20}
phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]
device: cpu
"""
ONE_LINE = (
    "{nasir: 1, input: {image: [3, 8, 8]}, network: [{conv_bn_relu: {out: 4}}, {classifier: {classes: 3}}], "
    "data: {dataset: synthetic}, phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]}"
)


def seen_by_type_checkers(package: str) -> dict[str, str]:
    """Name -> home of everything that a package imports for type checkers only."""
    tree = ast.parse(Path(str(importlib.import_module(package).__file__)).read_text(encoding="utf-8"))
    homes = {}
    for block in tree.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                for alias in node.names:
                    known = alias.asname or alias.name
                    home = f"{node.module}.{alias.name}" if node.module == package else str(node.module)
                    homes[known] = home if known == alias.name else f"{home}:{alias.name}"
    return homes


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_what_is_offered(package: str) -> None:
    assert seen_by_type_checkers(package) == importlib.import_module(package)._HOME


@pytest.mark.parametrize("package", LAZY)
def test_every_name_is_there_and_listed(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    assert "InsertBlok" not in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'InsertBlok'"):
        module.InsertBlok  # noqa: B018


def test_every_shipped_pass_is_a_class_of_nasir_passes() -> None:
    points = [point.value for point in passes._entry_points().values() if point.value.startswith("nasir.passes.")]
    assert sorted(points) == sorted(f"{home}:{name}" for name, home in nasir.passes._HOME.items())
    assert nasir.passes.InsertBlock is nasir.get_pass("insert-block")


def test_a_pass_that_is_no_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes._objects, "no-pass", len)
    with pytest.raises(NasirError, match=r"'no-pass'.*register a subclass of nasir\.Pass"):
        nasir.get_pass("no-pass")
    with pytest.raises(UnknownName, match="did you mean 'insert-block'"):
        nasir.get_pass("insert-blok")


def test_a_spec_is_a_path_or_a_text_or_a_spec() -> None:
    spec = nasir.load_spec(QUICKSTART)
    assert nasir.load_spec(spec) is spec
    assert nasir.load_spec(str(QUICKSTART)).digest == spec.digest == nasir.load_spec(QUICKSTART.read_text()).digest
    assert nasir.build(spec) == nasir.build(QUICKSTART) == nasir.build(str(QUICKSTART)) == nasir.build(str(spec))
    assert nasir.build(TEXT).depths() == {"s1": 1}
    assert nasir.build(ONE_LINE).cost().params == 108 + 8 + 15
    assert nasir.load_search(TEXT.replace("lr: 0.1", "lr: {choose: [0.1, 0.2]}")).trials > 0


def test_overrides_apply_to_each_of_them() -> None:
    for given in (TEXT, nasir.load_spec(TEXT), nasir.Spec.model_validate(nasir.load_spec(TEXT).resolved())):
        changed = nasir.load_spec(given, ["data.batch_size=7", "seed=3"])
        assert (changed.data.batch_size, changed.seed, changed.phases[0].epochs) == (7, 3, 1)
    assert nasir.load_spec(nasir.load_spec(TEXT), ["seed=3"]).data.seed == 3
    with pytest.raises(SpecError, match=r"--set data\.batch_sise=7: data\.batch_sise: unknown key"):
        nasir.load_spec(nasir.load_spec(TEXT), ["data.batch_sise=7"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone.yaml", r"gone\.yaml: no such file; .*; as YAML text it is one value \('gone\.yaml'\), not a mapping"),
        ("[a, b", r"no such file; .*; as YAML text it cannot be read either \(<spec>:1:6: "),
        ("gone.yaml\n", r"<spec>:1:1: as YAML text it is one value .*, and a path it is not: it has a line break"),
        ("- a\n", r"<spec>:1:1: as YAML text it is a list, .* and a path it is not: it has a line break"),
        ("", r"as YAML text it is empty, .* and a path it is not: it is empty"),
        ("a" * 5000, "cannot be read .*; as YAML text it is one value"),
        ("a\0b", "cannot be read .*; as YAML text it cannot be read either"),
        ("nasir: 1", "<spec>:1:1: input: is required"),
        (Path("nasir: 1"), "nasir: 1: no such file"),
        (TEXT + "  indented: [", "<spec>:10:[0-9]+: not YAML: "),
        (TEXT.replace("classes: 3}\n", "clases: 3}\n"), "<spec>:6:18: .*did you mean 'classes'"),
        ({"nasir": 1}, "given by its path or as YAML text, not as dict"),
        (b"gone.yaml", "given by its path or as YAML text, not as bytes"),
        (None, "given by its path or as YAML text, not as NoneType"),
    ],
)
def test_what_is_no_spec_is_told_in_every_reading(given: Any, message: str) -> None:
    for take in (nasir.load_spec, nasir.build, nasir.run):
        with pytest.raises(SpecError, match=message):
            take(given)


def test_a_graph_prints_as_its_text_and_shows_as_a_line() -> None:
    graph = nasir.build(TEXT)
    assert parse(str(graph)) == graph and str(graph) + "\n" == graph.to_text()
    assert repr(graph) == f"<Graph: 13 nodes, 435 parameters, digest {graph.digest[:12]}>"
    broken = Graph({0: Node("relu", (Port(1),), {}, "a")}, (Port(0),), {}, 1)
    assert repr(broken) == "<Graph: 1 nodes, malformed: GraphError>"


def test_a_run_shows_without_its_journal() -> None:
    graph = nasir.build(TEXT)
    run = nasir.Run(Path("runs/one"), graph, {"test.accuracy": 0.5}, (made("epoch"),) * 1000)
    assert repr(run) == (
        f"Run(path={Path('runs/one')!r}, graph={graph!r}, metrics={{'test.accuracy': 0.5}}, prefix_epochs=0)"
    )


def test_rewrites_plans_and_specs_show_as_a_line() -> None:
    graph = nasir.build(TEXT)
    rewrite = nasir.passes.InsertBlock().apply(graph, "s1")
    assert rewrite is not None
    size = "13 -> 20 nodes, 435 -> 739 parameters"
    assert repr(rewrite) == f"<Rewrite: insert-block at s1: {size}, preserves: exact>"
    assert repr(rewrite.plan) == "<TransferPlan: 12 Fill>"
    assert repr(nasir.passes.Freeze().attempt(graph, "s1").plan) == "<TransferPlan: everything is kept>"
    spec = nasir.load_spec(TEXT)
    assert repr(spec) == f"<Spec: spec, 1 phases, from <spec>, digest {spec.digest[:12]}>"
    assert nasir.load_spec(str(spec)).digest == spec.digest


TYPED = """
from typing import assert_type
import nasir
from torch import nn, optim

def init(module: nn.Module) -> None: ...

graph = nasir.build("specs/quickstart.yaml")
assert_type(nasir.get_pass("insert-block"), type[nasir.Pass])
grow = nasir.get_pass("insert-block")(init="zero")
assert_type(grow.apply(graph, "s1", on_decline=print), nasir.Rewrite | None)
model = nasir.Model.from_graph(graph)
optimizer = optim.SGD(model.parameters())
assert_type(model.apply(grow, "s1", optimizers=[optimizer], on_decline=print), nasir.Rewrite | None)
assert_type(model.apply(grow.attempt(graph, "s1"), optimizers=[optimizer]), nasir.Rewrite)
assert_type(model.apply(init), nasir.Model)
"""


@pytest.mark.slow
def test_type_checkers_know_the_front_door(tmp_path: Path) -> None:
    def checked(text: str) -> tuple[int, str]:
        (tmp_path / "own.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "own.py")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=QUICKSTART.parents[1], check=False)
        return done.returncode, done.stdout + done.stderr

    code, told = checked(TYPED)
    assert code == 0, told
    code, told = checked("import nasir\nnasir.Modle\nnasir.passes.InsertBlock(innit='zero')\n")
    assert code == 1 and "own.py:2: " in told and '"Modle"' in told and "own.py:3: " in told and '"innit"' in told, told
