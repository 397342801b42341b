"""What is installed is what is in the tree."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = ("passes", "backends", "specs")  # at the root, imported as nasir.passes and so on


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_in(folder: Path, name: str) -> set[str]:
    """Dotted names of the packages at and below a folder; links are not followed."""
    packages = {name} if (folder / "__init__.py").exists() else set()
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            packages |= packages_in(child, f"{name}.{child.name}")
    return packages


def test_the_package_list_equals_the_tree() -> None:
    tree = packages_in(ROOT / "nasir", "nasir")
    for folder in OUTSIDE:
        tree |= packages_in(ROOT / folder, f"nasir.{folder}")
    listed = project()["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(tree)


def test_folders_with_modules_are_packages() -> None:
    folders = {path.parent for name in ("nasir", *OUTSIDE) for path in (ROOT / name).rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("folder", OUTSIDE)
def test_relative_links_lead_editors_to_the_folders_at_the_root(folder: str) -> None:
    link = ROOT / "nasir" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}"
    assert project()["tool"]["setuptools"]["package-dir"][f"nasir.{folder}"] == folder


@pytest.mark.parametrize("folder", OUTSIDE)
def test_modules_are_found_under_one_name_in_one_place(folder: str) -> None:
    module = importlib.import_module(f"nasir.{folder}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().parent.name == folder


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_the_bare_name_is_refused(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert f"ImportError: installed as nasir.{folder}" in done.stderr


@pytest.mark.parametrize("group", sorted(project()["project"]["entry-points"]))
def test_entry_points_name_modules_that_are_there(group: str) -> None:
    for name, value in project()["project"]["entry-points"][group].items():
        module = value.partition(":")[0].removeprefix("nasir.").split(".")
        base = ROOT.joinpath(*module) if module[0] in OUTSIDE else ROOT.joinpath("nasir", *module)
        assert base.with_suffix(".py").exists() or (base / "__init__.py").exists(), f"{name} = {value}"


@pytest.mark.parametrize("group", ["nasir.passes", "nasir.policies", "nasir.blocks"])
def test_light_entry_points_load(group: str) -> None:
    for point in entry_points(group=group):
        assert point.load() is not None, point


def test_typed_marker_and_license_are_there() -> None:
    assert (ROOT / "nasir" / "py.typed").exists()
    assert all((ROOT / name).exists() for name in project()["project"]["license-files"])


def made(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What make would do, and its complaints."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    # a make that runs this test must not hand its own options down
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run([make, *arguments], capture_output=True, text=True, cwd=ROOT, env=env)


def test_the_suite_runs_with_a_release_of_torch_of_ones_choice() -> None:
    done = made("--dry-run", "test-torch", "VERSION=2.11.99")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (install,) = [line for line in lines if '--editable ".[dev]"' in line]
    assert install.startswith(".venv-torch-2.11.99/bin/python -m pip install ") and " torch==2.11.99 " in install
    assert any(".venv-torch-2.11.99/bin/python -m pytest -q -n 2 --dist worksteal" in line for line in lines)
    assert ".venv-torch-*/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    nameless = made("test-torch", "VERSION=")
    assert nameless.returncode == 2 and "make test-torch VERSION=2.12.1" in nameless.stdout
