"""Run directories that a command reads."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasir.journal.directory import RunDirectory


def open_run(path: str | os.PathLike[str]) -> RunDirectory:
    """An existing run; stderr is told where its journal is from before there were checksums."""
    from nasir.journal.directory import RunDirectory

    directory = RunDirectory.open(path)
    contents = directory.contents()
    if contents.unprotected and contents.damage is None:
        print(f"note: {contents.chain.unprotected_text(contents.unprotected)}", file=sys.stderr)
    return directory
