"""`nasir completion`: the script with which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse

from nasir.cli.parser import Parser
from nasir.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("DIR", "RUN", "STUDY", "RUN|STUDY")
FILES = ("FILE", "CSV", "SPEC", "SPEC|DIR", "SPEC|RUN|GRAPH")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="one of %(choices)s")


def script(parser: Parser, shell: str) -> str:
    """The script for one of `SHELLS`; raises UsageError where shtab, which writes it, is missing or too old."""
    try:
        import shtab
    except ImportError:
        raise UsageError("completion needs shtab: pip install 'nasir[completion]'") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise UsageError(f"the installed shtab writes no script for {shell}: pip install -U shtab")
    for each in (parser, *parser.commands.values()):
        for action in each._actions:
            if action.metavar in (*FOLDERS, *FILES):
                action.complete = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
