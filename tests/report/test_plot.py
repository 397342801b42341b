"""`nasir plot`: the way of the weights and the loss around them, against what a plain computation gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import safetensors.numpy
from small_runs import write_spec
from synthetic_run import make_run

import nasir
from nasir.cli.main import main
from nasir.figures.kept import checkpoint_after
from nasir.figures.plane import open_backend
from nasir.figures.surface import direction
from nasir.journal.directory import RunDirectory
from nasir.report.planes import Field, _segments, contour_levels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plotted")
    nasir.run(nasir.load_spec(write_spec(folder), ["checkpoint.keep=50"]), out=folder / "run")
    return folder / "run"


def plotted(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> dict[str, Any]:
    assert main(["plot", str(run), "--json", "--figure", *arguments]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_the_way_is_that_of_principal_components(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Blocks are only appended in this run, so that names tell weights apart too."""
    out = tmp_path / "way.html"
    data = plotted(capsys, run, "trajectory", "--out", str(out))
    steps = sorted((int(path.name.removeprefix("step_")), path) for path in (run / "checkpoints").iterdir())
    stored = [safetensors.numpy.load_file(path / "model.safetensors") for _, path in steps]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    names = sorted({name for weights in stored for name in weights if not name.endswith(buffers)})
    sizes = {name: next(weights[name].size for weights in stored if name in weights) for name in names}
    rows = np.array(
        [
            np.concatenate([weights[n].ravel() if n in weights else np.zeros(sizes[n]) for n in names])
            for weights in stored
        ]
    ).astype(np.float64)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    assert data["weights"] == rows.shape[1]
    assert data["explained"] == pytest.approx((values / values.sum())[:2].tolist(), rel=1e-9)
    places = np.array([[point["x"], point["y"]] for point in data["points"]])
    assert places[-1].tolist() == [0.0, 0.0] and len(places) == len(stored)
    centred = places - places.mean(0)
    assert (centred**2).sum(0) == pytest.approx(values[:2], rel=1e-9)
    # the plane holds the greatest share of every distance, and never more than all of it
    flat = np.linalg.norm(places[:, None] - places[None], axis=-1)
    whole = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    assert (flat <= whole + 1e-9).all() and flat.sum() > 0.7 * whole.sum()
    assert [growth["epoch"] for growth in data["rewrites"]] == [1, 2, 3, 4]
    assert [point["rewrites"] for point in data["points"]][:5] == [1, 1, 1, 1, 0]
    with open(out.with_suffix(".csv")) as file:
        assert [float(row["x"]) for row in csv.DictReader(file)] == places[:, 0].tolist()
    page = out.read_text()
    assert page.count('<g class="rewrite">') >= 4 and f"{100 * data['explained'][0]:.1f} % of the variance" in page


def test_contours_of_the_way_go_through_the_last_network(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = plotted(capsys, run, "trajectory", "--grid", "3", "--samples", "8")
    assert len(data["surface"]) == 9 and all(0 <= point["accuracy"] <= 1 for point in data["surface"])
    assert (run / "figures" / "trajectory.html").read_text().count('class="height"') == 9


def test_the_middle_of_a_surface_is_the_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = plotted(capsys, run, "surface", "--grid", "3", "--span", "0.5", "--seed", "4")
    middle = next(point for point in data["points"] if point["x"] == point["y"] == 0)
    end = RunDirectory.open(run).effective()[-1]
    assert (data["epoch"], len(data["points"])) == (7, 9)
    assert middle["accuracy"] == end["metrics"]["val.accuracy"]
    assert middle["loss"] == pytest.approx(end["metrics"]["val.loss"], rel=1e-5)
    assert sorted({point["x"] for point in data["points"]}) == [-0.5, 0.0, 0.5]
    assert len({point["loss"] for point in data["points"]}) == 9
    again = plotted(capsys, run, "surface", "--grid", "3", "--span", "0.5", "--seed", "4")
    assert again == data
    other = plotted(capsys, run, "surface", "--grid", "3", "--span", "0.5", "--seed", "5")
    assert other["points"] != data["points"]


def test_an_earlier_checkpoint_its_average_and_a_drawing(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "surface.svg"
    given = ["surface", "--grid", "2", "--epoch", "2", "--batch", "5", "--samples", "7", "--out", str(out)]
    last = plotted(capsys, run, *given)
    average = plotted(capsys, run, *given, "--average")
    assert last["epoch"] == average["epoch"] == 2 and last["points"] != average["points"]
    assert all(round(7 * point["accuracy"]) == pytest.approx(7 * point["accuracy"]) for point in last["points"])
    assert ElementTree.fromstring(out.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_every_filter_moves_by_its_own_length(run: Path) -> None:
    kept = checkpoint_after(RunDirectory.open(run), None)
    weights = kept.read(open_backend(RunDirectory.open(run)), average=False)
    steps = direction(kept, weights, 0, 1)
    assert set(steps) == {name for name in kept.names() if weights[name].ndim > 1}
    for name, step in steps.items():
        rows = [np.linalg.norm(array.reshape(len(array), -1), axis=1) for array in (step, weights[name])]
        assert rows[0] == pytest.approx(rows[1], rel=1e-6), name
    other = direction(kept, weights, 0, 2)
    assert not np.allclose(other["fc.weight"], steps["fc.weight"])


def test_curves_are_those_of_the_report(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = plotted(capsys, run, "depth", "--out", str(tmp_path / "depth.svg"))
    assert [line["name"] for line in data["series"]] == ["s1", "s2"]
    assert data["series"][0]["points"][-1] == [7.0, 3.0]
    ElementTree.fromstring((tmp_path / "depth.svg").read_text())


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = make_run(tmp_path / "made")
    figure = plotted(capsys, made.path, "loss")
    assert figure["series"][1]["points"][1] == [2.0, None]
    assert "training,2.0,\n" in (made.figures / "loss.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--figure", "accurac"], "the run has no figure 'accurac'; it has trajectory, surface, accuracy, loss"),
        (["--figure", "accuracy", "--grid", "3"], "--grid is of --figure trajectory or surface, not of accuracy"),
        (["--figure", "trajectory", "--seed", "3"], "--seed is of --figure surface, not of trajectory"),
        (["--figure", "trajectory", "--samples", "3"], "add --grid, or leave them out"),
        (["--figure", "surface", "--grid", "1"], "--grid 1: too few; give at least 2"),
        (["--figure", "surface", "--samples", "25"], "25 validation images are wanted, and there are 24"),
        (["--figure", "surface", "--samples", "0"], "--samples 0: too few"),
        (["--figure", "surface", "--span", "-1"], "--span -1.0: give a positive number"),
        (["--figure", "surface", "--seed", "-1"], "--seed -1: give a whole number"),
        (["--figure", "surface", "--epoch", "70"], "no checkpoint after epoch 70 was kept; there are some after"),
        (["--figure", "surface", "--average", "--epoch", "7"], "no moving average was kept here"),
        (["--figure", "surface", "--out", "x.png"], "x.png: a figure is written as a page (.html) or a drawing (.svg)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    arguments: list[str], told: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "figure.html")]
    assert main(["plot", str(run), *arguments, *out]) == 2
    captured = capsys.readouterr()
    assert told in captured.err and not captured.out and not list(tmp_path.iterdir())


def test_too_few_checkpoints_are_told_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nasir.run(nasir.load_spec(write_spec(tmp_path), ["phases.1.epochs=1"]), out=tmp_path / "run")
    assert main(["plot", str(tmp_path / "run"), "--figure", "trajectory"]) == 2
    told = capsys.readouterr().err
    assert "needs at least 3 checkpoints, and this run kept 2" in told and "keep: 1000" in told


def test_contours_are_where_the_height_is() -> None:
    axis = [0.0, 1.0, 2.0]
    slope = Field("height", axis, axis, [[x + 2 * y for x in axis] for y in axis])
    ends = [point for segment in _segments(slope, 2.5) for point in segment]
    assert ends and all(x + 2 * y == pytest.approx(2.5) for x, y in ends)
    saddle = Field("height", [0.0, 1.0], [0.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])
    low, high = ([*_segments(saddle, level)] for level in (0.4, 0.6))
    # the middle is 0.5: below it the two high corners are joined, and each contour cuts off a low one
    assert {tuple(sorted(segment)) for segment in low} == {((0.6, 0.0), (1.0, 0.4)), ((0.0, 0.6), (0.4, 1.0))}
    assert {tuple(sorted(segment)) for segment in high} == {((0.0, 0.4), (0.4, 0.0)), ((0.6, 1.0), (1.0, 0.6))}
    hole = Field("height", axis, axis, [[x if x + y else float("nan") for x in axis] for y in axis])
    assert contour_levels([[2.0, 2.0]]) == () and contour_levels(hole.values)[0] > 0
    assert len([*_segments(hole, 0.5)]) == 1
