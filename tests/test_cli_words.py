"""What the command line says by itself: help with examples, misspelt words, completion, and networks compared."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from nasir.cli.main import _parser, main
from nasir.ir import Graph
from nasir.records import ResumeRecord
from nasir.registry import passes
from nasir.report.diff import difference, summary
from nasir.report.progress import line
from nasir.spec import loads_spec
from nasir.spec.network import build

COMMANDS = sorted(_parser().commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_examples_that_it_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = _parser().commands[name]
    assert parser.examples
    for example in parser.examples:
        program, *arguments = shlex.split(example.partition(" > ")[0])
        assert program == "nasir" and _parser().parse_args(arguments).command == name
    text = parser.format_help()
    assert text.rstrip().endswith(parser.examples[-1])
    assert max(map(len, text.splitlines())) <= 80 or name in ("list", "completion")  # words that cannot be broken


def test_the_help_of_nasir_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, _parser().format_help().splitlines())) <= 80


def test_lists_fit_the_terminal_and_have_a_line_each_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "passes"]) == 0
    piped = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["list", "passes"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and shown.split() == piped.split()
    assert len(piped.splitlines()) == len(passes.names()) < len(shown.splitlines())


def test_where_a_run_goes_on_from_is_told() -> None:
    assert line(ResumeRecord(supersedes_from=9, checkpoint_step=75)) == "resumed from checkpoint 75"
    assert "started over" in line(ResumeRecord(supersedes_from=1, checkpoint_step=None))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "a.yaml"], "unknown 'rum'; did you mean run?"),
        (["run", "a.yaml", "--sett", "a=b"], "unrecognized arguments: --sett a=b; did you mean --set?"),
        (["search", "a.yaml", "--worker-per-device=2"], "did you mean --workers-per-device?"),
        (["list", "pases"], "unknown 'pases'; did you mean passes?"),
        (["list", "zebras"], "invalid choice: 'zebras'"),
        (["run", "a.yaml", "--zebras"], "unrecognized arguments: --zebras\n"),
    ],
)
def test_misspelt_words_are_told_with_the_closest_known_one(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="shtab is not installed (pip install 'nasir[completion]')")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in (*COMMANDS, "workers-per-device", "datasets"))


def test_completion_without_shtab_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'nasir[completion]'" in capsys.readouterr().err


SPEC = """\
nasir: 1
name: small
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 16, kernel: 3}
  - stage: {name: s1, block: basic, out: 16, depth: 2}
  - stage: {name: s2, block: basic, out: 32, depth: 2, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.1}
phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]
"""


def network(old: str = "", new: str = "") -> Graph:
    return build(loads_spec(SPEC.replace(old, new)))


def test_a_network_that_was_narrowed_is_told_in_a_few_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = summary(network(), network("out: 32, depth: 2", "out: 18, depth: 3"))
    assert lines[:4] == (
        "~ depth of s2: 2 -> 3",
        "+ 1 block: s2.2",
        "~ 5 layers conv2d: widths 32 -> 18",
        "~ 12 nodes that follow them: batch_norm, relu, add, global_avg_pool",
    )
    assert lines[4].startswith("~ params: 42,938 -> ") and lines[4].endswith(" %)")
    assert len(lines) == 7 and "-v lists each" in lines[-1]
    few = network("out: 32, depth: 2", "out: 32, depth: 3")
    assert summary(network(), few) == tuple(map(str, difference(network(), few)))
    assert summary(network(), network()) == ()
    (tmp_path / "a.yaml").write_text(SPEC)
    (tmp_path / "b.yaml").write_text(SPEC.replace("out: 32", "out: 18"))
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    assert main(["diff", *files]) == 3
    short = capsys.readouterr().out.splitlines()
    assert main(["diff", "-v", *files]) == 3
    assert len(short) == 5 < len(capsys.readouterr().out.splitlines())
