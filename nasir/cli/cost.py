"""`nasir cost`: its options, and what it prints. Torch is loaded only to measure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import get_args

from nasir.cli.networks import Opened
from nasir.errors import UsageError
from nasir.training.backend import DEFAULT_BACKEND, make_backend
from nasir.training.plans import Precision


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("what", metavar="SPEC|RUN|GRAPH")
    parser.add_argument("--nodes", action="store_true", help="also list every node")
    parser.add_argument("--flops", action="store_true", help="show FLOPs (two per MAC) instead of MACs")
    parser.add_argument(
        "--profile",
        metavar="NAME|FILE|here",
        help="estimate the latency on a device: K80, P4, T4, P100, V100, TPUv2, a .yaml or .json file, "
        "or 'here' to measure the peaks of this machine first",
    )
    parser.add_argument("--measure", action="store_true", help="measure the latency on this machine")
    parser.add_argument("--batch", type=int, default=1, help="batch size for latencies (default %(default)s)")
    parser.add_argument("--backend", default=DEFAULT_BACKEND, help="backend that measures (default %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="device to measure on: auto, cpu or cuda (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads for measurements (default: torch's)")
    parser.add_argument("--precision", default="fp32", choices=get_args(Precision), help="precision of the measurement")


def run(load: Callable[[], Opened], options: argparse.Namespace) -> int:
    """Print the costs of the network that `load` gives; raises NasirError."""
    from nasir.analysis.roofline import find_profile
    from nasir.report.cost_table import cost_table, describe, render

    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: a batch has at least 1 sample")
    here = options.profile == "here"
    profile = None if here or options.profile is None else find_profile(options.profile)
    opened = load()
    graph, measured = opened.graph, None
    if options.measure or here:
        backend = make_backend(options.backend)
        if options.measure:
            measure = backend.measure if opened.module is None else partial(backend.measure, module=opened.module)
            measured = measure(graph, options.batch, options.device, options.threads, options.precision)
        if here:
            profile = backend.calibrate(options.device, options.threads)
    table = cost_table(graph, profile, options.batch, options.nodes)
    if options.json:
        print(json.dumps({"graph": graph.digest, **table.to_json(), **describe(profile, measured)}, indent=2))
    else:
        print(render(table, flops=options.flops, profile=profile, measured=measured))
    return 0
