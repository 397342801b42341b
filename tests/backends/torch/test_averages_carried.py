"""Averaged weights go through rewrites as the weights do: what keeps the network keeps the averaged one, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from grown import pyramid
from small_runs import SPEC, write_spec
from test_session import opened

import nasir.api
from nasir.backends.torch.observe.logits import logits_of
from nasir.backends.torch.session import TorchSession
from nasir.errors import ClaimError
from nasir.ir import Draft, Graph
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_norms import RemoveNorms
from nasir.passes.split_branches import SplitBranches
from nasir.records import RewriteRecord
from nasir.registry import passes, register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass, Rewrite
from nasir.running.decisions import EXACT
from nasir.transfer import AxisTake, Blob, Key, Take


def averaged_logits(session: TorchSession) -> torch.Tensor:
    assert session.ema is not None
    with session.ema.applied(session.model):
        return logits_of(session.model, session.source.probe(16))


def carried_out(session: TorchSession, change: Pass) -> Rewrite:
    """The rewrite, once it was found exact on both networks, which must differ."""
    rewrite = change.attempt(session.model.graph, WHOLE, session.observe(change.needs))
    before = averaged_logits(session)
    assert float((before - logits_of(session.model, session.source.probe(16))).abs().max()) > 1e-2
    effect = session.propose(rewrite)
    session.accept()
    assert effect.averaged is not None
    for part in (effect, effect.averaged):
        assert part.delta_logits <= EXACT * max(1.0, part.largest_logit)
    assert float((averaged_logits(session) - before).abs().max()) == effect.averaged.delta_logits
    return rewrite


def test_joined_classifiers_of_averaged_branches_are_those_of_their_averages(tmp_path: Path) -> None:
    split = SplitBranches(branches=3, how="random", average="logits")
    graph = split.attempt(pyramid((1, 1), 4, size=8, classes=3), "s2").graph
    with opened(tmp_path, graph, epochs=2) as session:
        assert carried_out(session, MergeBranches()).preserves == "exact"


def test_norms_are_folded_into_averages_by_the_averages_of_their_statistics(tmp_path: Path) -> None:
    for number, block in enumerate(("basic", "preact_basic")):
        graph = pyramid((1, 1), 4, block=block, size=8, classes=3)
        with opened(tmp_path / str(number), graph, epochs=2) as session:
            assert carried_out(session, RemoveNorms(form="skipinit")).preserves == "exact"


def silence(session: TorchSession, units: list[int], averages: bool) -> None:
    """Some channels of the first norm put out a constant from now on, in the averaged network another one."""
    assert session.ema is not None
    norm = next(n.label for n in session.model.graph.nodes.values() if n.op == "batch_norm")
    tensors = session.model.state_dict()
    with torch.no_grad():
        tensors[f"{norm}.weight"][units] = 0.0
        tensors[f"{norm}.bias"][units] = 1.0
        session.ema.tensors[f"{norm}.bias"][units] = 3.0
        if averages:
            session.ema.tensors[f"{norm}.weight"][units] = 0.0


def chain() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("relu", draft.add("batch_norm", draft.add("conv2d", x, "a", out=6, kernel=3, padding=1), "bn"), "act")
    x = draft.add("relu", draft.add("conv2d", x, "b", out=4, kernel=1), "act_b")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "gap"), "fc", out=3))
    return draft.commit()


GAMMA = PruneChannels(score="norm_scale", threshold=0.0)


def test_constants_are_folded_into_averages_as_the_averaged_network_has_them(tmp_path: Path) -> None:
    with opened(tmp_path, chain(), epochs=2) as session:
        silence(session, [1, 4], averages=True)
        assert carried_out(session, GAMMA).preserves == "exact"


def test_what_is_silent_in_the_weights_only_is_folded_and_not_called_exact(tmp_path: Path) -> None:
    with opened(tmp_path, chain(), epochs=2) as session:
        silence(session, [1, 4], averages=False)
        seen = session.observe(GAMMA.needs)
        rewrite = GAMMA.attempt(session.model.graph, WHOLE, seen)
        assert rewrite.preserves == "no"
        effect = session.propose(rewrite)
        assert effect.delta_logits <= EXACT * max(1.0, effect.largest_logit) and effect.averaged is not None
        blind = GAMMA.attempt(session.model.graph, WHOLE, Evidence(seen.measured))  # folded as the weights have it
        assert blind.preserves == "exact"
        wrong = session.propose(blind).averaged
        assert wrong is not None and effect.averaged.delta_logits < wrong.delta_logits


@dataclass(frozen=True)
class Forgetful(Pass):
    """Renews a bias by the numbers that it has, which the average is not told."""

    needs = (Need("weights"),)

    def sites(self, graph: Graph) -> list[str]:
        return list(graph.regions)

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        key = Key(draft.base.find("fc"), "weight")
        values = seen.weight("fc", "weight").copy()
        nothing = AxisTake(np.arange(len(values)), np.zeros(len(values)))
        draft.source(*key, Take(key, (nothing, None), shift=Blob(draft.blob(values), values.shape)))
        draft.claim("exact")


def test_a_claim_that_only_the_averaged_network_breaks_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_objects", dict(passes._objects))
    register("forgetful")(Forgetful)
    spec = write_spec(tmp_path, SPEC.replace("insert-block: {init: gaussian}", "forgetful: {}"))
    with pytest.raises(
        ClaimError, match=r"forgetful at .* changes the logits of the averaged weights of the probe batch"
    ):
        nasir.api.run(spec, tmp_path / "run")


def test_the_journal_tells_what_a_rewrite_did_to_the_averaged_network(tmp_path: Path) -> None:
    run = nasir.api.run(write_spec(tmp_path, SPEC.replace("until: all_frozen", "epochs: 2")), tmp_path / "run")
    deltas = [record.delta_logits_averaged for record in run.journal if isinstance(record, RewriteRecord)]
    assert deltas and all(delta > 0.0 for delta in deltas)
