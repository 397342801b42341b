"""Run directories that a command reads, and remarks about what it reads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nasir.errors import NasirWarning, printable

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


@contextmanager
def noted_warnings() -> Iterator[None]:
    """While it lasts, each NasirWarning is told as a note, once; other warnings are shown as they were before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NasirWarning)
        others, told = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, NasirWarning):
                others(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                print_note(str(message))

        warnings.showwarning = show
        yield
