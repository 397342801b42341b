"""Run directories that a command reads, and remarks about what it reads."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from nasir.errors import printable

if TYPE_CHECKING:
    from nasir.journal.directory import RunDirectory


def open_run(path: str | os.PathLike[str]) -> RunDirectory:
    """An existing run; stderr is told where its journal is from before there were checksums."""
    from nasir.journal.directory import RunDirectory

    directory = RunDirectory.open(path)
    contents = directory.contents()
    if contents.unprotected and contents.damage is None:
        print_note(contents.chain.unprotected_text(contents.unprotected))
    return directory


def print_note(text: str) -> None:
    """Tell stderr a remark that is no error."""
    print(f"note: {printable(text)}", file=sys.stderr)
