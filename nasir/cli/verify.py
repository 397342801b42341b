"""`nasir verify`: whether a run, or every run of a study, is as it was written, and what can be rescued."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from nasir.counted import counted

if TYPE_CHECKING:
    from nasir.running.verify import Verdict


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("run_dir", metavar="RUN|STUDY")
    parser.add_argument("--repair", action="store_true", help="mend single flipped bits of the journal")


def run(options: argparse.Namespace) -> int:
    """Check, print, and return 0 where all is sound, 1 where something is damaged."""
    from nasir.running.verify import verify, verify_study

    path = Path(options.run_dir)
    study = (path / "study.json").is_file()
    if options.repair:
        for run_dir in sorted((path / "trials").iterdir()) if study else [path]:
            _repair(run_dir)
    verdicts = verify_study(path) if study else [verify(path)]
    if options.json:
        facts = [verdict.to_json() for verdict in verdicts]
        print(json.dumps(facts if study else facts[0], indent=2, sort_keys=True))
    else:
        for verdict in verdicts:
            _print(verdict)
        if study:
            damaged = sum(not verdict.sound for verdict in verdicts)
            print(f"{path}: {counted(len(verdicts), 'run')}, {damaged or 'none'} damaged")
    return 0 if all(verdict.sound for verdict in verdicts) else 1


def _repair(path: Path) -> None:
    from nasir.journal.directory import RunDirectory
    from nasir.journal.repair import mend
    from nasir.journal.rescue import replace_journal

    directory = RunDirectory.open(path)
    with directory.lock():
        mended = mend(directory.journal_path)
        if mended is not None:
            kept = replace_journal(directory, mended.data)
            print(f"{path}: journal mended in {len(mended.places)} places; as it was, it is kept as {kept.name}")


def _print(verdict: Verdict) -> None:
    counted = ", ".join(f"{count} {name}" for name, count in verdict.counts.items())
    print(f"{verdict.path}: {'sound' if verdict.sound else 'damaged'} ({counted})")
    for title, lines in (("damaged", verdict.faults), ("rescue", verdict.rescue), ("note", verdict.notes)):
        for line in lines:
            print(f"  {title}: {line}")
