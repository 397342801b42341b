"""Evolution for real: killed anywhere and resumed, replayed, with averages and schedules per child, files swept."""

from __future__ import annotations

import math
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import warm
import yaml
from made_records import as_line, made, write_chained
from safetensors.numpy import load_file
from small_runs import SPEC, stable, weights, write_spec

import nasir
from nasir.api import replay_training
from nasir.backends.torch.session import TorchSession
from nasir.errors import CheckpointError, JournalError, RunError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import lineage
from nasir.records import (
    CheckpointRecord,
    DecisionRecord,
    DroppedRecord,
    EpochRecord,
    KeptRecord,
    RecalledRecord,
    RewriteRecord,
)
from nasir.report import write_report
from nasir.report.history import decision_rows, summary_rows
from nasir.report.progress import line
from nasir.running.population import stored
from nasir.running.replay import compare, replay_graphs

PHASES = """\
phases:
  - name: evolve
    optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 1.0e-4}}
    schedule: {cosine: {restart: 2 epochs}}
    ema: {decay: 0.9}
    policy: {evolve: {population: 2, generations: 4, epochs: 2, mutations: 2, select: {tournament: 2}}}
    rules:
      - {do: {insert-block: {init: gaussian}}, at_most: 3}
      - {do: {widen: {factor: 1.5, noise: 0.01}}, where: {stages: [s1, s2]}, weight: 0.5}
      - {do: insert-random-block}
  - name: finetune
    epochs: 1
"""
TEXT = SPEC[: SPEC.index("phases:")] + PHASES


class Killed(BaseException):
    """Stands for a kill: nothing is written after it."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("evolution")
    spec = write_spec(folder, TEXT)
    nasir.run(spec, out=folder / "run")
    return spec, folder / "run"


def effective(run: Path) -> tuple[dict[str, Any], ...]:
    return RunDirectory.open(run).effective()


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in effective(run) if record.kind == kind]


def assert_equal(run: Path, expected: Path) -> None:
    assert compare(effective(expected), effective(run)) == []
    assert weights(run) == weights(expected)


def killed_at(number: int, spec: Path, out: Path) -> None:
    """A run whose process dies right after its record of that number; resumed as often as it takes."""

    def listener(record: dict[str, Any]) -> None:
        if record.n == number:
            raise Killed

    with pytest.raises(Killed):
        nasir.run(spec, out=out, listener=listener)


def test_a_run_journals_births_and_leaves_no_files_behind(reference: tuple[Path, Path]) -> None:
    _, run = reference
    kept, recalled = of_kind(run, "kept"), of_kind(run, "recalled")
    assert [record.individual for record in kept] == [1, 2, 3, 4, 5, 6]
    assert [record.parent for record in kept] == [None, *(record.individual for record in recalled[:-1])]
    assert kept[0]["parent"] is None and all(record.metrics["val.accuracy"] >= 0 for record in kept)
    best = max(kept, key=lambda record: record.metrics["val.accuracy"])
    assert recalled[-1]["graph"] == best["graph"]
    assert list((run / "individuals").iterdir()) == []
    ordinals = [record.ordinal for record in effective(run) if isinstance(record, RewriteRecord | RecalledRecord)]
    assert ordinals == list(range(1, len(ordinals) + 1))


def test_a_recalled_network_is_the_one_that_was_kept(reference: tuple[Path, Path], tmp_path: Path) -> None:
    """Same validation figures right after the recall: weights, statistics and averages are back."""
    spec, _ = reference
    heard: list[tuple[int, float]] = []

    class Spy:
        def __init__(self) -> None:
            self.engine: Any = None

        def __call__(self, record: dict[str, Any]) -> None:
            if isinstance(record, KeptRecord | RecalledRecord):
                heard.append((record.individual, self.engine.session.evaluate("val")["val.loss"]))

    from nasir import api

    spy = Spy()
    made = api.Engine

    def engine(*arguments: Any, **options: Any) -> Any:
        spy.engine = made(*arguments, **options)
        return spy.engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "Engine", engine)
        nasir.run(spec, out=tmp_path / "run", listener=spy)
    values: dict[int, set[float]] = {}
    for number, loss in heard:
        values.setdefault(number, set()).add(loss)
    assert all(len(losses) == 1 for losses in values.values()), values
    assert len({loss for _, loss in heard}) == len(values) == 6


def test_every_child_has_the_whole_schedule(reference: tuple[Path, Path]) -> None:
    _, run = reference
    rates = [record.lr for record in of_kind(run, "epoch") if record.phase == "evolve"]
    assert len(rates) == 12 and len(set(rates[::2])) == len(set(rates[1::2])) == 1 and rates[0] > rates[1]


def test_an_individual_holds_weights_averages_and_optimizer_state(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def listener(record: dict[str, Any]) -> None:
        if isinstance(record, KeptRecord):
            folder = tmp_path / "run" / "individuals" / str(record.individual) / "step_0"
            seen.append({file.name for file in folder.iterdir()})
            model, average = (load_file(folder / f"{name}.safetensors") for name in ("model", "ema"))
            assert model.keys() == average.keys()
            assert any((model[name] != average[name]).any() for name in model)
            raise Killed

    with pytest.raises(Killed):
        nasir.run(write_spec(tmp_path, TEXT), out=tmp_path / "run", listener=listener)
    assert seen == [{"manifest.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors"}]


@pytest.mark.slow
def test_killed_after_any_record_and_resumed_it_is_the_same_run(reference: tuple[Path, Path], tmp_path: Path) -> None:
    spec, expected = reference
    records = effective(expected)
    around = [r.n for r in records if isinstance(r, KeptRecord | RecalledRecord | DroppedRecord)]
    for number in sorted({*around[::2], *range(2, len(records) - 1, 9)}):
        run = tmp_path / f"run{number}"
        killed_at(number, spec, run)
        nasir.resume(run)
        assert_equal(run, expected)


@pytest.mark.slow
def test_kill_9_at_random_moments_then_resume_equals_the_uninterrupted_run(
    reference: tuple[Path, Path], tmp_path: Path
) -> None:
    spec, expected = reference
    chance = random.Random(1)
    run, arguments = tmp_path / "run", ["run", str(spec), "--out", str(tmp_path / "run")]
    for kill in range(6):
        process = warm.Process("-m", "nasir", *arguments, stderr=tmp_path / "stderr")
        journal, before = run / "journal.jsonl", (run / "journal.jsonl").stat().st_size if kill else 0
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > before):
            time.sleep(0.002)
        try:
            process.wait(timeout=chance.uniform(0.0, 0.8))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        arguments = ["resume", str(run)]
    nasir.resume(run)
    assert_equal(run, expected)


@pytest.mark.slow
def test_a_damaged_checkpoint_leads_back_to_one_whose_individuals_are_still_there(
    reference: tuple[Path, Path], tmp_path: Path
) -> None:
    """The newest checkpoint is no use; the one before it may need individuals that were dropped since."""
    spec, expected = reference
    for number in [r.n for r in effective(expected) if isinstance(r, DroppedRecord)][:3]:
        after = next(r.n for r in effective(expected) if isinstance(r, CheckpointRecord) and r.n > number)
        run = tmp_path / f"run{number}"
        killed_at(after, spec, run)
        records = effective(run)
        steps = RunDirectory.open(run).checkpoint_steps()
        dropped = {r.individual for r in records if isinstance(r, DroppedRecord) and r.n > steps[0]}
        assert dropped and dropped <= {int(folder.name) for folder in (run / "individuals").iterdir()}
        newest = run / "checkpoints" / f"step_{steps[-1]}" / "model.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
        nasir.resume(run)
        shutil.rmtree(newest.parent.with_name(f"{newest.parent.name}.damaged"))
        assert_equal(run, expected)


def test_individuals_that_nothing_can_ask_for_are_removed(reference: tuple[Path, Path], tmp_path: Path) -> None:
    spec, expected = reference
    last = [record.n for record in effective(expected) if isinstance(record, CheckpointRecord)][-2]
    run = tmp_path / "run"
    killed_at(last, spec, run)
    oldest = RunDirectory.open(run).checkpoint_steps()[0]
    records = effective(run)
    needed = stored([record for record in records if record.n < oldest])
    lies = {int(folder.name) for folder in (run / "individuals").iterdir()}
    assert stored(records) <= lies and needed <= lies
    assert len(lies) < len([r for r in records if isinstance(r, KeptRecord)])


def test_a_damaged_or_missing_individual_is_told_by_name(reference: tuple[Path, Path], tmp_path: Path) -> None:
    spec = write_spec(tmp_path, TEXT.replace("population: 2", "population: 3"))
    first = next(
        r.n for r in effective(reference[1]) if isinstance(r, RecalledRecord)
    )  # the founder, recalled once more
    for name, text in (("damaged", "the file is truncated"), ("missing", "restore it from a copy")):
        run = tmp_path / name
        killed_at(first + 7, spec, run)
        for folder in (run / "individuals").iterdir():
            file = folder / "step_0" / "model.safetensors"
            if name == "damaged":
                file.write_bytes(file.read_bytes()[:-1])
            else:
                folder.rename(tmp_path / f"{name}{folder.name}")
        with pytest.raises(CheckpointError, match=text) as caught:
            nasir.resume(run)
        assert "individuals" in str(caught.value)


def test_an_attempt_that_goes_on_from_another_one_has_its_individuals(
    reference: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="trials need the extra `search`")
    from nasir.search.trial import seed

    spec, expected = reference
    number = [record.n for record in effective(expected) if isinstance(record, CheckpointRecord)][5]
    killed_at(number, spec, tmp_path / "first")
    before = sorted(path.name for path in (tmp_path / "first" / "individuals").iterdir())
    seed(tmp_path / "first", tmp_path / "second")
    nasir.resume(tmp_path / "second")
    assert_equal(tmp_path / "second", expected)
    assert sorted(path.name for path in (tmp_path / "first" / "individuals").iterdir()) == before != []


def test_replay_follows_the_recalls(reference: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = reference
    graphs = replay_graphs(RunDirectory.open(run))
    last = Graph.from_json(RunDirectory.open(run).get_blob(of_kind(run, "end")[0]["graph"]))
    assert graphs[-1] == last
    assert len(graphs) == 1 + len(of_kind(run, "rewrite")) + len(of_kind(run, "recalled"))
    records = RunDirectory.open(run).records()
    first, second = of_kind(run, "kept")[:2]
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("spec.yaml", "env.json", "blobs"):
        (broken / name).symlink_to(run / name)
    told = [{**record, "graph": second.graph} if record.n == first.n else record for record in records]
    write_chained(broken / "journal.jsonl", map(as_line, told))
    with pytest.raises(JournalError, match="individual 1 was kept as another network"):
        replay_graphs(RunDirectory.open(broken))


@pytest.mark.slow
def test_training_again_gives_the_same_evolution(reference: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = reference
    again, differences = replay_training(RunDirectory.open(run), tmp_path / "again")
    assert differences == []
    assert stable(again.journal) == stable(effective(run))
    assert weights(tmp_path / "again") == weights(run)


def test_the_lineage_is_what_the_network_went_through(reference: tuple[Path, Path]) -> None:
    _, run = reference
    own = lineage(effective(run))
    graph = own[0]["graph"]
    directory = RunDirectory.open(run)
    for record in own:
        if isinstance(record, RewriteRecord):
            assert Graph.from_json(directory.get_blob(graph)).digest == record.before
            graph = record.graph
    assert graph == of_kind(run, "end")[0]["graph"]
    kept = {record.individual: record for record in of_kind(run, "kept")}
    ancestor = of_kind(run, "recalled")[-1]["individual"]
    ancestors = {ancestor}
    while (ancestor := kept[ancestor]["parent"]) is not None:
        ancestors.add(ancestor)
    assert {record.individual for record in own if isinstance(record, KeptRecord)} == ancestors
    assert lineage(own) == own
    plain = [made("epoch", {"n": n}) for n in range(3)]
    assert list(lineage(plain)) == plain


def test_the_report_and_the_progress_name_individuals(reference: tuple[Path, Path]) -> None:
    _, run = reference
    records = effective(run)
    rows = decision_rows(records)
    kept = [row for row in rows if row["kind"] == "keep"]
    assert [row["site"] for row in kept] == [f"individual {number}" for number in range(1, 7)]
    assert all("val.accuracy" in row["reason"] and row["params"] and row["depth"] for row in kept)
    assert {row["kind"] for row in rows} >= {"keep", "recall", "drop", "rewrite", "end"}
    assert ("individuals", "6") in summary_rows(records)
    text = write_report(run).read_text()
    assert "individual 3" in text and "recall" in text
    shown = [text for record in records if (text := line(record))]
    assert any("back to individual" in text for text in shown) and any("individual 2, val.accuracy" in t for t in shown)
    assert not any("drop" in text for text in shown)


def test_another_run_can_begin_from_one_that_evolved(reference: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = reference
    text = SPEC[: SPEC.index("network:")] + f"network: {{from: run, run: {run}}}\n"
    text += SPEC[SPEC.index("data:") : SPEC.index("phases:")]
    text += "phases: [{name: more, epochs: 1, optimizer: {sgd: {lr: 0.01}}}]\n"
    done = nasir.run(write_spec(tmp_path, text), out=tmp_path / "more")
    assert done.graph.digest == replay_graphs(RunDirectory.open(run))[-1].digest


NASH = """\
phases:
  - {name: start, epochs: 1, optimizer: {sgd: {lr: 0.05, momentum: 0.9}}}
  - name: climb
    schedule: {cosine: {restart: 1 epochs}}
    policy:
      evolve:
        {population: 1, offspring: 3, generations: 2, initial: 0, mutations: 2, replace: parents, keep_parent: true,
         result: population}
    rules:
      - {do: {insert-block: {init: zero}}}
      - {do: {widen: {factor: 1.5, noise: 0.01}}, where: {stages: [s1, s2]}}
"""


@pytest.mark.slow
def test_hill_climbing_from_a_network_that_another_phase_has_trained(tmp_path: Path) -> None:
    """The first individual is kept before the first epoch of its phase; killed there, the run goes back to before."""
    spec = write_spec(tmp_path, SPEC[: SPEC.index("phases:")] + NASH)
    nasir.run(spec, out=tmp_path / "run")
    records, kept = effective(tmp_path / "run"), of_kind(tmp_path / "run", "kept")
    assert [record.individual for record in kept] == list(range(1, 8))
    assert kept[0]["epoch"] == 1 and kept[0]["metrics"] == of_kind(tmp_path / "run", "epoch")[0]["metrics"]
    parents = [record.parent for record in kept]
    assert parents[:4] == [None, 1, 1, 1] and len({*parents[4:]}) == 1 and parents[4] in (2, 3, 4)
    assert kept[1]["graph"] == kept[0]["graph"], "the first child is the parent, trained on"
    assert kept[4]["graph"] == kept[parents[4] - 1]["graph"] and kept[2]["graph"] != kept[0]["graph"]
    assert kept[1]["metrics"] != kept[0]["metrics"]
    first = next(record.n for record in records if isinstance(record, KeptRecord))
    for number in (first - 1, first, first + 2, first + 3):
        killed_at(number, spec, tmp_path / f"run{number}")
        nasir.resume(tmp_path / f"run{number}")
        assert_equal(tmp_path / f"run{number}", tmp_path / "run")


def test_a_child_that_diverges_dies_and_the_run_goes_on(tmp_path: Path) -> None:
    spec = yaml.safe_load(TEXT)
    phase = spec["phases"][0]
    phase |= {"optimizer": {"sgd": {"lr": 0.05}}, "schedule": "constant"}
    phase["policy"] = {"evolve": {"population": 2, "generations": 3, "epochs": 1}}
    phase["rules"] = [{"do": "explode"}, {"do": {"insert-block": {"init": "zero"}}}]
    spec["plugins"] = ["./explode.py"]
    (tmp_path / "explode.py").write_text(EXPLODE)
    run = nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "run")
    kept = of_kind(tmp_path / "run", "kept")
    dead = {r.individual for r in kept if math.isnan(r.metrics["val.accuracy"])}
    assert dead and len(kept) == 5
    assert dead.isdisjoint(r.individual for r in of_kind(tmp_path / "run", "recalled"))
    assert math.isfinite(run.metrics["val.loss"])
    assert replay_graphs(RunDirectory.open(tmp_path / "run"))[-1] == run.graph
    spec["phases"][0] |= {"epochs": 4, "rules": [{"every": 1, "do": "explode"}]}
    del spec["phases"][0]["policy"]
    with pytest.raises(RunError, match="diverged"):
        nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "rules")


def test_a_mutation_whose_logits_are_not_finite_is_declined_and_the_run_goes_on(tmp_path: Path) -> None:
    spec = yaml.safe_load(TEXT)
    policy = {"evolve": {"population": 2, "generations": 2, "epochs": 1}}
    spec["phases"][0] |= {"policy": policy, "schedule": "constant"}
    spec["phases"][0]["rules"] = [{"do": {"explode": {"overflow": True}}}, {"do": {"insert-block": {"init": "zero"}}}]
    spec["plugins"] = ["./explode.py"]
    (tmp_path / "explode.py").write_text(EXPLODE)
    run = nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "run")
    declined = of_kind(tmp_path / "run", "declined")
    assert declined and {record.pass_name for record in declined} == {"explode"}
    assert "not finite" in declined[0].reason
    assert len(of_kind(tmp_path / "run", "kept")) == 4 and math.isfinite(run.metrics["val.loss"])
    del spec["phases"][0]["policy"]
    spec["phases"][0] |= {"epochs": 2, "rules": [{"every": 1, "do": {"explode": {"overflow": True}}}]}
    with pytest.raises(RunError, match="explode at network: the rewritten network gives logits that are not finite"):
        nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "rules")


def test_a_child_that_diverges_dies_where_only_its_cost_counts(tmp_path: Path) -> None:
    """Its cost is a number like any other."""
    spec = yaml.safe_load(TEXT)
    options = {"population": 2, "generations": 3, "epochs": 1, "objectives": ["params"]}
    spec["phases"][0] |= {"optimizer": {"sgd": {"lr": 0.05}}, "schedule": "constant", "policy": {"evolve": options}}
    spec["phases"][0]["rules"] = [{"do": "explode"}, {"do": {"insert-block": {"init": "zero"}}}]
    spec["plugins"] = ["./explode.py"]
    (tmp_path / "explode.py").write_text(EXPLODE)
    run = nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "run")
    kept = of_kind(tmp_path / "run", "kept")
    dead = {record.individual for record in kept if math.isnan(record.metrics["val.loss"])}
    assert dead and dead.isdisjoint(record.individual for record in of_kind(tmp_path / "run", "recalled"))
    assert math.isfinite(run.metrics["val.loss"])


def test_a_child_whose_last_step_diverges_dies_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss, which is that before each step, is finite; only the validation shows it."""
    spec = yaml.safe_load(TEXT)
    spec["phases"][0]["policy"] = {"evolve": {"population": 2, "generations": 1, "epochs": 2}}
    evaluate, asked = TorchSession.evaluate, []

    def child_breaks(self: TorchSession, split: str) -> dict[str, float]:
        asked.append(split)
        return {**evaluate(self, split), **({"val.loss": math.nan} if len(asked) == 4 else {})}

    monkeypatch.setattr(TorchSession, "evaluate", child_breaks)
    nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "run")
    kept = of_kind(tmp_path / "run", "kept")
    assert all(map(math.isnan, kept[1]["metrics"].values()))
    assert 2 not in {record.individual for record in of_kind(tmp_path / "run", "recalled")}


EXPLODE = '''
from dataclasses import dataclass

from nasir import Pass, register
from nasir.ir import Fill
from nasir.rewriting.rewrite import WHOLE


@register("explode")
@dataclass(frozen=True)
class Explode(Pass):
    """Weights so large that the loss of the next steps, or even the logits, are not finite."""

    overflow: bool = False

    def sites(self, graph):
        return [WHOLE]

    def rewrite(self, draft, site, seen):
        node = draft.base.outputs[0].node
        large = Fill("constant", {"value": 3e38}) if self.overflow else Fill("normal", {"std": 1e30})
        draft.source(node, "weight", large)
'''


def test_front_individuals_stay_on_disk(tmp_path: Path) -> None:
    spec = yaml.safe_load(TEXT)
    options = {
        "population": 3,
        "offspring": 2,
        "generations": 2,
        "replace": "worst",
        "objectives": ["val.accuracy", "macs"],
    }
    spec["phases"][0] |= {"policy": {"evolve": options}, "schedule": "constant"}
    run = nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "run").path
    records = effective(run)
    front = stored(records)
    assert {int(folder.name) for folder in (run / "individuals").iterdir()} == front
    kept = {r.individual: (r.metrics["val.accuracy"], -r.macs) for r in records if isinstance(r, KeptRecord)}
    for number in front:
        assert not any(
            all(a >= b for a, b in zip(other, kept[number], strict=True)) and other != kept[number]
            for other in kept.values()
        )
    reason = next(r.reason for r in records if isinstance(r, DecisionRecord) and r.action == "end_phase")
    assert all(f"{number} (val.accuracy" in reason for number in front)


@pytest.mark.slow
def test_the_digits_spec_ends_better_than_its_start_network(tmp_path: Path) -> None:
    """Than the start network trained alone, by the same recipe, for all the epochs that evolution took."""
    run = nasir.run("specs/evolution/digits.yaml", out=tmp_path / "run")
    spec = yaml.safe_load(Path("specs/evolution/digits.yaml").read_text())
    evolve, finetune = spec["phases"]
    epochs = sum(isinstance(record, EpochRecord) for record in run.journal) - finetune["epochs"]
    same = {key: evolve[key] for key in ("optimizer", "schedule")}
    spec["phases"] = [{"name": "alone", "epochs": epochs, **same}, finetune]
    alone = nasir.run(write_spec(tmp_path, yaml.safe_dump(spec)), out=tmp_path / "alone")
    assert run.metrics["test.accuracy"] > alone.metrics["test.accuracy"] + 0.01
    first = next(record for record in run.journal if isinstance(record, KeptRecord))
    assert run.metrics["val.accuracy"] > first["metrics"]["val.accuracy"] + 0.1
