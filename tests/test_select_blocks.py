"""RRR-Net's selection of blocks: the fixed sweep of 47 configurations, and greedy selection by trials."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_records import made
from small_runs import stable, weights, write_spec

import nasir.api
from nasir.backends.torch import Model
from nasir.errors import Decline, JournalError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.passes.keep_blocks import KeepBlocks
from nasir.passes.select_blocks import SelectBlocks
from nasir.records import EndRecord, RewriteRecord, TrialRecord
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Rewrite
from nasir.rewriting.stored_blocks import pieces
from nasir.running.replay import replay_graphs
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import random_weights

SWEEP = """\
nasir: 1
name: sweep
seed: 5
device: cpu
precision: fp32
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: layer1, block: bottleneck, out: 2, depth: 2}
  - stage: {name: layer2, block: bottleneck, out: 4, depth: 3, stride: 2}
  - classifier: {classes: 3}
data: {dataset: synthetic, options: {classes: 3, channels: 3, train: 96, test: 48}, batch_size: 16, validation: 24}
phases:
  - name: pretrain
    epochs: 1
    optimizer: {adamw: {lr: 0.01, weight_decay: 0.01}}
    rules: [{when: end, do: {keep-blocks: {depths: 1, archive: true}}}]
  - name: reduced
    epochs: 1
    reset_optimizer: true
  - repeat: 3
    phases:
      - name: step
        epochs: 1
        reset_optimizer: true
        rules: [{when: start, do: select-blocks}]
"""
GREEDY = (
    SWEEP[: SWEEP.index("  - repeat")]
    + """\
  - name: greedy
    until: all_frozen
    rules:
      - every: 1
        do: select-blocks
        trial: {epochs: 1, metric: train.loss, min_gain: -100}
"""
)


def bottlenecks(*depths: int, classes: int = 5) -> Graph:
    stages = "".join(
        f"  - stage: {{name: layer{n + 1}, block: bottleneck, out: {2 << n}, depth: {depth}, stride: {1 + (n > 0)}}}\n"
        for n, depth in enumerate(depths)
    )
    text = (
        "nasir: 1\nname: x\ninput: {image: [3, 32, 32]}\nnetwork:\n  - conv_bn_relu: {out: 8}\n"
        f"{stages}  - classifier: {{classes: {classes}}}\ndata: {{dataset: synthetic}}\n"
        "phases:\n  - {name: p, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )
    return build(loads_spec(text))


def host(graph: Graph) -> Evidence:
    weights_of = random_weights(graph, 0)
    named = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in weights_of.items()}
    return Evidence({"weights": named})


def record(rewrite: Rewrite) -> dict[str, Any]:
    return made("rewrite", {"noted": dict(rewrite.noted)})


def reduced(graph: Graph) -> tuple[Rewrite, list[dict[str, Any]]]:
    rewrite = KeepBlocks(depths=1, archive=True).attempt(graph, "network", host(graph))
    return rewrite, [record(rewrite)]


def test_the_sweep_of_resnet152_goes_through_the_47_configurations_of_the_paper() -> None:
    whole = bottlenecks(3, 8, 36, 3)
    rewrite, history = reduced(whole)
    graph, depths = rewrite.graph, [tuple(rewrite.graph.depths().values())]
    while True:
        try:
            step = SelectBlocks().attempt(graph, "network", Evidence(history=history))
        except Decline as refusal:
            assert "no block is put away" in str(refusal)
            break
        graph = step.graph
        history.append(record(step))
        depths.append(tuple(graph.depths().values()))
    expected = [(1, 1, 1, 1)]
    for stage, depth in enumerate((3, 8, 36, 3)):
        for blocks in range(2, depth + 1):
            expected.append((*expected[-1][:stage], blocks, *expected[-1][stage + 1 :]))
    assert depths == expected and len(depths) == 47
    assert graph.digest == whole.digest and graph.labels.keys() == whole.labels.keys()


def test_blocks_come_back_with_the_weights_they_went_with() -> None:
    whole = Model.from_graph(bottlenecks(1, 3), seed=3)
    with torch.no_grad():
        for tensor in whole.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) + 0.5)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    gone = whole.apply(KeepBlocks(depths=(1, 1), archive=True), "network", images=torch.rand(2, 3, 32, 32))
    assert gone is not None and whole.graph.depths() == {"layer1": 1, "layer2": 1}
    history, blobs = [record(gone)], dict(gone.blobs)
    with torch.no_grad():
        for tensor in whole.state_dict().values():
            tensor.zero_()  # what is trained in the meantime is kept, what comes back is as it was
    for site in ("layer2", "network"):
        step = SelectBlocks().attempt(whole.graph, site, Evidence(history=history))
        whole.apply(replace(step, blobs=blobs))
        history.append(record(step))
    after = whole.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        back = name.startswith(("layer2.1", "layer2.2"))
        assert torch.equal(tensor, before[name]) if back else not tensor.any(), name


def test_fresh_weights_and_stages_can_be_asked_for() -> None:
    rewrite, history = reduced(bottlenecks(2, 2))
    step = SelectBlocks(weights="fresh").attempt(rewrite.graph, "layer2", Evidence(history=history))
    assert step.graph.depths() == {"layer1": 1, "layer2": 2} and not step.plan.digests()
    with pytest.raises(Decline, match="no block of stage 'layer2' is put away"):
        SelectBlocks().attempt(step.graph, "layer2", Evidence(history=[*history, record(step)]))
    assert [piece.path for piece in pieces([*history, record(step)])] == ["layer1.1"]


def test_a_stage_whose_width_has_changed_takes_no_block_back() -> None:
    rewrite, history = reduced(bottlenecks(1, 2))
    draft = rewrite.graph.draft()
    stream = next(s for s in rewrite.graph.infer.spaces if s.name.startswith("layer2.0") and s.size == 16)
    draft.select(stream, range(12))
    with pytest.raises(Decline, match=r"block 'layer2.1' reads \(16, 16, 16\), stage 'layer2' puts out \(12"):
        SelectBlocks().attempt(draft.commit(), "network", Evidence(history=history))


# -- runs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    return nasir.api.run(write_spec(folder, SWEEP), folder / "run").path


def test_a_sweep_is_warm_started_from_step_to_step_and_replayed(sweep: Path) -> None:
    directory = RunDirectory.open(sweep)
    rewrites = [r for r in directory.effective() if isinstance(r, RewriteRecord)]
    assert [list(r.depths.values()) for r in rewrites] == [[1, 1], [2, 1], [2, 2], [2, 3]]
    assert [r.added for r in rewrites[1:]] == [["layer1.1"], ["layer2.1"], ["layer2.2"]]
    assert rewrites[0]["removed"] == ["layer1.1", "layer2.1", "layer2.2"]
    assert rewrites[0]["noted"]["archive"].keys() == {"layer1.1", "layer2.1", "layer2.2"}
    graphs = replay_graphs(directory)
    assert graphs[-1].digest == graphs[0].digest and graphs[1].digest != graphs[0].digest
    (end,) = [record for record in directory.effective() if isinstance(record, EndRecord)]
    arrays = {path.stem for path in (sweep / "blobs").glob("*.npy")} - {end.confusion}
    assert arrays == {
        digest for piece in rewrites[0]["noted"]["archive"].values() for digest, _ in piece["weights"].values()
    }


def test_a_damaged_array_is_found_by_replay(sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    plan = RunDirectory.open(copy).effective()
    digest = next(
        d
        for r in plan
        if isinstance(r, RewriteRecord)
        for d in re.findall(r'"blob":"([0-9a-f]{64})"', (copy / "blobs" / f"{r['plan']}.json").read_text())
    )
    path = copy / "blobs" / f"{digest}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalError, match=r"\.npy: damaged: its values are not those it is named after"):
        replay_graphs(RunDirectory.open(copy))
    path.unlink()
    with pytest.raises(JournalError, match=r"\.npy: cannot be read"):
        replay_graphs(RunDirectory.open(copy))


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("text", [SWEEP, GREEDY], ids=["sweep", "greedy"])
@pytest.mark.parametrize("stop", [2, 4])
def test_a_selection_that_is_killed_goes_on_alike(text: str, stop: int, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = nasir.api.run(write_spec(tmp_path / "whole", text), tmp_path / "whole" / "run")
    seen = 0

    def listener(entry: dict[str, Any]) -> None:
        nonlocal seen
        seen += isinstance(entry, RewriteRecord | TrialRecord)
        if seen == stop:
            seen += 1
            raise Killed

    with pytest.raises(Killed):
        nasir.api.run(write_spec(tmp_path, text), tmp_path / "run", listener=listener)
    done = nasir.api.resume(tmp_path / "run")
    assert stable(done.journal) == stable(whole.journal) and weights(done.path) == weights(whole.path)


def test_greedy_selection_tries_the_next_block_of_each_stage(tmp_path: Path) -> None:
    done = nasir.api.run(write_spec(tmp_path, GREEDY), tmp_path / "run")
    tried = [(r.epoch, r.site) for r in done.journal if isinstance(r, TrialRecord)]
    assert tried[:3] == [(3, None), (3, "layer1"), (3, "layer2")]
    assert list(done.graph.depths().values()) == [2, 3], "every block is worth it when the bar is that low"
    grown = [r for r in done.journal if isinstance(r, RewriteRecord) and r.pass_name == "select-blocks"]
    assert len(grown) == 3 and len(replay_graphs(RunDirectory.open(done.path))) == 5
    for rewrite in grown:
        losses = {
            r.site: r.metrics["train.loss"]
            for r in done.journal
            if isinstance(r, TrialRecord) and r.epoch == rewrite["epoch"] and r.site is not None
        }
        assert rewrite["site"] == min(losses, key=lambda site: losses[site])
