"""`nasir export`: a network, or what a run made of it, in another form."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasir.errors import UsageError
from nasir.training.exporter import Exportable, exported_text, exporter_named, make_exporter, write_file

if TYPE_CHECKING:
    from nasir.ir import Graph


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("what", metavar="SPEC|RUN|GRAPH")
    parser.add_argument("--to", required=True, metavar="NAME", help="the form: one of `nasir list exporters`")
    parser.add_argument("--out", metavar="FILE", help="write it into FILE; without it text is printed")
    parser.add_argument(
        "--plugin",
        dest="plugins",
        action="append",
        default=[],
        metavar="FILE",
        help="import a Python file first, which has the exporter, or what the network is made of",
    )
    parser.add_argument(
        "--option",
        dest="options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the exporter, the value in YAML",
    )


def run(source: Callable[[], Exportable], given: argparse.Namespace) -> int:
    """Export what `source` gives; nothing is read before the exporter and its options are known to be right."""
    from nasir.spec.plugins import import_file

    for file in given.plugins:
        plugin = import_file(file)
        print(f"imported plugin {plugin.path} (sha256 {plugin.sha256})", file=sys.stderr)
    exporter = make_exporter(given.to, _options(given.options))
    if given.out is None and not exporter_named(given.to).prints():
        raise UsageError(f"exporter {given.to}: what it writes cannot be printed; add `--out FILE`")
    if given.out is None:
        print(exported_text(exporter, source()), end="")
        return 0
    write_file(exporter, source(), Path(given.out))
    print(json.dumps({"wrote": given.out}) if given.json else f"wrote {given.out}")
    return 0


def text_of(name: str, graph: Graph) -> str:
    """A network in the form of an exporter that gives text."""
    return exported_text(make_exporter(name, {}), Exportable(graph, ""))


def _options(given: Sequence[str]) -> dict[str, Any]:
    from nasir.spec.tree import parse

    options: dict[str, Any] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {option}: expected KEY=VALUE; for example --option weights=average")
        if name in options:
            raise UsageError(f"--option {option}: {name} is given twice; keep one")
        tree = parse(text, f"--option {option}")
        options[name] = None if tree is None else tree.plain()
    return options
