"""`backend:` of a spec: which backend runs, resumes and searches use, and what is said of one that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_runs import SPEC, stable, write_spec

import nasir
from nasir.cli.main import main
from nasir.errors import NasirError, SpecError, UnknownName
from nasir.records import Record, RewriteRecord
from nasir.registry import backends
from nasir.search import devices
from nasir.spec import loads_search, loads_spec
from nasir.training.backend import make_backend

PLUGIN = '''
from pathlib import Path

from nasir.backends.torch.backend import TorchBackend
from nasir.registry import backends


@backends.register("noted")
class Noted(TorchBackend):
    """Torch, which notes what it is asked for."""

    def open(self, setup):
        return self._noted("open", super().open(setup))

    def measure(self, *args, **options):
        return self._noted("measure", super().measure(*args, **options))

    def cuda_devices(self):
        return self._noted("count", 2)

    def _noted(self, what, answer):
        with Path(__file__).with_name("noted.txt").open("a") as file:
            file.write(what + "\\n")
        return answer
'''
SHORT = SPEC[: SPEC.index("    until: all_frozen")] + "    epochs: 2\n"
NAMED = SHORT.replace("device: cpu\n", "device: cpu\nbackend: noted\nplugins: [./noted.py]\n")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_objects", dict(backends._objects))  # what is registered here ends with the test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "noted.py").write_text(PLUGIN)
    return tmp_path


def noted(folder: Path) -> list[str]:
    file = folder / "noted.txt"
    return file.read_text().split() if file.exists() else []


def test_a_run_and_its_resumption_use_the_backend_that_the_spec_names(folder: Path) -> None:
    plain = nasir.run(write_spec(folder, SHORT), out=folder / "plain")
    assert noted(folder) == []
    spec = write_spec(folder, NAMED)
    assert main(["check", str(spec)]) == 0 and noted(folder) == []
    run = nasir.run(spec, out=folder / "run")
    assert noted(folder) == ["open"] and stable(run.journal) == stable(plain.journal)
    assert yaml.safe_load((folder / "run" / "spec.yaml").read_text())["backend"] == "noted"
    assert "backend" not in yaml.safe_load((folder / "plain" / "spec.yaml").read_text())

    class Killed(BaseException):
        pass

    def listener(record: Record) -> None:
        if isinstance(record, RewriteRecord):
            raise Killed

    with pytest.raises(Killed):
        nasir.run(spec, out=folder / "killed", listener=listener)
    assert stable(nasir.resume(folder / "killed").journal) == stable(run.journal)
    assert noted(folder) == ["open"] * 3


@pytest.mark.slow
def test_trials_of_a_search_train_and_measure_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = "search: {trials: 1, objectives: [{minimize: latency_ms}, {maximize: val.accuracy}]}\n"
    spec = write_spec(folder, NAMED.replace("seed: 3", "seed: {choose: [3, 4]}") + search)
    assert main(["search", str(spec), "--study", str(folder / "study"), "--workers", "1"]) == 0, capsys.readouterr()
    assert noted(folder) == ["open", "measure"]


def test_devices_are_counted_by_the_backend_in_this_process_where_only_a_plugin_file_knows_it(folder: Path) -> None:
    exec(compile(PLUGIN, str(folder / "noted.py"), "exec"), {"__file__": str(folder / "noted.py"), "__name__": "noted"})
    assert devices.visible({devices.VISIBLE: "6,7,8"}, "noted") == ("6", "7") and noted(folder) == ["count"]
    assert backends.installed("torch") and not backends.installed("noted")


def test_an_unknown_backend_is_told_with_its_place_and_the_closest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, SHORT.replace("device: cpu\n", "backend: torhc\n"))
    for command in (["check", str(spec)], ["run", str(spec), "--out", str(tmp_path / "run")]):
        assert main(command) == 2
        shown = capsys.readouterr().err
        assert "tiny.yaml:4:10: backend: unknown backend 'torhc'; did you mean 'torch'?" in shown, shown
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match=r"backend: expected text, found 3"):
        loads_spec(SHORT + "backend: 3\n")
    with pytest.raises(UnknownName, match="unknown backend 'torhc'"):
        make_backend("torhc")


def test_where_plugins_may_know_it_a_check_in_text_notes_it() -> None:
    [note] = loads_spec(NAMED).notes
    assert "5:10: unknown backend 'noted' here; a run must find it in the plugins" in note


def test_a_spec_that_names_the_default_is_the_spec_that_names_none() -> None:
    bare, named = loads_spec(SHORT), loads_spec(SHORT + "backend: torch\n")
    assert bare.backend == named.backend == "torch" and bare.digest == named.digest
    assert bare.resolved() == named.resolved() and "backend" not in named.resolved()
    other = loads_spec(NAMED)
    assert other.digest != bare.digest and loads_spec(other.to_yaml()).backend == "noted"


def test_it_cannot_be_chosen() -> None:
    text = SHORT + "backend: {choose: [torch, noted]}\nsearch: {trials: 1, objectives: [{maximize: val.accuracy}]}\n"
    with pytest.raises(SpecError, match="`backend` cannot be chosen: the devices of the workers are counted by it"):
        loads_search(text)


def test_a_backend_that_cannot_be_made_is_an_error_with_its_name() -> None:
    @backends.register("picky")
    class Picky:
        def __init__(self, device: str) -> None: ...

    with pytest.raises(NasirError, match=r"backend 'picky' .*cannot be made: TypeError: .*; a backend is a class that"):
        make_backend("picky")


def test_costs_are_measured_by_the_backend_that_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PLUGIN, str(folder / "noted.py"), "exec"), {"__file__": str(folder / "noted.py"), "__name__": "noted"})
    spec = write_spec(folder, SHORT)
    measure = ["cost", str(spec), "--measure", "--device", "cpu", "--threads", "1", "--json", "--backend"]
    assert main([*measure, "noted"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["device"] == "cpu" and noted(folder) == ["measure"]
    assert main([*measure, "torhc"]) == 2
    assert "did you mean 'torch'?" in capsys.readouterr().err
