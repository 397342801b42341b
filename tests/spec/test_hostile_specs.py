"""Specs made to exhaust, to hide or to pry: each is refused at its place, by a limit that the message names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzzing import unprintable, watched
from spec_examples import VALID

from nasir.cli.main import main
from nasir.errors import SpecError
from nasir.spec.network import build
from nasir.spec.search import load_any

GOOD = VALID.replace("try-this", "insert-block")
SEARCH = f"{GOOD}search: {{}}\n"


def message(folder: Path, text: str, *overrides: str) -> str:
    """What `nasir check` says of a spec, without its folder; within the limits of time and memory."""
    file = folder / "s.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught, watched():
        build(load_any(file, overrides)[0])
    told = str(caught.value)
    assert unprintable(told) is None
    return told.replace(f"{folder}/", "")


def changed(old: str, new: str, text: str = GOOD) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def numbers(count: int) -> str:
    return f"[{', '.join(map(str, range(1, count + 1)))}]"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "block: basic, out: 16}",
            "block: basic, out: 16, depth: 1000000000}",
            "s.yaml:6:12: network.1.stage: more than the 30000 nodes that a network may have; make it less deep",
        ),
        (
            "conv_bn_relu: {out: 16}",
            "conv_bn_relu: {out: 1000000000000}",
            "s.yaml:5:19: network.0.conv_bn_relu: conv2d 'conv1': out must be at most 16777216, not 1000000000000",
        ),
        (
            "conv_bn_relu: {out: 16}",
            "conv_bn_relu: {out: 16, kernel: 1000000001}",
            "s.yaml:5:19: network.0.conv_bn_relu: conv2d 'conv1': a weight or a value of 48000000096000000048 entries; "
            "at most 68719476736 fit",
        ),
        (
            "[3, 32, 32]",
            "[3, 1000000000, 1000000000]",
            "s.yaml:5:19: network.0.conv_bn_relu: input 'x': a weight or a value of 3000000000000000000 entries; "
            "at most 68719476736 fit",
        ),
    ],
)
def test_a_network_beyond_all_bounds_is_refused_at_its_step(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert message(tmp_path, changed(old, new)) == problem


def test_a_long_list_of_steps_is_built_in_time() -> None:
    with watched():
        assert len(build(changed("network:\n", "network:\n" + "  - relu\n" * 5000)).nodes) > 5000


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (
            f"batch_size: {{choose: {numbers(15_000)}}}",
            "s.yaml:9:63: data.batch_size.choose: 15000 alternatives up to here, and 2000 are the most; "
            "write a range such as `{int: [1, 9999]}`, or fewer",
        ),
        (
            f"batch_size: {{choose: [1, {numbers(15_000)[1:]}}}",  # 1 twice
            "s.yaml:9:63: data.batch_size.choose: 15001 alternatives up to here, and 2000 are the most; "
            "write a range such as `{int: [1, 9999]}`, or fewer",
        ),
    ],
)
def test_more_alternatives_than_a_check_can_look_at_are_refused(tmp_path: Path, choices: str, problem: str) -> None:
    assert message(tmp_path, changed("validation: 0.2", f"validation: 0.2, {choices}", SEARCH)) == problem


def test_alternatives_of_a_network_beyond_all_bounds_are_not_all_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr("nasir.spec.variants.build", lambda *given: built.append(1) or build(*given))
    deep = changed("block: basic, out: 16}", "block: basic, out: 16, depth: 32768}", SEARCH)
    (tmp_path / "s.yaml").write_text(changed("validation: 0.2", f"batch_size: {{choose: {numbers(40)}}}", deep))
    with pytest.raises(SpecError, match=r"network.1.stage: more than the 30000 nodes"):
        load_any(tmp_path / "s.yaml", ())
    assert len(built) == 1


def test_more_choices_than_a_space_can_hold_are_refused(tmp_path: Path) -> None:
    steps = "".join(f"    - relu: {{x{number}: {{choose: {{int: [1, 9]}}}}}}\n" for number in range(1001))
    told = message(tmp_path, f"{SEARCH}blocks:\n  a:\n    branch:\n{steps}")
    assert "blocks.a.branch.1000.relu.x1000: more than 1000 choices; choose fewer values" in told


def test_shared_choices_with_too_many_combinations_are_refused(tmp_path: Path) -> None:
    blocks = "".join(
        f"  b{n}: {{choose: {{cases: {{a: {{x: {{choose: [1, 2], name: y{n}}}}}, b: {{}}}}}}, name: n{n % 20}}}\n"
        for n in range(40)
    )
    told = message(tmp_path, f"{SEARCH}blocks:\n{blocks}")
    assert told.endswith(
        "shared choices that others lie in have more than 10000 combinations; "
        "let fewer choices of one name have choices inside"
    )


def test_a_grid_of_countless_points_is_refused(tmp_path: Path) -> None:
    ranges = ", ".join(["{choose: {int: [1, 9000000000000000000]}}"] * 290)
    told = message(tmp_path, f"{GOOD}search: {{sampler: grid}}\nblocks:\n  a: [{ranges}]\n")
    assert "search.sampler: the grid has 10^18 points or more, and 1,000,000 are the most" in told


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("a." * 1000 + "b=1", "a path of 1001 parts; a spec has values at most 48 deep"),
        (f"network.{'9' * 5000}=1", "network has items 0 to 3, not '999"),
        (f"network.{'٩' * 5}=1", "network has items 0 to 3, not '٩"),
        (
            f"data.batch_size={'9' * 5000}",
            "the value: the number 999999999999999999999999... does not fit into 64 bits",
        ),
        (f"network={'[' * 5000}", "the value: values are nested more than 48 deep"),
        ("name=\x1b[31m", "the value: the character U+001B is not allowed in YAML; remove it"),
        ("network.\x1b[31m=1", r"network has items 0 to 3, not '\x1b[31m'"),
    ],
)
def test_an_override_beyond_all_bounds_is_refused(tmp_path: Path, override: str, problem: str) -> None:
    told = message(tmp_path, GOOD, override)
    assert told.startswith("--set ") and problem in told and len(told) < 600


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"%YAML {'9' * 5000}.1\n---\n{GOOD}", "s.yaml:1:7: not YAML: a number is too large for what it stands for"),
        (changed("small", r'"\UFFFFFFFF"'), "s.yaml:2:10: not YAML: a number is too large for what it stands for"),
        (changed("digits", r'"\ud800"'), "s.yaml:9:17: data.dataset: the character U+D800 cannot be part of a value"),
        (changed("digits", r'"a\0b"'), "s.yaml:9:17: data.dataset: the character U+0000 cannot be part of a value"),
    ],
)
def test_text_that_yaml_cannot_hold_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert message(tmp_path, text).startswith(problem)


def test_keys_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = message(tmp_path, f'{GOOD}"\\e]0;owned\\a": 1\n')
    assert told.startswith(r"s.yaml:21:1: \x1b]0;owned\x07: unknown key")
    assert main(["check", str(tmp_path / "s.yaml")]) == 2
    assert "\x1b" not in capsys.readouterr().err
    # nor those that a plugin may know, which a note tells of
    unknown = changed("insert-block", '"a\\eb"').replace("digits", "cifar10")
    (tmp_path / "s.yaml").write_text(f"{unknown}plugins: [p.py]\n")
    assert main(["check", str(tmp_path / "s.yaml")]) == 0
    told = capsys.readouterr().err
    assert told.startswith("note: ") and "\x1b" not in told


def test_a_long_key_is_told_in_part(tmp_path: Path) -> None:
    told = message(tmp_path, f"{GOOD}? {'x' * 900_000}\n: 1\n")
    assert len(told) <= 2000 and told.startswith("s.yaml:21:3: xxx") and told.endswith("phases, search")


def test_many_problems_are_told_in_part(tmp_path: Path) -> None:
    told = message(tmp_path, GOOD + "".join(f"k{number}: 1\n" for number in range(5000)))
    assert 10_000 < len(told) <= 20_000 and told.startswith("s.yaml:21:1: k0: unknown key;")
    assert told.splitlines()[-1].endswith("more lines")


def test_a_file_that_is_extended_but_no_spec_is_not_repeated(tmp_path: Path) -> None:
    secrets = {
        "shadow": "root:$6$abc:20228:0:99999:7:::\n\nuser:$6$secret:1:0:1:7:::\n".replace("\n\n", "\n"),
        "token": "hunter2\n",
        "list": "- hunter2\n",
        "pin": "pin: 11111111111111111111111\n",
        "twice": "hunter2: 1\nhunter2: 2\n",
        "alias": "a: *hunter2\n",
        "map": '"hunter2 is the word": 1\n',
        "text": "hunter2, by name: x\n  and more\n",
    }
    for name, content in secrets.items():
        (tmp_path / name).write_text(content)
        told = message(tmp_path, f"extends: {name}\n{GOOD}")
        assert name in told and "s.yaml:1:10" in told
        assert not any(secret in told for secret in ("$6$", "hunter2", "1111"))


def test_what_is_extended_is_a_file_that_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/stdin", "/dev/zero"):
        problem = "is no regular file; name a file that holds a spec"
        told = message(tmp_path, f"extends: {name}\n{GOOD}")
        assert told.startswith("s.yaml:1:10: extends: ") and (told.endswith(problem) or "no such file" in told)
