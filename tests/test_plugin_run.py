"""A plugin file beside a spec adds an op with its lowering, a block, a data set and a pass; one run uses them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import warm
from small_runs import SPEC as TINY
from small_runs import stable, write_spec

import nasir
from nasir.cli.main import main
from nasir.journal.directory import RunDirectory
from nasir.records import RewriteRecord
from nasir.running.replay import replay_graphs

PLUGIN = '''
from dataclasses import dataclass

import torch
from torch.nn import functional

from nasir import Decline, Need, Pass, op, register
from nasir.backends.torch import Call, lowering
from nasir.backends.torch.data.rawdata import RawData
from nasir.blocks import Maker
from nasir.ir import At, Port, ValueType
from nasir.registry import blocks, datasets


@op("my_elu")
def my_elu(at: At, x: ValueType) -> ValueType:
    """x for x > 0, else exp(x) - 1."""
    return x


@lowering("my_elu")
def _(attrs, inputs, out):
    return Call(functional.elu)


@blocks.register("elu_block")
def elu_block(make: Maker, x: Port, stride: int, out: int = 0) -> Port:
    """conv3x3 - norm - ELU."""
    y = make.conv(x, out or make.channels(x), "conv1", stride=stride)
    return make.node("my_elu", make.norm(y, "bn1"), "elu")


@datasets.register("stripes")
def stripes(options, where):
    """Horizontal against vertical stripes."""
    images = torch.zeros(80, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(80) % 2
    images[labels == 0, :, ::2] = 255
    images[labels == 1, :, :, ::2] = 255
    return RawData(images[:60], labels[:60], images[60:], labels[60:], ("horizontal", "vertical"))


@register("prune-quiet-channels")
@dataclass(frozen=True)
class PruneQuietChannels(Pass):
    """Remove the channels whose mean absolute activation is smallest."""

    fraction: float = 0.25
    floor: int = 2
    needs = (Need("activation_mean"),)

    def sites(self, graph):
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft, site, seen):
        score = seen.per_index("activation_mean", site)
        keep = max(self.floor, round(site.size * (1 - self.fraction)))
        if keep >= site.size:
            raise Decline(f"{site.size} channels, floor {self.floor}")
        draft.select(site, score.argsort()[::-1][:keep].copy())
'''

SPEC = """\
nasir: 1
name: plugged
device: cpu
plugins: [./my_plugin.py]
input: {image: [1, 8, 8]}
network:
  - conv: {out: 4, kernel: 3}
  - my_elu
  - stage: {name: s1, block: elu_block, out: 4, depth: 1}
  - classifier: {classes: 2}
data: {dataset: stripes, batch_size: 10, validation: 0.2}
precision: fp32
phases:
  - name: shrink
    epochs: 4
    optimizer: {adamw: {lr: 0.01, weight_decay: 0.01}}
    rules:
      - every: 1
        do: {prune-quiet-channels: {fraction: 0.25}}
        where: {order: all}
      - when: {at: [2]}
        do: {insert-block: {init: default}}
        where: {stages: [s1]}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    path = tmp_path / "plugged.yaml"
    path.write_text(SPEC)
    return path


def test_a_run_uses_an_op_a_block_a_data_set_and_a_pass_of_a_plugin(spec: Path, tmp_path: Path) -> None:
    notices: list[str] = []
    run = nasir.run(spec, out=tmp_path / "run", notice=notices.append)
    assert "my_plugin.py" in notices[0]
    pruned = [r.site for r in run.journal if isinstance(r, RewriteRecord) and r.pass_name == "prune-quiet-channels"]
    assert {"s1.0.conv1", "conv1"} <= set(pruned), pruned
    assert run.graph.depths() == {"s1": 2}
    sizes = {space.name: space.size for space in run.graph.infer.spaces}
    assert sizes["s1.0.conv1"] < 4
    assert run.metrics["test.accuracy"] > 0.9
    assert RunDirectory.open(tmp_path / "run").env()["plugins"].keys() == {"my_plugin.py"}


@pytest.mark.slow
def test_figures_of_such_a_run_are_drawn_by_a_process_that_knows_no_plugin(spec: Path, tmp_path: Path) -> None:
    """Its channels move as they are pruned, so that weights must be followed through gathers."""
    run = nasir.run(nasir.load_spec(spec, ["checkpoint.keep=50"]), out=tmp_path / "run")
    for figure in ("trajectory", "surface"):
        done = warm.nasir("plot", str(run.path), "--figure", figure, "--grid", "2", "--json")
        assert done.returncode == 0, done.stderr
        drawn = json.loads(done.stdout)
        if figure == "trajectory":
            # all that the first network had, pruned or not, and the block that came after two rounds of pruning
            began = nasir.build(nasir.load_spec(spec)).cost().params
            assert drawn["weights"] > began > run.graph.cost().params
            assert len(drawn["points"]) == 4 and drawn["points"][-1]["blocks"] == 2


def test_a_plugin_that_changed_is_refused_on_resume(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nasir.run(spec, out=tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if json.loads(line)["kind"] != "end"))
    before = stable(RunDirectory.open(tmp_path / "run").effective())
    (tmp_path / "my_plugin.py").write_text(PLUGIN + "\n# changed\n")
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "changed since the run began" in capsys.readouterr().err
    assert stable(RunDirectory.open(tmp_path / "run").effective()) == before


HISTORIC = '''
from dataclasses import dataclass

from nasir import Pass, register
from nasir.passes.insert_block import InsertBlock
from nasir.records import EpochRecord


@register("insert-by-history")
@dataclass(frozen=True)
class InsertByHistory(Pass):
    """A loud block once an epoch is over."""

    def sites(self, graph):
        return InsertBlock().sites(graph)

    def rewrite(self, draft, site, seen):
        over = [record for record in seen.history if isinstance(record, EpochRecord)]
        return InsertBlock(init="gaussian" if over else "default").rewrite(draft, site, seen)
'''


def test_a_pass_that_reads_the_history_is_replayed_with_it(tmp_path: Path) -> None:
    (tmp_path / "historic.py").write_text(HISTORIC)
    text = TINY.replace("insert-block: {init: gaussian}", "insert-by-history: {}") + "plugins: [./historic.py]\n"
    run = nasir.run(write_spec(tmp_path, text), out=tmp_path / "run")
    graphs = replay_graphs(RunDirectory.open(tmp_path / "run"))
    assert len(graphs) == 5 and graphs[-1] == run.graph
