"""Model of `data:`: which samples, how many for validation, and how they are varied."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from nasir.options.ranges import Count, Positive
from nasir.spec.fields import OneOf, Options, Strict, empty_if_none, fault
from nasir.training.plans import DataPlan

Range = Annotated[tuple[Positive, ...], Field(strict=False, min_length=2, max_length=2)]


class PadCrop(Strict):
    pad: Count = Field(
        default=4, description="pixels of zero padding on each side before a random crop to the old size"
    )


class RandomResizedCrop(Strict):
    size: Count | None = Field(default=None, description="side of the result; default: that of the data set's images")
    scale: Range = Field(default=(0.08, 1.0), description="least and greatest share of the area that is kept")
    ratio: Range = Field(default=(3 / 4, 4 / 3), description="least and greatest width over height of that part")

    @model_validator(mode="after")
    def _in_order(self) -> RandomResizedCrop:
        for name, (least, most) in (("scale", self.scale), ("ratio", self.ratio)):
            if least > most:
                raise fault(f"{name} goes from {least:g} down to {most:g}", "write the smaller number first", name)
        if self.scale[1] > 1:
            raise fault(f"scale reaches {self.scale[1]:g} times the area", "write shares of at most 1", "scale")
        return self


class Flip(Strict):
    """Left and right swapped for half of the images."""


class Augmentation(OneOf):
    bare = frozenset({"pad_crop", "random_resized_crop", "hflip"})

    pad_crop: PadCrop | None = None
    random_resized_crop: RandomResizedCrop | None = None
    hflip: Flip | None = None


def _share(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault(f"expected a number, found {value!r}", "write a number of samples (5000) or a fraction (0.1)")
    if value < 0 or (isinstance(value, float) and value >= 1):
        raise fault(
            f"{value} is neither a number of samples nor a fraction below 1", "write 5000, or 0.1 for a tenth of them"
        )
    return value


Share = Annotated[int | float, BeforeValidator(_share), WithJsonSchema({"type": "number", "minimum": 0})]


class Data(Strict):
    elsewhere = "options of the data set, such as its path, go under `options:`"

    dataset: str = Field(min_length=1)
    options: Annotated[Options, BeforeValidator(empty_if_none)] = Field(
        default={}, description="of the data set, such as where its files lie"
    )
    classes: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] | None = Field(
        default=None, description="names of the classes to use, in the order of their labels; default: all"
    )
    batch_size: Count = 128
    eval_batch_size: Count = 512
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ()
    validation: Share = Field(default=0.1, description="part of the training data held out to decide by; 0: none")
    subset: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="fraction of the training data to use")
    normalize: Literal["auto", "none"] = "auto"
    seed: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="of split, order and augmentation; default: seed"
    )

    drop_last: bool = Field(default=False, description="leave out the last, smaller batch of an epoch")

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
        )
