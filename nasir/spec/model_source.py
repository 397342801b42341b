"""Models of networks that a spec does not write out: torchvision's, timm's, a module of one's own, that of a run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nasir.options.words import unknown_word
from nasir.spec import presets
from nasir.spec.fields import Options, Strict, fault

LIBRARIES = ("torchvision", "timm")
SOURCES = (*LIBRARIES, "module", "run")
PATHS = ("run", "module", "weights")
"""Keys whose values may be paths."""
_MADE_BY = re.compile(r"(?P<home>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|.*\.py):(?P<function>[A-Za-z_]\w*)", re.S)
_OF_FILES = re.compile(r"[/\\.]")  # published weights have names without these


def _known_source(value: Any) -> Any:
    if value in SOURCES:
        return value
    raise fault(*unknown_word(value, SOURCES))


def _made_by(value: Any) -> Any:
    if not isinstance(value, str) or _MADE_BY.fullmatch(value):
        return value
    remedy = "write package.module:function, or path/to/file.py:function with a path relative to the spec"
    raise fault(f"{value!r:.60} names no function of a module", remedy)


def _file_of_weights(value: Any) -> Any:
    if not isinstance(value, str) or is_file(value):
        return value
    remedy = "name a file such as weights.safetensors, relative to the spec; published weights come with their library"
    raise fault(f"{value!r:.60} is no file", remedy)


def is_file(weights: str) -> bool:
    """Whether `weights:` names a file; otherwise it names published ones."""
    return _OF_FILES.search(weights) is not None


Arguments = Annotated[Options | None, Field(description="keyword arguments of what makes the model, such as sizes")]
Classes = Annotated[int, Field(ge=2)] | None


class ImportedNetwork(Strict):
    """A network of torchvision or timm. Those of `presets` are built as graphs, others imported from the library."""

    source: Annotated[Literal["torchvision", "timm"], BeforeValidator(_known_source)] = Field(alias="from")
    model: str = Field(min_length=1)
    args: Arguments = None
    classes: Classes = Field(default=None, description="size of a new classifier; default: the model's")
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="name of published weights, such as IMAGENET1K_V2, or a file relative to the spec; null: fresh",
    )

    @property
    def is_preset(self) -> bool:
        """Whether nasir builds it itself, without the library."""
        return self.source == "torchvision" and self.args is None and self.model in presets.names()


class ModuleNetwork(Strict):
    """A network that Python code makes as an `nn.Module`."""

    elsewhere = "sizes, such as the number of classes, go to the function through `args:`"

    source: Literal["module"] = Field(alias="from")
    module: Annotated[str, BeforeValidator(_made_by)] = Field(
        description="function or class that makes it: package.module:function, or path/to/file.py:function"
    )
    args: Arguments = None
    weights: Annotated[str, BeforeValidator(_file_of_weights)] | None = Field(
        default=None, description="file of a state_dict, relative to the spec (.safetensors, or by torch.save)"
    )

    @property
    def made_by(self) -> tuple[str, str]:
        """Its module, a dotted name or a file (.py), and the name of the function."""
        found = _MADE_BY.fullmatch(self.module)
        assert found is not None
        return found["home"], found["function"]

    @property
    def file(self) -> str | None:
        """The Python file that it names, None for an installed module."""
        home = self.made_by[0]
        return home if home.endswith(".py") else None


class RunNetwork(Strict):
    """The network of another run, as its last checkpoint has it."""

    source: Literal["run"] = Field(alias="from")
    run: str = Field(min_length=1, description="directory of the run, relative to the spec")
    weights: Literal["last", "average", "none"] = Field(
        default="last", description="those of the checkpoint, their moving average, or fresh ones"
    )
    classes: Classes = Field(default=None, description="size of a new classifier; default: that of the run")


def source_of(value: Any) -> str | None:
    """Where a network comes from; where `from` is wrong, by its keys. None for what is no mapping: steps."""
    if isinstance(value, ImportedNetwork | ModuleNetwork | RunNetwork):
        return value.source
    if not isinstance(value, dict):
        return None
    named = value.get("from")
    by_key = (key for key in ("run", "module") if key in value)
    return named if named in SOURCES else next(by_key, LIBRARIES[0])
