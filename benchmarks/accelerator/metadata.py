"""nasir's metadata for a checkout that is not installed: passes, backends and data sets are found by entry points."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def project(root: Path = ROOT) -> dict[str, Any]:
    """The `project` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def write(site: Path, root: Path = ROOT) -> Path:
    """Write the metadata an installation would have below `site`, a folder for PYTHONPATH; gives its own folder.

    It needs neither pip nor setuptools, changes nothing of the interpreter's, and goes before an installed nasir.
    """
    table = project(root)
    folder = site / f"{table['name']}-{table['version']}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n", encoding="utf-8"
    )
    groups = {**table["entry-points"], "console_scripts": table["scripts"]}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
