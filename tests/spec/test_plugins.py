"""Plugins by path: imported for a run only, recorded by content, forgotten when they fail."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fuzzing import watched
from spec_examples import VALID, changed

from nasir.errors import NasirError, SpecError, UsageError
from nasir.registry import Registry, passes
from nasir.spec import Spec, hash_code, import_plugins, load_spec
from nasir.spec.plugins import import_file

PASS = """
from __future__ import annotations
from dataclasses import dataclass
from nasir.registry import register

@register("{name}")
@dataclass(frozen=True)
class Mine:
    amount: int = 1
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    known = dict(passes._objects)
    yield
    passes._objects.clear()
    passes._objects.update(known)
    for name in [name for name in sys.modules if name.startswith("nasir_plugin_")]:
        del sys.modules[name]


def spec_with(folder: Path, plugin: str, action: str = "{from-path: {amount: 2}}") -> Spec:
    (folder / "mine.py").write_text(plugin)
    file = folder / "s.yaml"
    file.write_text(changed("{try-this: {init: gaussian}}", action) + "plugins: [./mine.py]\n")
    return load_spec(file)


def imported() -> list[str]:
    return [name for name in sys.modules if name.startswith("nasir_plugin_")]


@pytest.fixture(autouse=True)
def none_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in imported():
        monkeypatch.delitem(sys.modules, name)


def test_loading_a_spec_imports_nothing_and_notes_the_name_it_could_not_check(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, "raise SystemExit('must not run')")
    assert imported() == []
    assert spec.notes == (
        f"{tmp_path}/s.yaml:15:14: unknown pass 'from-path' here; a run must find it in the plugins the spec lists",
    )


def test_a_run_imports_what_the_spec_lists_and_records_its_content(tmp_path: Path) -> None:
    text = PASS.format(name="from-path")
    spec = spec_with(tmp_path, text)
    assert imported() == []
    [plugin] = import_plugins(spec)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert (plugin.path, plugin.sha256, plugin.module) == (
        str(tmp_path / "mine.py"),
        digest,
        f"nasir_plugin_mine_{digest[:16]}",
    )
    assert passes.get("from-path")(amount=2).amount == 2
    assert import_plugins(spec) == (plugin,)
    assert hash_code(spec) == (plugin,)


def test_a_copy_of_the_resolved_spec_still_finds_the_plugin(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, PASS.format(name="from-path"))
    (tmp_path / "run").mkdir()
    copy = tmp_path / "run" / "spec.yaml"
    copy.write_text(spec.to_yaml())
    again = load_spec(copy)
    assert again.digest == spec.digest
    assert [plugin.path for plugin in hash_code(again)] == [str(tmp_path / "mine.py")]


def refusal(spec: Spec) -> str:
    with pytest.raises(SpecError) as caught:
        import_plugins(spec)
    return str(caught.value)


def test_after_the_import_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    error = refusal(spec_with(tmp_path, PASS.format(name="from-paths")))
    assert error == (
        f"{tmp_path}/s.yaml:15:14: phases.0.rules.0.do.from-path: unknown pass 'from-path'; did you mean 'from-paths'?"
    )


def test_after_the_import_the_options_are_checked(tmp_path: Path) -> None:
    error = refusal(spec_with(tmp_path, PASS.format(name="from-path"), "{from-path: {amuont: 2}}"))
    assert error.endswith(
        ":15:26: phases.0.rules.0.do.from-path.amuont: unknown option of from-path; did you mean 'amount'?"
    )


@pytest.mark.parametrize(
    ("plugin", "fragment"),
    [
        ("1 / 0", "failed: ZeroDivisionError: division by zero; mend the plugin"),
        ("def (", "failed: SyntaxError: "),
        ("raise SystemExit(3)", "failed: SystemExit: 3; mend the plugin"),
        ("import nowhere_at_all", "failed: ModuleNotFoundError: "),
    ],
)
def test_a_plugin_that_fails_is_told_at_its_line_and_forgotten(tmp_path: Path, plugin: str, fragment: str) -> None:
    error = refusal(spec_with(tmp_path, plugin))
    assert error.startswith(f"{tmp_path}/s.yaml:21:11: plugins.0: {tmp_path}/mine.py {fragment}")
    assert imported() == []


def test_a_missing_plugin_is_told_at_its_line(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, "")
    (tmp_path / "mine.py").unlink()
    assert "plugins.0: " in (error := refusal(spec))
    assert error.endswith("cannot be read (No such file or directory); paths are relative to the spec")


def test_nothing_runs_if_one_of_the_files_is_missing(tmp_path: Path) -> None:
    spec = spec_with(tmp_path, PASS.format(name="from-path"))
    both = load_spec(spec.source, ["plugins=[" + str(tmp_path / "mine.py") + ", gone.py]"])
    refusal(both)
    assert imported() == []


def test_the_environment_can_forbid_local_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_with(tmp_path, PASS.format(name="from-path"))
    monkeypatch.setenv("NASIR_ALLOW_LOCAL_CODE", "0")
    assert "NASIR_ALLOW_LOCAL_CODE=0 forbids plugins by path; install them as packages instead" in refusal(spec)
    assert imported() == []


def test_a_spec_without_plugins_needs_none(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(VALID)
    assert import_plugins(load_spec(file)) == ()


def test_with_plugins_unknown_blocks_and_data_sets_are_notes_too(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    text = changed("- classifier", "- my_op\n  - classifier").replace("dataset: digits", "dataset: my_data")
    file.write_text(text + "plugins: [./mine.py]\n")
    assert [note.split(": ", 1)[1].split(" here")[0] for note in load_spec(file).notes] == [
        "unknown step 'my_op'",
        "unknown data set 'my_data'",
    ]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(3)", "failed to import: SystemExit: 3"),
        ("raise RuntimeError('\x1b[31m' + 'x' * 100_000)", r"failed to import: RuntimeError: \\x1b\[31mxxx"),
        ("this is no Python", "failed to import: SyntaxError: invalid syntax"),
        ("import module_that_is_not_there", "failed to import: ModuleNotFoundError: No module named"),
        ("", "failed to import: AttributeError: module 'broken_plugin' has no attribute 'Thing'"),
    ],
)
def test_an_entry_point_that_fails_to_import_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    registry = Registry("thing", "nasir.things")
    registry._points = {"mine": EntryPoint("mine", "broken_plugin:Thing", "nasir.things")}
    assert registry.names() == ("mine",)
    with pytest.raises(NasirError, match=rf"^thing 'mine' \(entry point 'broken_plugin:Thing'\) {told}") as caught:
        registry.get("mine")
    assert str(caught.value).endswith("; mend or uninstall its package") and len(str(caught.value)) <= 2000
    sys.modules.pop("broken_plugin", None)


@pytest.mark.parametrize(
    ("name", "told"),
    [("/dev/zero", "it has more than 16777216 bytes"), ("x" * 5000, "File name too long"), (".", "Is a directory")],
)
def test_a_plugin_that_is_no_file_to_import_is_refused(tmp_path: Path, name: str, told: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"{changed('try-this', 'insert-block')}plugins: ['{name}']\n")
    with pytest.raises(SpecError, match=rf"s.yaml:21:11: plugins.0: .* cannot be read \({told}\)"), watched():
        import_plugins(load_spec(file))
    with pytest.raises(UsageError, match=rf"cannot be read \({told}\)"):
        import_file(name)
