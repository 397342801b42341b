"""Model of `data:`: which samples, how many for validation, and how they are varied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from nasir.errors import OptionError
from nasir.options.ranges import Count
from nasir.spec.declared import OptionsOf, declared, refuse
from nasir.spec.fields import OneOf, Options, Strict, empty_if_none, fault
from nasir.training.data import ClassWeights, DataPlan, ExtraMetric, Flip, PadCrop, ResizedCrop


class Augmentation(OneOf):
    bare = frozenset({"pad_crop", "random_resized_crop", "hflip"})

    pad_crop: Annotated[PadCrop, OptionsOf(PadCrop)] | None = None
    random_resized_crop: Annotated[ResizedCrop, OptionsOf(ResizedCrop)] | None = None
    hflip: Annotated[Flip, OptionsOf(Flip)] | None = None


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"expected a number, found {value!r}", "write a number of samples (5000) or a fraction (0.1)")
    return value


Share = Annotated[int | float, BeforeValidator(_number), WithJsonSchema({"type": "number", "minimum": 0})]


def _weights(value: Any) -> Any:
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    bad = [entry for entry in entries if isinstance(entry, bool) or not isinstance(entry, int | float) or not entry > 0]
    if value != "balanced" and (bad or not entries):
        raise fault(
            f"expected weights of classes, found {bad[0] if bad else value!r}",
            "write `balanced`, a number above 0 for each class ([1, 2.5]), or a mapping from names ({cat: 2.5})",
        )
    return value if isinstance(value, str | Mapping) else tuple(value)


_WEIGHT = {"type": "number", "exclusiveMinimum": 0}
Weights = Annotated[
    ClassWeights,
    BeforeValidator(_weights),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "balanced"},
                {"type": "array", "items": _WEIGHT, "minItems": 2},
                {"type": "object", "additionalProperties": _WEIGHT, "minProperties": 1},
            ]
        }
    ),
]


class Data(Strict):
    elsewhere = "options of the data set, such as its path, go under `options:`"

    dataset: str = Field(min_length=1)
    options: Annotated[Options, BeforeValidator(empty_if_none)] = declared(DataPlan, "options")
    classes: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] | None = declared(DataPlan, "classes")
    batch_size: Count = declared(DataPlan, "batch_size")
    eval_batch_size: Count = declared(DataPlan, "eval_batch_size")
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ()
    validation: Share = declared(DataPlan, "validation", 0.1)
    subset: Annotated[float, Field(gt=0, le=1)] = declared(DataPlan, "subset")
    normalize: Literal["auto", "none"] = "auto"
    seed: Annotated[int, Field(ge=0)] | None = declared(DataPlan, "seed", None)
    drop_last: bool = declared(DataPlan, "drop_last")
    metrics: Annotated[tuple[ExtraMetric, ...], Field(min_length=1, strict=False)] | None = declared(
        DataPlan, "metrics"
    )
    class_weights: Weights | None = declared(DataPlan, "class_weights")

    @model_validator(mode="after")
    def _agrees(self) -> Data:
        try:
            self.plan()
        except OptionError as error:
            refuse(error.faults, self.model_fields_set, own=True)
        return self

    def plan(self) -> DataPlan:
        """The backend's form of it."""
        return DataPlan(
            dataset=self.dataset,
            options=self.options,
            batch_size=self.batch_size,
            eval_batch_size=self.eval_batch_size,
            augment=tuple(item.plain() for item in self.augment),
            validation=self.validation,
            subset=self.subset,
            normalize="auto" if self.normalize == "auto" else None,
            seed=self.seed or 0,
            drop_last=self.drop_last,
            classes=self.classes,
            metrics=self.metrics,
            class_weights=self.class_weights,
        )
