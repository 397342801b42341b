"""The policy of docs/policies.md: 25 lines of code in a plugin file, contract and a real run that it steers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_docs import files_of

import nasir
from nasir.cli.main import main
from nasir.journal.directory import RunDirectory
from nasir.policy import PhasePlan, RulePlan
from nasir.records import RewriteRecord
from nasir.registry import policies
from nasir.running.replay import compare, replay_graphs
from nasir.testing import PolicyContract

FILES = files_of("policies.md")
LAWS = sorted(name for name in vars(PolicyContract) if name.startswith("test_"))
GROW = RulePlan("grow", "insert-block", {"init": "zero"})


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_objects", dict(policies._objects))  # what is registered here ends with the test


def documented() -> Any:
    scope: dict[str, Any] = {"__name__": "random_growth"}
    exec(compile(FILES["random_growth.py"], "random_growth.py", "exec", dont_inherit=True), scope)
    return scope["RandomGrowth"]


def test_it_is_short() -> None:
    code = [line for line in FILES["random_growth.py"].splitlines() if line.strip()]
    assert len(code) <= 25


@pytest.mark.parametrize("law", LAWS)
def test_it_keeps_the_contract(law: str) -> None:
    policy = documented()
    plan = PhasePlan("phase", epochs=40, rules=(GROW,), policy="random-growth")

    class Suite(PolicyContract):
        make = staticmethod(lambda: policy(plan, 0, policy.Options(0.6)))

    getattr(Suite(), law)()


def test_one_that_reads_records_as_dicts_decides_alike() -> None:
    """The way that policies were written for 0.1."""
    text = FILES["random_growth.py"]
    for new, old in (
        ("isinstance(record, EpochRecord | DecisionRecord)", "record['kind'] in ('epoch', 'decision')"),
        ("isinstance(last[0], DecisionRecord)", "last[0]['kind'] == 'decision'"),
        ("last[0].epoch", "last[0]['epoch']"),
        ("from nasir.records import DecisionRecord, EpochRecord\n", ""),
    ):
        assert new in text
        text = text.replace(new, old)
    today = documented()
    scope: dict[str, Any] = {"__name__": "random_growth"}
    exec(compile(text, "random_growth.py", "exec", dont_inherit=True), scope)
    before, plan = scope["RandomGrowth"], PhasePlan("phase", epochs=40, rules=(GROW,), policy="random-growth")

    def played(policy: Any) -> Any:
        class Suite(PolicyContract):
            make = staticmethod(lambda: policy(plan, 0, policy.Options(0.6)))

        return Suite().play(fresh=False)

    assert played(before) == played(today)


@pytest.mark.slow
def test_it_steers_a_real_run_that_resumes_and_replays_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    spec = tmp_path / "random.yaml"
    assert main(["check", str(spec)]) == 0
    run = nasir.run(spec, out=tmp_path / "run")
    grown = [record for record in run.journal if isinstance(record, RewriteRecord)]
    assert grown and {record.pass_name for record in grown} == {"insert-block"}
    assert {record.site for record in grown} == {"s1", "s2"}
    assert run.metrics["test.accuracy"] > 0.8
    assert replay_graphs(RunDirectory.open(tmp_path / "run"))[-1] == run.graph

    class Killed(BaseException):
        pass

    def listener(record: dict[str, Any]) -> None:
        if record.n == grown[-1]["n"]:
            raise Killed

    with pytest.raises(Killed):
        nasir.run(spec, out=tmp_path / "killed", listener=listener)
    assert compare(run.journal, nasir.resume(tmp_path / "killed").journal) == []
    capsys.readouterr()
    assert main(["list", "policies"]) == 0
    listed = capsys.readouterr().out
    assert "evolve" in listed and "rules" in listed and "random-growth" in listed
