"""`nasir export`: the forms that ship, one of a plugin file, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_runs import write_spec

import nasir
from nasir.cli.main import main
from nasir.errors import UsageError
from nasir.ir import Graph, parse
from nasir.registry import exporters
from nasir.training import Exportable, Exporter
from nasir.training.exporter import make_exporter


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    nasir.run(write_spec(folder), out=folder / "run")
    return folder / "run"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_text_forms_are_those_that_show_prints(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, flag in (("json", "--json"), ("text", "--text")):
        shown = printed(capsys, "show", str(run), flag)
        assert printed(capsys, "export", str(run), "--to", name) == shown
        file = tmp_path / f"graph.{'json' if name == 'json' else 'txt'}"
        assert f"wrote {file}" in printed(capsys, "export", str(run), "--to", name, "--out", str(file))
        assert file.read_text() == shown
        graph = parse(shown) if name == "text" else Graph.from_json(json.loads(shown))
        assert graph.depths() == {"s1": 3, "s2": 3}
        assert printed(capsys, "export", str(file), "--to", name) == shown


def test_a_page_and_a_spec(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "drawing.html"
    told = printed(capsys, "export", str(run), "--to", "html", "--out", str(page), "--json")
    assert json.loads(told) == {"wrote": str(page)} and "<svg" in page.read_text()
    assert printed(capsys, "export", str(run), "--to", "spec") == (run / "spec.yaml").read_text()
    spec = run.parent / "tiny.yaml"
    assert nasir.loads_spec(printed(capsys, "export", str(spec), "--to", "spec")).digest == nasir.load_spec(spec).digest


def test_weights_are_those_of_the_newest_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    newest = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
    file = tmp_path / "weights.safetensors"
    printed(capsys, "export", str(run), "--to", "safetensors", "--out", str(file))
    exported, wanted = (safetensors.torch.load_file(path) for path in (file, newest / "model.safetensors"))
    assert exported.keys() == wanted.keys() and all(torch.equal(exported[name], wanted[name]) for name in wanted)


OWN = '''\
from dataclasses import dataclass

from nasir.registry import exporters
from nasir.training import Exporter


@exporters.register("labels")
@dataclass(frozen=True)
class Labels(Exporter):
    """The labels of the nodes."""

    separator: str = ", "

    def text(self, source):
        return self.separator.join(source.graph.labels) + "\\n"
'''


def test_one_of_a_plugin_file(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "labels.py").write_text(OWN)
    given = ["export", str(run), "--to", "labels", "--plugin", str(tmp_path / "labels.py")]
    assert main([*given, "--option", "separator='; '"]) == 0
    captured = capsys.readouterr()
    assert "conv1; " in captured.out and "imported plugin" in captured.err
    assert main([*given, "--option", "separator=3"]) == 2
    assert "exporter labels: separator: expected text, found 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "txt"], "unknown exporter 'txt': did you mean 'text'?"),
        (["--to", "html"], "exporter html: what it writes cannot be printed; add `--out FILE`"),
        (["--to", "text", "--option", "x=1"], "exporter text: x: unknown option; this exporter takes none"),
        (["--to", "text", "--option", "x"], "--option x: expected KEY=VALUE"),
        (["--to", "text", "--option", "x=1", "--option", "x=2"], "x is given twice; keep one"),
        (["--to", "safetensors", "--out", "OUT", "--option", "weights=best"], "weights: unknown value 'best'"),
        (["--to", "safetensors", "--out", "OUT", "--option", "weights=average"], "has no moving average"),
        (
            ["--to", "text", "--plugin", "nowhere.py"],
            "nowhere.py cannot be read (No such file or directory); its path is relative to the current folder",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    arguments: list[str], told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), *[str(out) if argument == "OUT" else argument for argument in arguments]]) == 2
    captured = capsys.readouterr()
    assert told in captured.err and not captured.out and not out.exists()


def test_a_graph_has_no_spec_and_a_spec_has_not_run(run: Path, tmp_path: Path) -> None:
    source = Exportable(nasir.build(nasir.load_spec(run.parent / "tiny.yaml")), "tiny.txt")
    for name, told in (
        ("spec", "has no spec; name a spec or a run"),
        ("safetensors", "has no checkpoints; name a run"),
    ):
        with pytest.raises(UsageError, match=f"exporter {name}: tiny.txt {told}"):
            make_exporter(name, {}).write(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_definition_that_writes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters, "_objects", dict(exporters._objects))  # what is registered here ends with the test
    if "mute" not in exporters.names():
        exporters.register("mute")(type("Mute", (Exporter,), {}))
    with pytest.raises(UsageError, match=r"exporter 'mute'.*has neither a `text` nor a `write`"):
        make_exporter("mute", {})


BROKEN = '''
from dataclasses import dataclass
from nasir.registry import exporters
from nasir.training import Exporter

@exporters.register("failing")
@dataclass(frozen=True)
class Failing(Exporter):
    """Fails."""
    def text(self, source):
        raise LookupError("no such thing")

@exporters.register("silent")
@dataclass(frozen=True)
class Silent(Exporter):
    """Gives nothing."""
    def text(self, source):
        return None

@exporters.register("halved")
@dataclass(frozen=True)
class Halved(Exporter):
    """Gives half of a character, which is no UTF-8."""
    def text(self, source):
        return chr(0xDC80)

@exporters.register("stuck")
@dataclass(frozen=True)
class Stuck(Exporter):
    """Does not write."""
    def write(self, source, path):
        raise RuntimeError
'''


@pytest.mark.parametrize("filed", [False, True])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "raised LookupError: no such thing; mend its `text`"),
        ("silent", "raised TypeError: no text, but None; mend its `text`"),
        ("halved", "raised UnicodeEncodeError"),
        ("stuck", "raised RuntimeError; mend its `write`"),
    ],
)
def test_an_exporter_that_fails_is_named_with_its_place(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, message: str, filed: bool
) -> None:
    plugin, out = tmp_path / f"broken_{name}_{filed}.py", tmp_path / "out.txt"
    own = f"{name}-{filed}".lower()
    plugin.write_text(BROKEN.replace('register("', f'register("{own}-'))  # a name belongs to one file
    to = ["--out", str(out)] if filed or name == "stuck" else []
    named = f"{own}-{name}"
    assert main(["export", str(run), "--to", named, "--plugin", str(plugin), *to]) == 1
    error = capsys.readouterr().err
    assert f"error: exporter {named} ({plugin}:" in error and message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "message"), [("", "is a folder"), ("missing/x", "lies in missing, which is no folder")]
)
def test_a_place_where_no_file_can_be_is_told(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("text", "safetensors"):
        assert main(["export", str(run), "--to", name, "--out", out]) == 2
        assert f"it {message}; name a file in a folder that is there" in capsys.readouterr().err
