"""The command line as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import SPEC, write_spec

from nasir.cli.main import main
from nasir.ir import Draft, Graph
from nasir.report.diff import difference


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_describes_network_and_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["check", str(write_spec(tmp_path))], capsys)
    assert code == 0
    assert "tiny: correct" in out and "phase finetune: 2 epochs" in out and "s2.0" in out
    code, out, _ = run(["check", "--json", str(write_spec(tmp_path))], capsys)
    assert json.loads(out)["depths"] == {"s1": 1, "s2": 1}


def test_simulation_prints_which_rewrite_fires_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("epoch,val.accuracy\n1,0.5\n2,0.6\n")
    code, out, _ = run(["check", str(write_spec(tmp_path)), "--simulate", str(metrics)], capsys)
    assert code == 0
    assert out.count("insert-block at") == 4 and "depth 3-3" in out


def test_show_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_spec(tmp_path)
    second = tmp_path / "deeper.yaml"
    second.write_text(SPEC.replace("out: 4, depth: 1", "out: 4, depth: 2"))
    code, out, _ = run(["show", str(first)], capsys)
    assert code == 0 and "total:" in out
    code, out, _ = run(["diff", str(first), str(second)], capsys)
    assert code == 3 and "depth of s1: 1 -> 2" in out and "+ block s1.1" in out
    code, out, _ = run(["diff", str(first), str(first)], capsys)
    assert code == 0 and out == "the same architecture\n"
    code, out, _ = run(["show", str(first), "--text"], capsys)
    graph = tmp_path / "graph.txt"
    graph.write_text(out)
    assert run(["diff", str(first), str(graph)], capsys)[0] == 0
    code, out, _ = run(["show", str(first), "--json"], capsys)
    (tmp_path / "graph.json").write_text(out)
    assert run(["diff", str(graph), str(tmp_path / "graph.json")], capsys)[0] == 0


@pytest.mark.parametrize("kind", ["passes", "ops", "blocks", "datasets", "specs", "backends", "policies"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["list", kind, "--json"], capsys)
    assert code == 0 and json.loads(out)


def test_list_shows_type_words_range_and_default_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {}
    for kind in ("passes", "policies", "blocks", "ops"):
        _, out, _ = run(["list", kind, "--json"], capsys)
        listed |= {(kind, entry["name"]): entry["options"] for entry in json.loads(out)}
    insert = listed["passes", "insert-block"]
    assert insert["init"]["enum"][:2] == ["zero", "gaussian"] and insert["init"]["default"] == "zero"
    assert insert["tolerance"] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0.005}
    number, text = listed["passes", "expand-to-budget"]["budget"].pop("anyOf")
    assert number == {"type": "number", "exclusiveMinimum": 0} and text["type"] == "string"  # such as 40M
    assert listed["passes", "expand-to-budget"]["budget"] == {"required": True}
    assert listed["policies", "evolve"]["population"] == {"type": "integer", "minimum": 1, "default": 10}
    assert listed["policies", "rules"] == {}
    assert listed["blocks", "bottleneck"]["expansion"] == {"type": "integer", "minimum": 1, "default": 4}
    assert listed["ops", "dropout"]["p"] == {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "default": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "missing.yaml"], "no such file"),
        (["resume", "missing"], "no run here"),
        (["report", "missing"], "no run here"),
        (["show", "missing.json"], "missing.json"),
        (["replay", "."], "no run here"),
    ],
)
def test_bad_arguments_end_with_2_and_a_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(arguments, capsys)
    assert code == 2 and message in err and "Traceback" not in err


TWICE = 'nasir graph 1 minted 2\n%0 "x" = input() shape=[2]\n%1 "x" = relu(%0)\noutput %1\n'
REFUSED = 'nasir graph 1 minted 2\n%0 "x" = input() shape=[2]\n%1 "y" = conv2d(%0) out=4 kernel=3\noutput %1\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{}"), ("b.json", "null"), ("c.txt", "garbage"), ("d.txt", TWICE), ("e.txt", REFUSED)],
)
def test_a_file_that_is_no_graph_is_bad_input(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    code, _, err = run(["show", str(tmp_path / name)], capsys)
    assert code == 2 and name in err and "--json" in err


def test_diff_finds_networks_that_only_differ_in_their_wiring() -> None:
    def network(source: int) -> Graph:
        draft = Draft()
        ports = [draft.add("input", (), "x", shape=[4, 4, 4])]
        for label in ("a", "b"):
            ports.append(draft.add("conv2d", ports[-1], label, out=4, kernel=1))
        draft.output(draft.add("add", (ports[2], ports[source]), "sum"))
        return draft.commit()

    assert difference(network(0), network(0)) == ()
    assert [str(change) for change in difference(network(0), network(1))] == ["~ inputs of sum: b:0, x:0 -> b:0, a:0"]
