"""The report of a study: contents, robustness, escaping, links, and that a real browser accepts it offline."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed")

from nasir.report.study_axes import amount, scale_of, short_names
from nasir.report.study_facts import ObjectiveFacts, StudyFacts, TrialFacts
from nasir.report.study_lanes import timeline
from nasir.report.study_page import write_study_report
from nasir.report.study_parallel import bins, parallel
from nasir.report.study_plots import history, intermediate, trade_off
from nasir.search.summary import study_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
sys.path.insert(0, str(Path(__file__).parent))
from browser import dumped, needs_browser
from synthetic_study import add_runs, make_study


def drawings(text: str) -> list[str]:
    """The outermost svg elements of a page."""
    drawn, depth, start = [], 0, 0
    for tag in re.finditer(r"<svg\b[^>]*>|</svg>", text):
        if tag[0].startswith("<svg"):
            start = start if depth else tag.start()
            depth += 1
        else:
            depth -= 1
            if not depth:
                drawn.append(text[start : tag.end()])
    return drawn


def test_the_page_holds_every_section_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    study = make_study()
    facts = study_facts(study)
    add_runs(study, tmp_path, facts.front)
    path = write_study_report(facts, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html" and len(text) < 300_000
    for words in ("History", "What it costs", "Importance", "While training", "Choices and results", "Workers"):
        assert words in text, words
    for words in ("Growth of the best trial", "Depth: blocks", "epochs saved", "cache hits", "cut short, retried"):
        assert words in text, words
    complete = [trial for trial in facts.trials if trial.outcome in ("complete", "cached")]
    assert f"<dt>complete</dt><dd>{len(complete)}</dd>" in text
    best = facts.best
    assert best is not None and f"Best: trial {best.number}" in text and amount("val.accuracy", best.values[0]) in text
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<img|<iframe", text)
    assert "default-src 'none'" in text and "'unsafe-inline'; script-src 'sha256-" in text
    for trial in facts.trials:
        assert f'<tr class="t{" onfront" if trial is best else ""}" data-t="{trial.number}"' in text


def test_several_objectives_have_a_front_a_hypervolume_and_no_single_best(tmp_path: Path) -> None:
    study = make_study(2)
    facts = study_facts(study)
    add_runs(study, tmp_path, facts.front[:2])
    text = write_study_report(facts, tmp_path).read_text(encoding="utf-8")
    assert "Pareto front" in text and "hypervolume" in text and "While training" not in text
    assert "Growth of trials on the front" in text and f">trial {facts.front[1]}</button>" in text
    assert "share for the front" in text and 'data-colour="1"' in text
    ((_, pareto),) = trade_off(facts)
    rings = set(re.findall(r'class="ring" cx="([\d.]+)" cy="([\d.]+)"', pareto))
    marks = {place[0]: place[1:] for place in re.findall(r'data-t="(\d+)" cx="([\d.]+)" cy="([\d.]+)"', pareto)}
    assert rings == {marks[str(number)] for number in facts.front}
    line = re.search(r'class="front" d="M([^"]*)"', pareto)
    assert line is not None
    corners = {tuple(corner.split()) for corner in line[1].split("L")}
    assert rings <= corners and len(corners) == 2 * len(rings) - 1  # the edge leads through all of the front


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    facts = study_facts(make_study())
    odd = replace(facts.trials[3], worker="<i>w", error="</script><b>", params={"lr": 0.1, "init": "<u>"})
    facts = replace(facts, trials=(*facts.trials[:3], odd, *facts.trials[4:]), spec="# </script> <!--")
    text = write_study_report(facts, tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"<b>grow|<i>w|<u>|<node", text) and "&lt;b&gt;grow&lt;/b&gt;" in text
    assert text.count("</script>") == 2 and "# &lt;/script&gt; &lt;!--" in text


@pytest.mark.parametrize(
    ("objectives", "trials", "running"),
    [(1, 40, 0), (2, 40, 0), (1, 20, 8), (2, 1, 0), (1, 4, 4), (2, 4, 4), (1, 0, 0)],
)
def test_every_drawing_is_well_formed_at_any_time(tmp_path: Path, objectives: int, trials: int, running: int) -> None:
    facts = study_facts(make_study(objectives, trials, running=running))
    text = write_study_report(facts, tmp_path).read_text(encoding="utf-8")
    assert len(drawings(text)) >= 2
    for drawing in drawings(text):
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        assert not re.search(r"[\s\"=](nan|inf)", drawing)
        for mark in root.iter("circle"):
            assert 0 <= float(mark.attrib["cx"]) <= width and 0 <= float(mark.attrib["cy"]) <= height
    assert ('class="badge done"' in text) == (trials > 0 and not running)
    if trials == running:
        assert "No result yet." in text and "no trial has ended yet" in text


def test_words_in_a_plot_do_not_run_into_each_other() -> None:
    for study in (make_study(), make_study(2), make_study(trials=20, running=8), make_study(trials=300, seed=4)):
        facts = study_facts(study)
        for _, drawing in (*history(facts), *trade_off(facts)):
            named = re.findall(r'<text class="(named[^"]*|tick[^"]*)" x="([\d.]+)" y="([\d.]+)">([^<]*)<', drawing)
            boxes = [box(style, float(x), float(y), words) for style, x, y, words in named]
            for first, other in combinations(boxes, 2):
                apart = first[2] <= other[0] or other[2] <= first[0] or first[3] <= other[1] or other[3] <= first[1]
                assert apart, (first, other)


def box(style: str, x: float, y: float, words: str) -> tuple[float, float, float, float, str]:
    width = 6.4 * len(words)
    left = x - width if "end" in style else x - width / 2 if "middle" in style else x
    return left, y - 9, left + width, y + 1, words


def test_the_best_so_far_only_gets_better_and_pruned_values_do_not_squeeze_the_others() -> None:
    facts = study_facts(make_study())
    ((_, drawing),) = history(facts)
    path = re.search(r'class="best" d="M[\d.]+ ([\d.]+)([^"]*)"', drawing)
    assert path is not None
    heights = [float(path[1]), *map(float, re.findall(r"V([\d.]+)", path[2]))]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) > 2
    assert drawing.count("o-pruned") == facts.totals.outcomes["pruned"]
    assert facts.best is not None
    at = re.search(rf'data-t="{facts.best.number}" cx="[\d.]+" cy="([\d.]+)"', drawing)
    assert at is not None and float(at[1]) == heights[-1]


def test_learning_curves_lie_on_the_axis_that_was_chosen() -> None:
    facts = study_facts(make_study())
    assert ">epoch</text>" in intermediate(facts) and ">20</text>" in intermediate(facts)
    costly = intermediate(replace(facts, axis="cpu_seconds", axis_width=10.0))
    assert ">CPU time of training, min</text>" in costly and ">4</text>" in costly  # 24 steps of 10 s
    assert ">MACs spent in training</text>" in intermediate(replace(facts, axis="macs", axis_width=1e12))
    crosses = re.findall(r'class="t o-pruned" data-t="(\d+)"', costly)
    assert sorted(map(int, crosses)) == [t.number for t in facts.trials if t.outcome == "pruned"]


def test_parallel_lines_have_a_place_for_what_is_not_active() -> None:
    facts = study_facts(make_study())
    drawing, data = parallel(facts)
    assert len(data["xs"]) == len(facts.parameters) + 1 and "not active" in drawing and "pruned" in drawing
    for trial in facts.trials:
        if trial.ended:
            ys = data["ys"][str(trial.number)]
            lacks = max(ys) == data["bottom"] - 8
            assert lacks == ("fraction" not in trial.params or trial.outcome == "pruned")
    colours = bins(facts)
    assert facts.best is not None and colours[facts.best.number] == [6]
    assert min(colour for (colour,) in colours.values()) == 0
    assert not any(trial.number in colours for trial in facts.trials if not trial.counts)


def test_the_timeline_shows_each_attempt_in_the_lane_of_its_worker() -> None:
    facts = study_facts(make_study())
    drawing = timeline(facts)
    assert drawing.count('<g class="t bar') == len(facts.trials) and drawing.count("retry") == 3
    assert ">w0 on node&lt;1&gt;<" in drawing and "40 ↻" in drawing
    bars = re.findall(r'data-t="(\d+)"><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawing)
    lanes: dict[str, list[tuple[float, float]]] = {}
    for _, x, y, width in bars:
        lanes.setdefault(y, []).append((float(x), float(x) + float(width)))
    assert len(lanes) == 3
    for spans in lanes.values():
        for (_, end), (start, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert end <= start + 1.6
    many = tuple(replace(trial, worker=f"worker-{trial.number}") for trial in facts.trials)
    ElementTree.fromstring(timeline(replace(facts, trials=many)))


def test_rows_link_to_reports_inside_the_folder_and_to_nothing_else(tmp_path: Path) -> None:
    study = make_study()
    facts = study_facts(study)
    add_runs(study, tmp_path / "study", facts.front)
    outside = tmp_path / "report.html"
    outside.write_text("not ours")
    away = replace(facts.trials[1], run="..")
    facts = replace(facts, trials=(facts.trials[0], away, *facts.trials[2:]))
    text = write_study_report(facts, tmp_path / "study").read_text(encoding="utf-8")
    links = set(re.findall(r'href="([^"#]+)"', text))
    assert links == {f"trials/{facts.front[0]:04}-a0/report.html"}
    assert all((tmp_path / "study" / link).is_file() for link in links)


def test_a_run_that_is_elsewhere_or_damaged_leaves_its_growth_out(tmp_path: Path) -> None:
    study = make_study()
    facts = study_facts(study)
    assert "Growth" not in write_study_report(facts, tmp_path).read_text(encoding="utf-8")
    add_runs(study, tmp_path, facts.front)
    (journal,) = tmp_path.glob("trials/*/journal.jsonl")
    journal.write_text("{}\n")
    assert "Growth" not in write_study_report(facts, tmp_path).read_text(encoding="utf-8")


def test_only_infeasible_trials_are_told_from_no_result(tmp_path: Path) -> None:
    trial = TrialFacts(0, 0, 0, "infeasible", (0.5,), {"lr": 0.1}, {"macs <= 1M": 2e6}, cost={"macs": 3e6})
    facts = StudyFacts("s", (ObjectiveFacts("val.accuracy", "maximize"),), ("macs <= 1M",), trials=(trial,))
    text = write_study_report(facts, tmp_path).read_text(encoding="utf-8")
    assert "No trial has kept all constraints." in text and "breaks macs &lt;= 1M" in text


def test_short_names_stay_different() -> None:
    names = ["phases.0.rules.0.every", "phases.1.rules.0.every", "phases.1.rules.0", "lr", "phases.0.optimizer.sgd.lr"]
    short = short_names(names)
    assert short == {
        "phases.0.rules.0.every": "phases.0.rules.0.every",
        "phases.1.rules.0.every": "phases.1.rules.0.every",
        "phases.1.rules.0": "rules.0",
        "lr": "lr",
        "phases.0.optimizer.sgd.lr": "sgd.lr",
    }


@pytest.mark.parametrize("metric", ["val.accuracy", "macs", "latency_ms", "cpu_seconds", "val.loss", "epochs", "lr"])
@pytest.mark.parametrize("values", [[], [0.0], [0.5], [0.2, 0.2], [1e-4, 0.9], [1e-3, 4.0, 8e3], [float("inf"), 0.3]])
def test_scales_hold_their_values_and_have_ticks(metric: str, values: list[float]) -> None:
    scale = scale_of(metric, values, 300.0, 20.0)
    assert len(scale.ticks) >= 2 and all(20 <= scale(tick) <= 300 for tick in scale.ticks)
    assert len({scale.show(tick) for tick in scale.ticks}) == len(scale.ticks)
    for value in values:
        if value != float("inf"):
            assert scale(value) == pytest.approx(scale.free(value))


ACT = """
const seen = [], mark = document.querySelector("svg.trade circle.t[data-t='NUMBER']");
mark.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 9, clientY: 9}));
seen.push(tip.hidden, tip.querySelector("strong").textContent, document.querySelectorAll(".hot").length > 2);
mark.dispatchEvent(new MouseEvent("click", {bubbles: true}));
seen.push(card.hidden, !!card.querySelector("a[href$='report.html']"));
document.querySelectorAll("#trials th")[3].click();
document.querySelectorAll("#trials th")[3].click();
seen.push(Number(table.tBodies[0].rows[0].cells[3].dataset.v) > Number(table.tBodies[0].rows[1].cells[3].dataset.v));
const grip = document.querySelector(".grip"), area = document.querySelector("svg.parallel").getBoundingClientRect();
grip.setPointerCapture = () => {};
for (const [kind, y] of [["down", 0.2], ["move", 0.5], ["up", 0.5]]) {
  const place = {bubbles: true, clientX: area.left, clientY: area.top + y * area.height};
  grip.dispatchEvent(new PointerEvent("pointer" + kind, place));
}
const rows = document.querySelectorAll("#trials tbody tr").length, out = document.querySelectorAll("tr.out").length;
seen.push(0 < out && out < rows, document.getElementById("brushed").textContent.startsWith(`${rows - out} of ${rows}`));
document.documentElement.dataset.seen = seen.join();
"""


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("objectives", "running", "charts"), [(1, 0, 4), (2, 0, 8), (1, 40, 0)])
def test_a_real_browser_runs_it_offline(tmp_path: Path, objectives: int, running: int, charts: int) -> None:
    study = make_study(objectives, running=running)
    facts = study_facts(study)
    add_runs(study, tmp_path, facts.front[:2])
    done = dumped(write_study_report(facts, tmp_path), tmp_path / "profile")
    begun = sum(trial.outcome != "waiting" for trial in facts.trials)
    assert f'data-ready="study-{begun}-charts-{charts}"' in done.stdout, done.stderr[-2000:]
    assert not re.search(r"https?:", done.stdout)
    assert "Content Security Policy" not in done.stderr and "Uncaught" not in done.stderr


@pytest.mark.slow
@needs_browser
def test_pointing_picking_sorting_and_brushing_work(tmp_path: Path) -> None:
    study = make_study()
    facts = study_facts(study)
    add_runs(study, tmp_path, facts.front)
    page = write_study_report(facts, tmp_path)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    act = ACT.replace("NUMBER", str(facts.front[0]))
    page.write_text(text.replace("</body>", f"<script>{{{act}}}</script></body>"), encoding="utf-8")
    done = dumped(page, tmp_path / "profile")
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, done.stderr[-2000:]
    assert seen[1] == f"false,Trial {facts.front[0]},true,false,true,true,true,true"
