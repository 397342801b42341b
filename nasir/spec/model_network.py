"""Models of `input:` and `network:`: the shape of each step; whether the steps fit together is for the graph to say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from nasir.options import close_match
from nasir.options.ranges import Count, Positive
from nasir.spec.fields import LABEL, OneOf, Options, Strict, empty_if_none, fault
from nasir.spec.model_source import LIBRARIES, ImportedNetwork, ModuleNetwork, RunNetwork, source_of


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class Input(OneOf):
    """What one sample is, without the batch axis."""

    image: Annotated[tuple[Count, ...], Field(min_length=3, max_length=3, strict=False)] | None = Field(
        default=None, description="channels, height, width"
    )
    vector: (
        Annotated[tuple[Count, ...], Field(min_length=1, max_length=1, strict=False), BeforeValidator(_as_list)] | None
    ) = Field(default=None, description="number of features")

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) or (C,)."""
        shape: tuple[int, ...] = self.chosen
        return shape


class StepOptions(Strict):
    """What every step may say."""

    label: str | None = Field(
        default=None, pattern=LABEL, description="name of the node; the default numbers the steps"
    )


class Kernel(StepOptions):
    stride: Count = 1
    padding: Annotated[int, Field(ge=0)] | None = Field(default=None, description="default: kernel // 2")


class ConvBnRelu(Kernel):
    """Convolution without bias, batch norm, ReLU."""

    out: Count = Field(description="output channels")
    kernel: Count = 3


class Conv(Kernel):
    """A plain convolution."""

    out: Count = Field(description="output channels")
    kernel: Count = 3
    groups: Count = 1
    bias: bool = True


class BatchNorm(StepOptions):
    eps: Positive | None = Field(default=None, description="added to the variance; default: 1e-5")
    momentum: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="weight of a new batch in the running statistics; default: 0.1"
    )

    @field_validator("momentum")
    @classmethod
    def _not_null(cls, momentum: float | None) -> float | None:  # not called for the default
        if momentum is None:
            raise fault(
                "null, which is the plain average over all batches in PyTorch, is not offered here",
                "write a number such as 0.1, or leave the key out for 0.1",
            )
        return momentum


class Pool(StepOptions):
    kernel: Count = 2
    stride: Count | None = Field(default=None, description="default: the kernel")
    padding: Annotated[int, Field(ge=0)] = 0


class Linear(StepOptions):
    out: Count = Field(description="output features")
    bias: bool = True


class Dropout(StepOptions):
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5


class StageStep(StepOptions):
    """A run of equal blocks that passes may lengthen; keys beyond these are options of the block."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(pattern=LABEL)
    block: str
    out: Count | None = Field(default=None, description="output channels of the stage; default: those of its input")
    depth: Count = Field(default=1, description="number of blocks")
    stride: Count = Field(default=1, description="of the first block")

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, data: Any) -> Any:
        """A key one slip away from a key of the stage is taken for that slip, not for an option of the block."""
        known = [name for name in cls.model_fields if not isinstance(data, dict) or name not in data]
        for key in data if isinstance(data, dict) else ():
            close = close_match(key, known, likeness=0.8)  # `width` is 0.6 like `depth`, `strid` 0.91 like `stride`
            if key not in cls.model_fields and close is not None:
                raise fault("unknown key", f"did you mean {close!r}?", key)
        return data


class Classifier(StepOptions):
    """Global average pooling (for an image), dropout if any, and a linear layer to the classes."""

    classes: Annotated[int, Field(ge=2)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


_Plain = Annotated[StepOptions, BeforeValidator(empty_if_none)] | None


class Step(OneOf):
    """One step of the network: a built-in kind, or a registered op or block by name with its attributes."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Options, BeforeValidator(empty_if_none)]] = Field(init=False)
    bare = frozenset({"batch_norm", "relu", "max_pool", "avg_pool", "global_avg_pool", "flatten", "dropout"})

    conv_bn_relu: ConvBnRelu | None = None
    conv: Conv | None = None
    batch_norm: Annotated[BatchNorm, BeforeValidator(empty_if_none)] | None = None
    relu: _Plain = None
    max_pool: Pool | None = None
    avg_pool: Pool | None = None
    global_avg_pool: _Plain = None
    flatten: _Plain = None
    linear: Linear | None = None
    dropout: Dropout | None = None
    stage: StageStep | None = None
    classifier: Classifier | None = None

    @property
    def builtin(self) -> bool:
        """False for a registered op or block."""
        return not self.model_extra

    @property
    def options(self) -> dict[str, Any]:
        """All options with their defaults, without the label; absent optional ones are left out."""
        chosen = self.chosen
        options = dict(chosen) if isinstance(chosen, dict) else chosen.plain()
        options.pop("label", None)
        return options

    @property
    def label(self) -> str | None:
        """The name the step asks for, None for the default."""
        chosen = self.chosen
        label = chosen.get("label") if isinstance(chosen, dict) else chosen.label
        return None if label is None else str(label)


_TAGS: dict[str | None, str] = {
    None: "<list>",
    "run": "<run>",
    "module": "<module>",
    **dict.fromkeys(LIBRARIES, "<map>"),
}

Network = Annotated[
    Annotated[Annotated[tuple[Step, ...], Field(min_length=1, strict=False)], Tag("<list>")]
    | Annotated[ImportedNetwork, Tag("<map>")]
    | Annotated[ModuleNetwork, Tag("<module>")]
    | Annotated[RunNetwork, Tag("<run>")],
    Discriminator(lambda value: _TAGS[source_of(value)]),
]
"""Steps from input to output, or a network to import."""
