"""What a run knows of its data: counted in every part, warned about, weighed in the loss, and shown by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import nasir
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.lower.ensemble import cross_entropy
from nasir.datasets.summary import summarize
from nasir.datasets.weights import class_weights
from nasir.errors import DataError
from nasir.journal.directory import RunDirectory
from nasir.records import DataSummary, EndRecord, StartRecord
from nasir.report import write_report
from nasir.report.classes import Answers, class_facts, data_lines, data_section
from nasir.running.resolution import coarse_steps
from nasir.spec import loads_spec
from nasir.training.plans import DataPlan

CPU = torch.device("cpu")
PLAN = DataPlan("npz")


def arrays(folder: Path, train: tuple[int, ...], test: tuple[int, ...]) -> DataContext:
    """A file with so many vectors of each class."""
    random = np.random.default_rng(0)
    made = {}
    for part, counts in (("train", train), ("test", test)):
        labels = np.repeat(np.arange(len(counts)), counts)
        made[f"x_{part}"] = (random.standard_normal((len(labels), 5)) + labels[:, None]).astype(np.float32)
        made[f"y_{part}"] = labels
    np.savez(folder / "a.npz", **made)  # type: ignore[arg-type]
    return DataContext(folder)


def summary(where: DataContext, **plan: Any) -> DataSummary:
    return open_source(DataPlan("npz", {"path": "a.npz"}, **plan), where, CPU).summary()


def test_every_part_is_counted_by_class(tmp_path: Path) -> None:
    where = arrays(tmp_path, (10, 20, 30), (3, 4, 5))
    data = summary(where, validation=12)
    assert data.classes == ("0", "1", "2") and data.shape == (5,) and data.warnings == ()
    assert data.counts == {"train": (8, 16, 24), "validation": (2, 4, 6), "test": (3, 4, 5)}
    assert [data.total(part) for part in ("train", "validation", "test")] == [48, 12, 12]
    source = open_source(DataPlan("npz", {"path": "a.npz"}, validation=12), where, CPU)
    values = torch.cat([x for x, _ in source.train_plain()])
    assert values.mean(0).abs().max() < 1e-5  # what is normalized away is what the summary says
    assert len(data.mean) == len(data.std) == 5
    assert summary(where, normalize=None).mean == ()
    assert summary(where, classes=("2", "0")).counts["train"] == (30, 10)
    assert DataSummary.from_json(data.to_json()) == data
    assert DataSummary.from_json({}) is None and DataSummary.from_json({**data.to_json(), "counts": 3}) is None


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ((10, 20, 30), (3, 0, 5), ["no test examples of 1: such classes have no part in the test accuracy"]),
        ((10, 0, 30), (3, 4, 5), ["no training examples of 1: such classes cannot be learned", "no validation examp"]),
        ((95, 5), (5, 5), ["uneven classes: 0 has 85 training examples, 1 4: who always answers 0 is right in 95.5 %"]),
        ((94, 6), (5, 5), []),
    ],
)
def test_what_makes_accuracies_mislead_is_told(
    tmp_path: Path, train: tuple[int, ...], test: tuple[int, ...], words: list[str]
) -> None:
    told = summary(arrays(tmp_path, train, test), validation=0.11).warnings
    assert len(told) == len(words)
    assert all(text.startswith(begin) for text, begin in zip(told, words, strict=True))


def test_uneven_classes_that_are_weighed_need_no_remedy() -> None:
    counts = {"train": (190, 10), "validation": (0, 0), "test": (1, 1)}
    for weights, remedy in ((None, True), ("balanced", False)):
        [told] = summarize(DataPlan("npz", class_weights=weights), ("a", "b"), counts, (3,)).warnings  # type: ignore[arg-type]
        assert ("class_weights: balanced" in told) == remedy


def test_weights_of_classes() -> None:
    def weights(given: Any, counts: tuple[int, ...] = (30, 10, 20)) -> list[float]:
        made = class_weights(DataPlan("npz", class_weights=given), ("a", "b", "c"), counts)
        assert made is not None
        return made.tolist()  # type: ignore[no-any-return]

    assert class_weights(PLAN, ("a", "b"), (1, 1)) is None
    balanced = weights("balanced")
    assert balanced == pytest.approx([2 / 3, 2, 1])
    assert sum(weight * count for weight, count in zip(balanced, (30, 10, 20), strict=True)) == pytest.approx(60)
    assert weights("balanced", (30, 0, 10)) == pytest.approx([2 / 3, 1, 2])
    assert weights((1, 2, 3)) == [1, 2, 3] and weights({"b": 2.5}) == [1, 2.5, 1]
    with pytest.raises(DataError, match="class_weights has 2 numbers, and there are 3 classes"):
        weights((1, 2))
    with pytest.raises(DataError, match="there is no class 'd'"):
        weights({"d": 2})


def test_the_loss_is_weighted_as_torch_weighs_it(tmp_path: Path) -> None:
    where = arrays(tmp_path, (30, 10, 20), (1, 1, 1))
    source = open_source(DataPlan("npz", {"path": "a.npz"}, class_weights="balanced"), where, CPU)
    assert source.class_weights is not None and source.class_weights.dtype == torch.float32
    logits, labels = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    weights = source.class_weights.double()
    wanted = functional.cross_entropy(logits, labels, weights)
    assert float(cross_entropy(logits, labels, 0.0, weights)) == float(wanted)
    branches = torch.stack([logits, logits * 2], 1)
    both = sum(float(functional.cross_entropy(logits * factor, labels, weights)) for factor in (1, 2))
    assert float(cross_entropy(branches, labels, 0.0, weights)) == pytest.approx(both, abs=1e-12)


SPEC = """\
nasir: 1
name: uneven
input: {vector: 5}
network: [{linear: {out: 8}}, relu, {linear: {out: 2}}]
data: {dataset: npz, options: {path: a.npz}, validation: 0.25, batch_size: 16, class_weights: WEIGHTS}
device: cpu
phases: [{name: t, epochs: 3, optimizer: {sgd: {lr: 0.05}}}]
"""


def test_a_run_keeps_its_summary_and_what_was_taken_for_what(tmp_path: Path) -> None:
    arrays(tmp_path, (380, 20), (40, 10))
    losses = []
    for weights in ("null", "balanced", "{'1': 19}"):
        heard: list[str] = []
        spec = loads_spec(SPEC.replace("WEIGHTS", weights), tmp_path / "a.yaml")
        done = nasir.run(spec, tmp_path / f"run {len(losses)}", notice=heard.append)
        losses.append(done.journal[2].metrics["train.loss"])  # type: ignore[attr-defined]
        start, end = done.journal[0], done.journal[-1]
        assert isinstance(start, StartRecord) and isinstance(end, EndRecord)
        data = DataSummary.from_json(start.data)
        assert data is not None and data.counts["train"] == (285, 15)
        assert [text for text in heard if text.startswith("data: ")] == [f"data: {text}" for text in data.warnings]
        assert "uneven classes" in data.warnings[0]
        directory = RunDirectory.open(done.path)
        facts = class_facts(directory, directory.effective())["classes"]
        counts = np.array(facts["confusion"])
        assert counts.sum(1).tolist() == [40, 10]
        assert counts.trace() / 50 == pytest.approx(done.metrics["test.accuracy"])
        assert facts["balanced_accuracy"] == pytest.approx((counts[0, 0] / 40 + counts[1, 1] / 10) / 2)
        page = write_report(done.path).read_text()
        for text in ("uneven classes", "balanced test accuracy", "<td class=number>285</td>", "training examples"):
            assert text in page
    assert losses[0] < 0.9 * losses[1] == pytest.approx(0.9 * losses[2], rel=1e-5)  # only the ratio of weights counts


def test_answers_of_many_classes_name_the_confusions(tmp_path: Path) -> None:
    counts = np.zeros((30, 30), np.int64)
    np.fill_diagonal(counts, 5)
    counts[3, 4], counts[7, 1], counts[29, 29] = 9, 2, 0
    answers = Answers(counts)
    assert answers.confusions() == [(3, 4, 9), (7, 1, 2)]
    assert answers.accuracies[3] == 5 / 14 and answers.accuracies[29] is None
    assert answers.balanced == pytest.approx((27 + 5 / 14 + 5 / 7) / 29)
    run = RunDirectory.create(tmp_path / "run")
    names = tuple(f"<{number}>" for number in range(30))
    each = (5,) * 30
    data = summarize(PLAN, names, {"train": each, "validation": each, "test": each}, (3, 8, 8))
    start = StartRecord(name="a", seed=0, graph="", cost={}, depths={}, spec_digest="", nasir="", data=data.to_json())
    end = EndRecord(status="done", metrics={}, cost={}, depths={}, seconds=0, graph="", confusion=run.put_array(counts))
    page = data_section(run, [start, end], lambda rows: str(rows))
    rows = page[page.index("The most frequent confusions") :].split("<tr>")[2:]
    assert len(rows) == 2 and all(text in rows[0] for text in ("&lt;3&gt;", "&lt;4&gt;", ">9<", "64.3 %"))
    assert data_section(run, [start], str).count("<tr>") == 31  # before the end


RULES = """\
nasir: 1
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: s1, block: basic, out: 8}
  - classifier: {classes: 4}
data: {dataset: synthetic, validation: 44}
phases:
  - name: grow
    epochs: 9
    optimizer: {sgd: {lr: 0.05}}
    rules:
      - when: {plateau: {metric: val.accuracy, window: 2 epochs, less_than: 0.002}}
        do: insert-block
        freeze: {plateau: {metric: val.loss, window: 4 epochs, less_than: 0.002}}
      - every: 2 epochs
        do: insert-block
        trial: {epochs: 1, min_gain: 0.01}
    until: {plateau: {metric: val.accuracy, window: 4 epochs, less_than: 0.03}}
"""


def test_a_validation_part_that_is_too_small_for_a_threshold_is_told() -> None:
    told = list(coarse_steps(loads_spec(RULES), 44))
    assert len(told) == 2
    assert "min_gain tells apart 0.01 of val.accuracy, and one of 44 validation examples makes 0.023" in told[0]
    assert "less_than tells apart 0.002" in told[1] and "raise `data.validation` or less_than" in told[1]
    assert told[1].startswith("<spec>:13:")
    assert not list(coarse_steps(loads_spec(RULES), 1000)) and not list(coarse_steps(loads_spec(RULES), 0))


def test_a_summary_is_shown_in_a_terminal(tmp_path: Path) -> None:
    lines = data_lines(summary(arrays(tmp_path, (95, 5), (5, 5)), validation=0.1))
    table = [line.split() for line in lines]
    assert "validation examples  10" in lines and ["0", "85", "10", "5"] in table and ["1", "5", "0", "5"] in table
    assert lines[-1].startswith("warning: no validation examples of 1")
