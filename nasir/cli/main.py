"""The command line. Data goes to stdout, progress and errors to stderr; nothing here imports torch by itself.

Exit codes: 0 done, 1 failed, 2 bad input, 3 `diff` found differences, 75 preempted (checkpoint written), 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasir.cli import analyze as analyze_command
from nasir.cli import completion as completion_command
from nasir.cli import cost as cost_command
from nasir.cli import export as export_command
from nasir.cli import plot as plot_command
from nasir.cli import run as run_command
from nasir.cli import search as search_command
from nasir.cli import verify as verify_command
from nasir.cli.networks import graph_of, is_spec, loaded, of_spec, opened
from nasir.cli.opening import noted_warnings, open_run, print_note
from nasir.cli.parser import Parser
from nasir.counted import counted
from nasir.errors import NasirError, SpecError, UnknownName, printable
from nasir.ir.regions import depth_text

if TYPE_CHECKING:
    from nasir.ir import Graph
    from nasir.spec import Spec
    from nasir.training.exporter import Exportable

KINDS = ("passes", "ops", "blocks", "datasets", "specs", "backends", "policies", "optimizers", "penalties", "exporters")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; never lets a NasirError become a traceback."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None and not options.version:
        parser.print_help()
        return 0
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        with noted_warnings():
            return command(options)
    except NasirError as error:
        _complain(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader went away; nothing more to say to it
        return 0
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(
            f"error: {error.filename or 'file system'}: {error.strerror}; free space or fix permissions",
            file=sys.stderr,
        )
        return 1


def _complain(error: NasirError) -> None:
    for line in str(error).splitlines():
        print(line if error.exit_code in (75, 130) else f"error: {line}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"  {printable(note)}", file=sys.stderr)


EXAMPLES = {
    "check": ("nasir check first.yaml", "nasir check first.yaml --simulate metrics.csv"),
    "show": ("nasir show first.yaml", "nasir show runs/first --html network.html"),
    "cost": ("nasir cost runs/first --nodes", "nasir cost first.yaml --measure --batch 32"),
    "analyze": ("nasir analyze runs/first --residual", "nasir analyze first.yaml --residual --batch 128 --json"),
    "run": (
        "nasir run first.yaml --out runs/first",
        "nasir run first.yaml --set seed=1 --set phases.0.rules.0.every=2",
        "nasir run --best studies/search-quickstart",
    ),
    "resume": ("nasir resume runs/first",),
    "search": (
        "nasir search specs/search/quickstart.yaml --workers 2",
        "nasir search studies/search-quickstart --trials 40",
        "nasir search studies/search-quickstart --export csv --to trials.csv",
    ),
    "replay": ("nasir replay runs/first", "nasir replay runs/first --train runs/again"),
    "verify": ("nasir verify runs/first",),
    "diff": ("nasir diff first.yaml runs/first", "nasir diff -v runs/first runs/second"),
    "export": ("nasir export runs/first --to safetensors --out first.safetensors",),
    "report": ("nasir report runs/first",),
    "plot": (
        "nasir plot runs/first --figure accuracy --out accuracy.svg",
        "nasir plot runs/first --figure surface --grid 15",
    ),
    "list": ("nasir list passes", "nasir list datasets --json"),
    "schema": ("nasir schema > nasir.schema.json",),
    "completion": (
        "nasir completion bash > ~/.local/share/bash-completion/completions/nasir",
        "nasir completion fish > ~/.config/fish/completions/nasir.fish",
    ),
}
"""What the help of each command ends with."""


def _parser() -> Parser:
    parser = Parser(
        prog="nasir",
        description="Declarative architecture search: train networks whose architecture changes\nduring training.",
        examples=("nasir run specs/quickstart.yaml", "nasir COMMAND --help"),
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(run=_version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, examples=EXAMPLES[name])
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="machine-readable output on stdout")
        return made

    def with_overrides(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a value of the spec, such as phases.0.rules.0.every=5",
        )
        return made

    def with_import(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        text = "run the code that makes the network of a spec (and its plugins), where nasir alone cannot"
        made.add_argument("--import", dest="importing", action="store_true", help=text)
        return made

    made = with_overrides(add("check", _check, "check a spec and describe what it would do, without training"))
    with_import(made).add_argument("spec", metavar="SPEC")
    made.add_argument("--data", action="store_true", help="also read all of the data, and summarize them")
    made.add_argument("--simulate", metavar="CSV", help="show which rewrites the metrics in this file would lead to")
    made.add_argument(
        "--epochs", type=int, default=1000, help="maximum number of epochs to simulate (default %(default)s)"
    )
    made = with_overrides(add("show", _show, "draw the network of a spec, a run or a graph file"))
    with_import(made).add_argument("what", metavar="SPEC|RUN|GRAPH")
    made.add_argument("--html", metavar="FILE", help="write the drawing as an HTML page")
    made.add_argument(
        "--text",
        action="store_true",
        help="print the graph with one line per node (--json: as JSON); `show` and `diff` can read both",
    )
    made = with_overrides(
        add("cost", _cost, "show the cost of a network by region: parameters, MACs, bytes and latency")
    )
    cost_command.add_options(with_import(made))
    made = with_overrides(add("analyze", analyze_command.run, "measure what the residual branches of a network add"))
    analyze_command.add_options(made)
    run_command.add_run_options(with_overrides(add("run", _run, "train the network of a spec")))
    resume = add("resume", run_command.resume, "continue a run that was stopped or killed")
    run_command.add_resume_options(resume)
    made = with_overrides(add("search", search_command.run, "search for the best values of the choices in a spec"))
    search_command.add_options(made)
    made = add("replay", _replay, "rebuild every network of a run from its journal and compare")
    made.add_argument("run_dir", metavar="RUN")
    made.add_argument(
        "--train", metavar="DIR", help="also train again from the seed, into DIR, and compare all results"
    )
    made = add(
        "verify", verify_command.run, "check that a run or a study is as it was written; say what can be rescued"
    )
    verify_command.add_options(made)
    made = add("diff", _diff, "show the differences between two networks (exit code 3 if there are any)")
    with_import(made).add_argument("first", metavar="SPEC|RUN|GRAPH")
    made.add_argument("second", metavar="SPEC|RUN|GRAPH")
    made.add_argument("-v", "--verbose", action="store_true", help="list every block and node that differs")
    made = with_overrides(add("export", _export, "write a network, or what a run made of it, in another form"))
    export_command.add_options(with_import(made))
    made = add("report", _report, "write the HTML report of a run")
    made.add_argument("run_dir", metavar="RUN")
    made = add("plot", plot_command.run, "draw a figure of a run: trajectory, loss surface, or a curve of the report")
    plot_command.add_options(made)
    made = add("list", _list, "list what is available, including plugins")
    made.add_argument("kind", choices=KINDS)
    add("schema", _schema, "print the JSON Schema of specs, for editors")
    made = add("completion", _completion, "print the script with which a shell completes commands and file names")
    completion_command.add_options(made)
    return parser


def _version(options: argparse.Namespace) -> int:
    from nasir.version import VERSION

    print(VERSION)
    return 0


def _print(data: Any) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


# -- looking at specs and networks


def _check(options: argparse.Namespace) -> int:
    from nasir.cli.check_data import data_of, print_data
    from nasir.report.show import render
    from nasir.running.names import check_names
    from nasir.running.reach import check_reach
    from nasir.spec.imported import NotImported
    from nasir.spec.search import load_any
    from nasir.spec.space_text import facts, lines

    spec, search = load_any(options.spec, options.overrides)
    for note in spec.notes if search is None else search.notes:
        print_note(note)
    try:
        # what there is to note about the network of a search is among its notes
        graph = of_spec(spec, options.importing, print_note if search is None else None).graph
    except NotImported as error:
        if options.simulate or options.data:
            raise
        if options.json:
            _print({"name": spec.name, "digest": spec.digest, "graph": None, "not_checked": str(error)})
        else:
            print(f"{spec.name}: correct as far as can be told without its network; not checked further: {error}")
        return 0
    except SpecError as error:
        if not (spec.plugins and isinstance(error.__cause__, UnknownName)):
            raise
        print(f"{spec.name}: correct as far as can be told without running its plugins; not checked further: {error}")
        return 0
    data = data_of(spec, graph, options.data)
    if search is None:  # of a search, other values may be the ones that act
        check_reach(spec, graph)
        check_names(spec, graph)
    if options.simulate:
        if search is not None:
            print_note("simulating the values that the search begins with")
        return _simulate(spec, graph, options)
    cost = graph.cost()
    if options.json:
        _print(
            {
                "name": spec.name,
                "digest": spec.digest,
                "graph": graph.digest,
                "params": cost.params,
                "macs": cost.macs,
                "depths": graph.depths(),
                "phases": [phase.name for phase in spec.phases],
                "data": None if data is None else data.to_json(),
                **({} if search is None else facts(search)),
            }
        )
        return 0
    print(f"{spec.name}: correct\n")
    if search is not None:
        print("\n".join(lines(search)))
        print("\nthe trial with these values, and the first or lowest where one is drawn:\n")
    print(f"{render(graph)}\n")
    for phase in spec.phases:
        print(_phase_line(phase))
    if data is not None:
        print_data(data, options.data)
    return 0


def _phase_line(phase: Any) -> str:
    until = phase.until or (phase.budget and "its budget") or "its policy ends it"
    length = counted(phase.epochs, "epoch") if phase.epochs else f"until {until}"
    length += f"; policy {phase.policy_name}" if phase.policy else ""
    rules = ", ".join(
        f"{rule.pass_name} every {rule.every}" if rule.every else rule.pass_name for rule in phase.plan().rules
    )
    return f"phase {phase.name}: {length}; " + (f"rules: {rules}" if rules else "no rules")


def _simulate(spec: Spec, graph: Graph, options: argparse.Namespace) -> int:
    from nasir.running.dry_run import simulate_spec

    records = simulate_spec(spec, graph, Path(options.simulate), options.epochs)
    if options.json:
        _print([record.to_json() for record in records])
        return 0
    from nasir.records import EpochRecord, of_kind
    from nasir.report.progress import line

    for record in records:
        if not isinstance(record, EpochRecord) and (text := line(record)):
            print(text)
    epochs = of_kind(records, EpochRecord)
    depth = f", depth {depths}" if epochs and (depths := depth_text(epochs[-1].depths)) else ""
    print(f"{counted(len(epochs), 'epoch')} simulated{depth}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from nasir.analysis.variance_shift import REMEDY, told, variance_shifts
    from nasir.report.show import render
    from nasir.report.untyped import untyped_lines

    shown = opened(options.what, options.overrides, options.importing)
    graph = shown.graph
    if options.html:
        from nasir.report import write_drawing

        print(f"wrote {write_drawing(graph, Path(options.html), options.what)}")
    elif options.json:
        print(export_command.text_of("json", graph), end="")
    elif options.text:
        print(export_command.text_of("text", graph), end="")
    else:
        print("\n".join([render(graph), *untyped_lines(graph, shown.untyped)]))
        shifts = [*variance_shifts(graph)]
        if shifts:
            print_note(f"{told(graph, shifts)}; {REMEDY}")
    return 0


def _export(options: argparse.Namespace) -> int:
    return export_command.run(lambda: _exportable(options), options)


def _exportable(options: argparse.Namespace) -> Exportable:
    from nasir.journal.directory import RunDirectory
    from nasir.training.exporter import Exportable

    what, path = options.what, Path(options.what)
    if is_spec(what):
        spec = loaded(what, options.overrides)
        return Exportable(of_spec(spec, options.importing).graph, what, spec.to_yaml())
    graph = graph_of(what, options.overrides)
    if not path.is_dir():
        return Exportable(graph, what)
    directory = RunDirectory.open(path)
    for step in directory.checkpoint_steps()[-1:]:
        directory.check_checkpoint(step, directory.contents())
    return Exportable(graph, what, directory.spec(), directory.checkpoints)


def _cost(options: argparse.Namespace) -> int:
    return cost_command.run(lambda: opened(options.what, options.overrides, options.importing), options)


def _diff(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from nasir.report.diff import difference, summary

    first, second = (graph_of(what, importing=options.importing) for what in (options.first, options.second))
    changes = difference(first, second)
    if options.json:
        _print([asdict(change) for change in changes])
    else:
        for text in changes if options.verbose else summary(first, second):
            print(text)
        if not changes:
            print("the same architecture")
    return 3 if changes else 0


# -- running


def _run(options: argparse.Namespace) -> int:
    return run_command.run(lambda: loaded(options.spec, options.overrides, runs=True), options)


def _replay(options: argparse.Namespace) -> int:
    from nasir.api import replay_training
    from nasir.records import RewriteRecord
    from nasir.running.replay import replay_graphs

    directory = open_run(options.run_dir)
    graphs = replay_graphs(directory)
    rewrites = sum(isinstance(record, RewriteRecord) for record in directory.effective())
    facts: dict[str, Any] = {"rewrites": rewrites, "graph": graphs[-1].digest, "differences": []}
    if options.train:
        _, facts["differences"] = replay_training(directory, Path(options.train))
    if options.json:
        _print(facts)
    else:
        print(f"{counted(rewrites, 'rewrite')} replayed, every network as recorded; the last is {facts['graph'][:12]}")
        for text in facts["differences"]:
            print(text)
        if options.train and not facts["differences"]:
            print("trained again: all decisions and metrics equal bit for bit")
    return 1 if facts["differences"] else 0


def _report(options: argparse.Namespace) -> int:
    from nasir.report import write_report

    directory = open_run(options.run_dir)
    path = write_report(directory.path)
    if options.json:
        from nasir.records import EndRecord
        from nasir.report.classes import class_facts
        from nasir.report.history import phase_rows

        records = directory.effective()
        metrics = next((dict(record.metrics) for record in reversed(records) if isinstance(record, EndRecord)), None)
        about = class_facts(directory, records)
        _print({"report": str(path), "metrics": metrics, "phases": phase_rows(records), **about})
    else:
        print(f"report: {path}")
    return 0


# -- catalogues


def _list(options: argparse.Namespace) -> int:
    from nasir.cli.listing import entries

    rows = entries(options.kind)
    if options.json:
        _print(rows)
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize  # lines for other programs
    for row in rows:
        text = f"{row['name'].ljust(width)}  {row['about']}".rstrip()
        print(textwrap.fill(text, columns, subsequent_indent=" " * (width + 2)))
    return 0


def _schema(options: argparse.Namespace) -> int:
    from nasir.spec import json_schema

    _print(json_schema())
    return 0


def _completion(options: argparse.Namespace) -> int:
    print(completion_command.script(_parser(), options.shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
