"""The report page: contents, robustness, escaping, and that a real browser accepts it offline."""

from __future__ import annotations

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import made
from networks import small_resnet

from nasir.errors import UsageError
from nasir.ir import Draft
from nasir.passes.split_branches import SplitBranches
from nasir.records import RewriteRecord
from nasir.report import summary_rows, write_drawing, write_report
from nasir.report.graph_svg import draw, overview
from nasir.report.history import charts, decision_rows, duration, marks, phase_rows
from nasir.report.layout import layered
from nasir.report.page import embedded_json
from nasir.report.plots import Chart, Mark, Series, nice_ticks, quantity, render
from nasir.rewriting.evidence import Evidence

sys.path.insert(0, str(Path(__file__).parent))
from browser import dumped, needs_browser
from synthetic_run import make_run


def test_the_report_holds_every_section_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = write_report(run.path)
    text = path.read_text(encoding="utf-8")
    assert path == run.report_path and len(text) < 400_000
    for words in ("94.12 %", "Accuracy", "Loss", "Depth: blocks", "Parameters", "Multiply-accumulates", "Decisions"):
        assert words in text
    for words in ("past the budget", "approximate", "|Δ logits|", "0.258", "3-3-3", "added after epoch 9", "threads"):
        assert words in text, words
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<img|<iframe", text)
    assert "default-src 'none'" in text and "'unsafe-inline'; script-src 'sha256-" in text


def test_names_reasons_and_spec_are_escaped(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run").path).read_text(encoding="utf-8")
    assert "<b>grow" not in text and "&lt;b&gt;grow&lt;/b&gt;" in text and "&lt;grown&gt;" in text
    assert text.count("</script>") == 2 and "&lt;/script&gt; &amp; &lt;!--" in text
    assert embedded_json({"a": "</script><!--&"}).count("<") == 0
    assert json.loads(embedded_json({"a": "</script><!--&"})) == {"a": "</script><!--&"}


def test_every_drawing_is_well_formed(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run").path).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(drawings) > 12
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing.lower().replace("nance", "") and "inf" not in re.sub(r"[a-z]*info", "", drawing)
    names = set(re.findall(r'<symbol id="(\w+)"', text))
    assert names and names == set(re.findall(r'href="#(\w+)"', text))


def test_phases_tell_their_time_and_the_best_so_far_never_falls(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = phase_rows(run.effective())
    assert [(row["phase"], row["epochs"], row["seconds"], row["rewrites"]) for row in rows] == [
        ("grow", 24, 24 * 7.25, 6),
        ("finetune", 12, 12 * 7.25, 0),
    ]
    assert [row["share"] for row in rows] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert (
        rows[0]["before"] == {"s1": 1, "s2": 1, "s3": 1} and rows[0]["after"] == rows[1]["before"] == rows[1]["after"]
    )
    lines = {line.name: [y for _, y in line.points] for line in charts(run.effective())[0].series}
    assert lines["best so far"] == [max(lines["validation"][: n + 1]) for n in range(36)]
    assert rows[1]["best"] == max(lines["validation"][24:])
    text = write_report(run.path).read_text()
    assert "<h2>Phases</h2>" in text and "2 min 54 s" in text and "best so far" in text
    assert phase_rows(()) == []


@pytest.mark.parametrize("epochs", [0, 1, 2, 7])
def test_an_unfinished_run_has_a_report_too(tmp_path: Path, epochs: int) -> None:
    run = make_run(tmp_path / "run", grow=epochs, tune=0, finish=False)
    with open(run.journal_path, "ab") as journal:
        journal.write(b'{"kind":"epo')
    text = write_report(run.path).read_text(encoding="utf-8")
    assert f"unfinished after {epochs} epoch{'s' * (epochs != 1)}" in text and "Network so far" in text
    assert "test accuracy" not in text


def test_an_empty_journal_and_lost_files_leave_sections_out_but_not_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    shutil.rmtree(run.blobs)
    run.spec_path.unlink()
    run.env_path.write_text("{")
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "It cannot be drawn" in text and "cannot be read" in text and "94.12 %" in text
    run.journal_path.write_text("")
    assert "No epoch has been finished yet" in write_report(run.path).read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no run here"):
        write_report(tmp_path)


def test_void_records_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", grow=9, tune=0, finish=False)
    with run.lock(), run.journal() as journal:
        first = journal.records(RewriteRecord)[0].n
        journal.append(made("resume", {"checkpoint_step": 3, "supersedes_from": first - 1}))
    assert [record.kind for record in run.effective()][-1] == "epoch"
    text = write_report(run.path).read_text(encoding="utf-8")
    assert "unfinished after 3 epochs" in text and "None yet." in text and "resumed 1 time" in text


def test_summary_rows_and_decision_rows(tmp_path: Path) -> None:
    records = make_run(tmp_path / "run").effective()
    rows = dict(summary_rows(records))
    assert rows["status"] == "done" and rows["test accuracy"] == "94.12 %" and rows["depth"] == "3-3-3"
    assert rows["rewrites"] == "6" and rows["declined"] == "1" and rows["training time"] == "4 min 21 s"
    table = decision_rows(records)
    assert [row["kind"] for row in table].count("rewrite") == 6
    declined = next(row for row in table if row["kind"] == "declined")
    assert declined["epoch"] == "12" and "every 3 epochs" in declined["reason"] and "512,344" in declined["reason"]
    assert [row["action"] for row in table if row["kind"] == "freeze"] == ["freeze"]
    grown = next(row for row in table if row["kind"] == "rewrite")
    assert grown["claim"] == "approximate" and grown["delta"] == "0.0369" and grown["depth"] == "1-2-1"
    assert summary_rows([])[0] == ("status", "unfinished after 0 epochs")
    assert (
        decision_rows([record for record in records if isinstance(record, RewriteRecord)])[0]["action"]
        == "insert-block"
    )


def test_charts_mark_each_rewrite_and_the_new_phase(tmp_path: Path) -> None:
    records = make_run(tmp_path / "run").effective()
    assert [(mark.kind, mark.x) for mark in marks(records)] == [
        *(("rewrite", epoch) for epoch in (3, 6, 9, 15, 18, 21)),
        ("phase", 24),
    ]
    drawn = {chart.key: chart for chart in charts(records)}
    assert list(drawn) == ["accuracy", "loss", "depth", "params", "macs", "lr"]
    assert render(drawn["accuracy"]).count('<g class="rewrite"><title>') == 6
    assert [line.name for line in drawn["depth"].series] == ["s1", "s2", "s3"]
    assert "M" in (gap := re.findall(r'<path class="line c1[^"]*" d="([^"]*)"', render(drawn["loss"]))[0])
    assert gap.count("M") == 2  # the diverged epoch is a gap, not a jump


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-6, 1e9), count=st.integers(2, 12))
def test_ticks_are_round_evenly_spaced_and_enclose(low: float, span: float, count: int) -> None:
    span = max(span, abs(low) * 1e-6)
    ticks = nice_ticks(low, low + span, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step and ticks[-1] >= low + span - 1e-6 * step
    assert 2 <= len(ticks) <= count + 3
    mantissa = step / 10.0 ** (len(f"{step:e}") and int(f"{step:e}".split("e")[1]))
    assert any(abs(mantissa - nice) < 1e-3 for nice in (1, 2, 2.5, 5, 10))


@pytest.mark.parametrize(
    ("points", "unit"),
    [
        ((), "percent"),
        (((1, 0.5),), "percent"),
        (((1, 0.0), (2, 1.0)), "percent"),
        (((1, 1.0), (2, 1.0)), "percent"),
        (((1, 0.93), (400, 0.94)), "percent"),
        (((1, float("nan")),), "number"),
        (((1, 1e-3), (2, 4e8)), "number"),
        (((1, -1.0), (2, 4.0)), "number"),
        (((1, 0.0),), "number"),
        (((1, 272474.0),), "count"),
        (((1, 4.1e10), (1000, 8e12)), "count"),
    ],
)
def test_charts_of_odd_values_stay_inside_their_frame(points: tuple[tuple[float, float], ...], unit: str) -> None:
    for step in (False, True):
        drawing = render(Chart("k", "Title", (Series("a", points), Series("b", points)), (), unit, step))  # type: ignore[arg-type]
        ElementTree.fromstring(drawing)
        for path in re.findall(r'class="line[^"]*" d="([^"]*)"', drawing):
            for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path):
                assert -1 <= float(x) <= 561 and -1 <= float(y) <= 291
        assert "nan" not in drawing


def test_quantities_and_durations_read_well() -> None:
    assert [quantity(n) for n in (0, 12, 999, 1000, 272474, 41_000_000, 8.2e12)] == [
        "0", "12", "999", "1 k", "272 k", "41 M", "8.2 T",
    ]  # fmt: skip
    assert [duration(n) for n in (4.25, 125, 12000)] == ["4.2 s", "2 min 5 s", "3 h 20 min"]


def test_a_skip_connection_runs_beside_the_boxes_it_passes() -> None:
    layout = layered(
        {"in": 60.0, "a": 100.0, "b": 100.0, "add": 100.0}, [("in", "a"), ("a", "b"), ("b", "add"), ("in", "add")]
    )
    assert [layout.place[item][1] for item in ("in", "a", "b", "add")] == [0, 1, 2, 3] and layout.layers == 4
    skip = layout.paths[3]
    assert [layer for _, layer in skip] == [0, 1, 2, 3]
    for x, layer in skip[1:-1]:
        box = layout.place["ab"[layer - 1]][0]
        assert abs(x - box) >= 50
    assert all(0 <= x <= layout.width for path in layout.paths for x, _ in path)


def test_boxes_of_a_layer_never_overlap() -> None:
    items = {"in": 60.0, **{f"b{i}": 120.0 for i in range(5)}, "cat": 120.0, "out": 120.0}
    edges = [*(("in", f"b{i}") for i in range(5)), *((f"b{i}", "cat") for i in range(5)), ("cat", "out"), ("in", "out")]
    layout = layered(items, edges)
    centres = sorted(layout.place[f"b{i}"][0] for i in range(5))
    assert all(right - left >= 120 for left, right in pairwise(centres))


def test_a_deep_network_shares_drawings_and_a_plain_one_needs_no_regions(tmp_path: Path) -> None:
    deep = draw(small_resnet((30, 30, 30)))
    assert deep.count("<details") == 90 + 3 + 2 and deep.count("<symbol") <= 9 and len(deep) < 120_000
    draft = Draft()
    x = draft.add("linear", draft.add("input", (), "x", shape=[4]), "fc<1>", out=3)
    draft.output(draft.add("relu", x, "act"))
    plain = draft.commit()
    assert "fc&lt;1&gt;" in draw(plain) and overview(plain).count("<rect") == 2
    page = write_drawing(plain, tmp_path / "net.html", "a <net>").read_text(encoding="utf-8")
    assert "a &lt;net&gt;" in page and not re.search(r"https?:", page)


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("finish", [True, False])
def test_a_real_browser_runs_it_offline(tmp_path: Path, finish: bool) -> None:
    report = write_report(make_run(tmp_path / "run", finish=finish).path)
    done = dumped(report, tmp_path / "profile")
    assert 'data-ready="charts-6"' in done.stdout, done.stderr[-2000:]
    assert not re.search(r"https?:", done.stdout)
    assert "Content Security Policy" not in done.stderr and "Uncaught" not in done.stderr


def test_names_of_stages_do_not_run_into_each_other_in_the_overview() -> None:
    graph = SplitBranches(branches=3, how="random", planes="keep").attempt(small_resnet(), "s2", Evidence()).graph
    names = re.findall(r'<text class="legend" x="([0-9.]+)"[^>]*>([^<]*)<', overview(graph))
    assert [name for _, name in names] == [f"{path} \u00d7 {count}" for path, count in graph.depths().items()]
    for (left, name), (right, _) in pairwise(names):
        assert float(right) >= float(left) + 7 * len(name)
    width = float(re.search(r'viewBox="0 0 ([0-9.]+)', overview(graph))[1])
    assert float(names[-1][0]) + 7 * len(names[-1][1]) <= width


NAMED = {
    "one": (["train", "validation"], 1, 0),
    "long": ([f"features.stage{n} of backbone" for n in range(5)], 3, 0),
    "many": ([f"backbone.layers.{n}.blocks" for n in range(40)], 5, 31),
    "longer than a row": (["module." * 20, "b"], 2, 0),
}


@pytest.mark.parametrize("case", NAMED)
def test_names_of_lines_lie_in_rows_within_the_chart(case: str) -> None:
    names, rows, untold = NAMED[case]
    lines = tuple(Series(name, ((0.0, 1.0), (1.0, 2.0))) for name in names)
    drawing = render(Chart("k", "Depth", lines, (Mark(1.0, "rewrite", "a rewrite"),), "count", step=True))
    _, top, width, height = (float(number) for number in re.search(r'viewBox="([^"]*)"', drawing)[1].split())
    words = [
        (float(y), float(x), name)
        for x, y, name in re.findall(r'<text class="legend" x="([0-9.]+)" y="([-0-9.]+)">([^<]*)<', drawing)
    ]
    assert len({y for y, *_ in words}) == rows and top + height == 290
    assert all(y - 12 >= top and x + 6.8 * len(name) <= width for y, x, name in words)
    for (y, x, name), (below, right, _) in pairwise(words):
        assert below > y or right >= x + 12 + 6.8 * len(name)
    assert words[-1][2] == "rewrite" and len(words) == len(names) + 1 - untold + bool(untold)
    assert not untold or words[-2][2] == f"+{untold}"
    assert all(f"<title>{name}</title>" in drawing for name in names if len(name) > 68)
    lines_at = [float(y) for y in re.findall(r'<path class="line [^"]*" d="M[0-9.]+ ([-0-9.]+)L', drawing)]
    assert max(lines_at) <= 290 - 38 + 10
