"""`init: adam`: what is trained right after it is made, refused where it is frozen, and counted in the average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import HEAD, write_spec
from test_session import opened

import nasir.api
from nasir.backends.torch.session import TorchSession
from nasir.cli.main import main
from nasir.journal.directory import RunDirectory
from nasir.passes.insert_block import InsertBlock
from nasir.records import DeclinedRecord, RewriteRecord
from nasir.spec import loads_spec
from nasir.spec.problems import SpecProblems

RULE = "{when: {at: [2]}, do: {insert-block: {init: adam, settle_epochs: 1}}, where: {stages: [STAGES]}}"


def phases(stages: str, *more: str, head: str = "") -> str:
    """A phase that inserts a settling block after its second epoch, with keys before its rules and rules before it."""
    rules = "".join(f"      - {rule}\n" for rule in (*more, RULE.replace("STAGES", stages)))
    optimizer = "    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}\n"
    return f"phases:\n  - name: grow\n    epochs: 3\n{head}{optimizer}    rules:\n{rules}"


def test_a_block_behind_a_freeze_is_declined_and_the_next_stage_gets_it(tmp_path: Path) -> None:
    """Of two stages one is frozen by a rule, which no check can know; a resumed run comes to the same."""
    text = HEAD + phases("s1, s2", "{when: {at: [1]}, do: freeze, where: {sites: [s1]}}")
    run = nasir.api.run(write_spec(tmp_path, text.replace("STAGES", "s1, s2")), tmp_path / "run")
    records = RunDirectory.open(run.path).effective()
    (declined,) = [record for record in records if isinstance(record, DeclinedRecord)]
    assert declined.site == "s1" and "frozen; use another `init`" in declined.reason and "s1.1." in declined.reason
    assert [r.site for r in records if isinstance(r, RewriteRecord) and r.settle] == ["s2"]
    assert run.graph.depths() == {"s1": 1, "s2": 2}


def test_declining_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as session:
        session.model.hold(["s1"])
        assert session.plan is not None
        object.__setattr__(session.plan, "freeze", ("s1",))
        before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
        graph = session.model.graph
        with pytest.raises(nasir.Decline, match=r"'s1\.1\.\w+' would be trained right after it"):
            session.propose(InsertBlock(init="adam").attempt(graph, "s1"))
        assert session.model.graph is graph and session._proposal is None
        assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())
        session.propose(InsertBlock(init="adam").attempt(graph, "s2"))


@pytest.mark.parametrize(
    ("freeze", "where", "refused"),
    [
        ("s1", "stages: [s1]", True),
        ("s1, s2", "stages: all", True),
        ("s1", "stages: [s1, s2]", False),
        ("s1.0", "stages: [s1]", False),
        ("s1.0", "sites: [s1.0]", False),
        ("s1", "sites: [s1.0]", True),
    ],
)
def test_a_check_refuses_what_only_frozen_places_are_named_for(freeze: str, where: str, refused: bool) -> None:
    text = HEAD + phases("s1", head=f"    freeze: [{freeze}]\n").replace("stages: [s1]", where)
    if not refused:
        assert loads_spec(text)
        return
    with pytest.raises(SpecProblems) as caught:
        loads_spec(text, "spec.yaml")
    line = text[: text.index("insert-block")].count("\n") + 1
    assert str(caught.value).startswith(f"spec.yaml:{line}:") and "it could never act" in str(caught.value)
    assert loads_spec(text.replace("init: adam, settle_epochs: 1", "init: zero"))


def test_the_command_line_tells_it_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, HEAD + phases("s1", head="    freeze: [s1]\n"))
    assert main(["check", str(spec)]) == 2
    assert "the phase freezes s1" in capsys.readouterr().err


def averages(session: TorchSession) -> dict[str, torch.Tensor]:
    assert session.ema is not None
    return session.ema.tensors


def test_settled_weights_enter_the_average_and_nothing_else_learns_there(tmp_path: Path) -> None:
    with opened(tmp_path, epochs=2) as session:
        rewrite = InsertBlock(init="adam", settle_lr=0.05).attempt(session.model.graph, "s2")
        session.propose(rewrite)
        session.accept()
        before = {name: tensor.clone() for name, tensor in averages(session).items()}
        assert rewrite.settle is not None
        assert session.settle(rewrite.settle, 2.0, lambda: False) is not None
        state = session.model.state_dict()
        settled = {f"{session.model.graph.nodes[node].label}.{slot}" for node, slot in rewrite.settle.slots}
        learned = {name for name, _ in session.model.named_parameters()}
        for name, tensor in averages(session).items():
            if name in settled or name not in learned:  # the others are statistics of norms
                assert torch.equal(tensor, state[name]), name
            else:
                assert torch.equal(tensor, before[name]), name
        assert settled and any(not torch.equal(before[name], state[name]) for name in settled)
        # what is evaluated is the settled block
        assert all(averages(session)[name].data_ptr() != state[name].data_ptr() for name in settled)
