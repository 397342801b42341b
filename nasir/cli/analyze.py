"""`nasir analyze`: what the parts of a network do, measured on data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from nasir.cli.networks import graph_of, is_spec, loaded
from nasir.cli.opening import open_run, print_note
from nasir.errors import UsageError

if TYPE_CHECKING:
    from nasir.figures.residuals import Analyzed, Wanted


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("what", metavar="RUN|SPEC|GRAPH")
    parser.add_argument(
        "--residual",
        action="store_true",
        required=True,
        help="what each residual branch adds to its stream: norms, variances, gradients, effective depth",
    )
    parser.add_argument("--batch", type=int, default=64, help="number of samples (default %(default)s)")
    parser.add_argument(
        "--data",
        choices=("spec", "synthetic"),
        help="training examples of the spec (default), or made-up images or vectors (of a graph file: always)",
    )
    parser.add_argument(
        "--statistics",
        choices=("running", "batch"),
        help="by which numbers batch norms normalize (default: batch for fresh weights, else running)",
    )
    parser.add_argument(
        "--orders", type=int, metavar="K", help="also expand the logits by the number of branches, up to K (small nets)"
    )
    parser.add_argument(
        "--report", action="store_true", help="also keep the analysis in RUN, and show it in its report"
    )


def run(options: argparse.Namespace) -> int:
    """Analyze and print."""
    from nasir.figures.residuals import Wanted
    from nasir.report.residual_table import render

    what, path = options.what, Path(options.what)
    if options.report and not path.is_dir():
        raise UsageError(f"{path}: only runs have a report; leave --report out")
    found = _analyzed(
        what, Wanted(options.batch, options.data == "synthetic", options.statistics, options.orders), options
    )
    if options.report:
        from nasir.figures.residuals import store
        from nasir.report import write_report

        store(open_run(path), found)
        print_note(f"wrote {write_report(path)}")
    if options.json:
        print(json.dumps(found.to_json(), indent=2, sort_keys=True, allow_nan=False))
    else:
        print(render(found.analysis))
    return 0


def _analyzed(what: str, wanted: Wanted, options: argparse.Namespace) -> Analyzed:
    from nasir.figures.residuals import analyze_graph, analyze_run, analyze_spec

    if is_spec(what):
        return analyze_spec(loaded(what, options.overrides), wanted, print_note)
    if Path(what).is_dir() and not options.overrides:
        return analyze_run(open_run(what), wanted)
    graph = graph_of(what, options.overrides)  # refuses overrides of what is no spec
    if options.data == "spec":
        raise UsageError(f"{what}: a graph file has no data; leave --data out, or name a spec")
    return analyze_graph(graph, wanted)
