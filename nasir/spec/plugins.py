"""Python files that a spec names: plugins, and what makes its network; only a run imports them, as that runs code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path as File
from types import ModuleType
from typing import TypeAlias

from nasir.errors import UsageError
from nasir.files import read_bounded
from nasir.options import Path
from nasir.spec.check import Findings, check_spec, check_tree
from nasir.spec.model import Spec
from nasir.spec.model_source import ModuleNetwork
from nasir.spec.problems import raise_problems

MAX_BYTES = 1 << 24
"""Of a plugin."""
ALLOW = "NASIR_ALLOW_LOCAL_CODE"
Refusal: TypeAlias = Callable[[str, str], UsageError]
"""Makes an error of what is wrong with a plugin, and the remedy."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """An imported plugin; `sha256` is of the bytes that were run, for the record of the run."""

    path: str
    sha256: str
    module: str


def import_plugins(spec: Spec) -> tuple[Plugin, ...]:
    """Read all that the spec lists, import it in order, then check the names that only the plugins could know.

    Raises SpecError where a file is missing or fails, where a name is still unknown, or where the environment
    forbids local code (NASIR_ALLOW_LOCAL_CODE=0).
    """
    if not spec.plugins:
        return ()
    if os.environ.get(ALLOW, "1") == "0":
        raise spec.problem(("plugins",), f"{ALLOW}=0 forbids plugins by path", "install them as packages instead")
    sources = [_read(File(file), _refusal(spec, index)) for index, file in enumerate(spec.plugins)]
    for index, (plugin, data) in enumerate(sources):
        if plugin.module not in sys.modules:
            _execute(plugin, data, _refusal(spec, index))
    check_names(spec)
    return tuple(plugin for plugin, _ in sources)


def import_file(path: str) -> Plugin:
    """Import one file that no spec lists; raises UsageError as `import_plugins` raises SpecError."""
    if os.environ.get(ALLOW, "1") == "0":
        raise UsageError(f"{path}: {ALLOW}=0 forbids plugins by path; install them as packages instead")

    def refused(text: str, remedy: str) -> UsageError:
        return UsageError(f"{text}; {remedy}")

    plugin, data = _read(File(path), refused, "its path is relative to the current folder")
    if plugin.module not in sys.modules:
        _execute(plugin, data, refused)
    return plugin


def load_file(spec: Spec, file: str, path: Path, anew: bool = False) -> ModuleType:
    """The module of a Python file that a spec names at `path`, imported as `import_plugins` imports plugins.

    `anew`: run it again, even if it is imported. Equal files of two folders are two modules, whose imports may differ.
    """
    if os.environ.get(ALLOW, "1") == "0":
        raise spec.problem(path, f"{ALLOW}=0 forbids Python files by path", "install it, and write package.module")
    refused = partial(spec.problem, path)
    code, data = _read(File(file), refused)
    if anew or getattr(sys.modules.get(code.module), "__file__", None) != file:
        _execute(code, data, refused, "mend it")
    return sys.modules[code.module]


def hash_code(spec: Spec) -> tuple[Plugin, ...]:
    """The Python files that a run of the spec imports, without running any: to compare with the record of a run."""
    named: list[tuple[str, Refusal]] = [(file, _refusal(spec, index)) for index, file in enumerate(spec.plugins)]
    if isinstance(spec.network, ModuleNetwork) and spec.network.file is not None:
        named.append((spec.network.file, partial(spec.problem, ("network", "module"))))
    return tuple(_read(File(file), refused)[0] for file, refused in named)


def check_names(spec: Spec) -> None:
    """All names of the spec by what is registered now; raises SpecError for unknown ones."""
    if spec.tree is None:
        return
    findings = Findings(spec.tree)
    check_tree(spec.tree, findings)
    check_spec(spec, findings)
    raise_problems(findings.problems)


def _refusal(spec: Spec, index: int) -> Refusal:
    """Makes errors about one plugin of a spec."""
    return partial(spec.problem, ("plugins", index))


def _read(file: File, refused: Refusal, relative: str = "paths are relative to the spec") -> tuple[Plugin, bytes]:
    try:
        data = read_bounded(file, MAX_BYTES)
    except OSError as error:
        raise refused(f"{file} cannot be read ({error.strerror})", relative) from None
    digest = hashlib.sha256(data).hexdigest()
    stem = re.sub(r"\W", "_", file.stem)
    return Plugin(str(file), digest, f"nasir_plugin_{stem}_{digest[:16]}"), data


def _execute(plugin: Plugin, data: bytes, refused: Refusal, remedy: str = "mend the plugin") -> None:
    """Run exactly the bytes that were hashed; the module is forgotten again if it fails."""
    module = ModuleType(plugin.module)
    module.__file__ = plugin.path
    module.__spec__ = importlib.util.spec_from_file_location(plugin.module, plugin.path)
    sys.modules[plugin.module] = module  # dataclasses look their module up there
    try:
        exec(compile(data, plugin.path, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[plugin.module]
        if not isinstance(error, Exception | SystemExit):
            raise
        text = f"{plugin.path} failed: {type(error).__name__}: {error}"
        raise refused(text, remedy) from error
