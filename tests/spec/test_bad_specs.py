"""Malformed specs: each ends in one message with file, line, column, path, problem and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from spec_examples import VALID, bad_cases, changed

from nasir.errors import SpecError
from nasir.spec import load_spec, loads_spec

CASES = bad_cases(Path(__file__).with_name("bad_specs.txt"))


def message(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        loads_spec(text, "s.yaml")
    return str(caught.value)


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_malformed_spec_is_told_where_and_what_and_how_to_mend_it(text: str, expected: list[str]) -> None:
    lines = message(text).splitlines()
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        assert line.startswith(wanted.removesuffix("...")) if wanted.endswith("...") else line == wanted


def test_the_table_is_large() -> None:
    assert len(CASES) > 140


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = changed("name: small", "name: a/b").replace("classes: 10", "classes: 1").replace("try-this", "try-that")
    assert [line.split(": ")[0] for line in message(text).splitlines()] == ["s.yaml:2:7", "s.yaml:8:27", "s.yaml:15:14"]


def test_a_phase_without_length_is_told_of_both_its_end_and_its_schedule() -> None:
    lines = message(changed("    epochs: 20\n", "")).splitlines()
    assert len(lines) == 2
    assert "'finetune' never ends" in lines[0]
    assert "staircase needs to know how long the phase is" in lines[1]


def test_an_alias_bomb_is_refused_while_it_is_read() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert message("\n".join(rows)).startswith("s.yaml:5:15: a4.1: the spec has more than 20000 values once aliases")


def test_nesting_through_aliases_counts_as_nesting() -> None:
    rows = [f"a0: &a0 {'[' * 20}x{']' * 20}"]
    rows += [f"a{i}: &a{i} {'[' * 20}*a{i - 1}{']' * 20}" for i in range(1, 4)]
    assert message("\n".join(rows)) == "s.yaml:3:29: values are nested more than 48 deep; check the brackets"


def test_deep_nesting_is_refused() -> None:
    assert message("a: " + "[" * 5000) == "s.yaml:1:51: values are nested more than 48 deep; check the brackets"


def test_an_ordinary_alias_is_accepted() -> None:
    text = changed("{init: gaussian}", "&o {init: gaussian}") + "    rules:\n      - {every: 5, do: {try-this: *o}}\n"
    assert loads_spec(text).phases[1].rules[0].options == {"init": "gaussian"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"nasir: 1\nname: \xff\xfe\n", "s.yaml:2:7: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        (b"\x89PNG\r\n\x00\x00", "s.yaml: is a binary file; a spec is YAML text"),
        (b"", "s.yaml:1:1: the spec is empty; start with"),
        (b"#" * (1 << 20) + b"#", "s.yaml: is larger than 1048576 bytes; a spec describes data"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert str(caught.value).startswith(f"{tmp_path}/{problem}")


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_spec(file).resolved() == loads_spec(VALID).resolved()


def test_a_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(VALID)
    with pytest.raises(SpecError, match=r"quickstrat.yaml: no such file; did you mean .*quickstart.yaml"):
        load_spec(tmp_path / "quickstrat.yaml")
    with pytest.raises(SpecError, match=r"no such file; the folder .*nowhere does not exist either"):
        load_spec(tmp_path / "nowhere" / "s.yaml")


def test_a_run_directory_is_not_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is a directory, not a spec; give a file"):
        load_spec(tmp_path)
    (tmp_path / "spec.yaml").write_text(VALID)
    with pytest.raises(SpecError, match=r"give .*spec.yaml, or continue that run with `nasir resume"):
        load_spec(tmp_path)


def test_a_name_no_file_can_have_is_refused() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec("a\0b.yaml")


def test_every_truncation_of_a_spec_is_a_spec_or_a_spec_error() -> None:
    for end in range(0, len(VALID), 7):
        try:
            loads_spec(VALID[:end], "s.yaml")
        except SpecError as error:
            assert str(error).startswith("s.yaml:")
