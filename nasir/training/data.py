"""The data of a run as a plan: which set, how it is split, ordered and varied. Nothing here reads any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen, doc

from nasir.errors import OptionError
from nasir.options import Checked, Fault, construct, raise_faults, suggestion
from nasir.options.ranges import Count, Positive

Span: TypeAlias = Annotated[tuple[Positive, ...], Len(2, 2)]
"""The smallest and the greatest number."""


ClassWeights: TypeAlias = (
    Literal["balanced"] | Annotated[tuple[Positive, ...], MinLen(2)] | Annotated[Mapping[str, Positive], MinLen(1)]
)
"""How much the examples of each class count in the loss."""

ExtraMetric = Literal["top5"]
"""top5: share of the samples whose class is among the five that the network considers most likely."""


@dataclass(frozen=True, slots=True)
class PadCrop(Checked):
    """Zeros around the image, and a random crop of the old size."""

    pad: Annotated[Count, doc("pixels of zero padding on each side before a random crop to the old size")] = 4

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "augmentation pad_crop"


@dataclass(frozen=True, slots=True)
class ResizedCrop(Checked):
    """A random part of an image, resized.

    `scale` bounds its share of the area, `ratio` its width over its height. `size`: side of the result in pixels; None:
    the size that the data set's images have.
    """

    size: Annotated[Count | None, doc("side of the result; default: that of the data set's images")] = None
    scale: Annotated[Span, doc("least and greatest share of the area that is kept")] = (0.08, 1.0)
    ratio: Annotated[Span, doc("least and greatest width over height of that part")] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, (least, most) in (("scale", self.scale), ("ratio", self.ratio)):
            if least > most:
                raise ValueError(f"{name} goes from {least:g} down to {most:g}; write the smaller number first")
        if self.scale[1] > 1:
            raise ValueError(f"scale reaches {self.scale[1]:g} times the area; write shares of at most 1")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "augmentation random_resized_crop"


@dataclass(frozen=True, slots=True)
class Flip(Checked):
    """Left and right swapped for half of the images."""

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "augmentation hflip"


Augmentation: TypeAlias = PadCrop | ResizedCrop | Flip
AUGMENTATIONS: Mapping[str, type[Augmentation]] = {
    "pad_crop": PadCrop,
    "random_resized_crop": ResizedCrop,
    "hflip": Flip,
}


@dataclass(frozen=True, slots=True)
class DataPlan(Checked):
    """A data set by registered name, and how its training part is split, ordered and augmented.

    `validation`: images (int) or fraction (float, 0 <= f < 1) taken from the training data, stratified by class.
    `subset`: fraction of what remains that is trained on. `augment`: names of `AUGMENTATIONS`, or one-key mappings with
    options, `{"pad_crop": {"pad": 4}}`; the two crops exclude each other. `normalize`: `auto`
    subtracts the mean and divides by the standard deviation of each channel, which the data set gives or which are
    measured on the training part (on a sample of it when images are streamed); None only scales uint8 to 0..1.
    `classes`: names of those to use, which become labels 0, 1, ... in this order; None: all.
    `metrics`: measured beside loss and accuracy, on the validation and test parts; None: no others.
    `class_weights`: the training loss of a batch is the mean weighted by those of its labels. `balanced` weighs each
    class by the inverse of its share of the training part, so that all have the same say; a mapping may leave classes
    out, which then weigh 1.
    `options` go to the data set; the key `pad_to` is taken by the backend and pads images with zeros to that side
    length (28 -> 32).
    """

    dataset: Annotated[str, MinLen(1)]
    options: Annotated[Mapping[str, Any], doc("of the data set, such as where its files lie")] = field(
        default_factory=dict
    )
    batch_size: Count = 128
    eval_batch_size: Count = 512
    augment: tuple[str | Mapping[str, Any], ...] = ()
    validation: Annotated[int | float, doc("part of the training data held out to decide by; 0: none")] = 0
    subset: Annotated[float, Gt(0), Le(1), doc("fraction of the training data to use")] = 1.0
    normalize: Literal["auto"] | None = "auto"
    seed: Annotated[int, Ge(0), Lt(2**63), doc("of split, order and augmentation; default: seed")] = 0
    drop_last: Annotated[bool, doc("leave out the last, smaller batch of an epoch")] = False
    classes: Annotated[
        Annotated[tuple[str, ...], MinLen(2)] | None,
        doc("names of the classes to use, in the order of their labels; default: all"),
    ] = None
    metrics: Annotated[
        Annotated[tuple[ExtraMetric, ...], MinLen(1)] | None,
        doc("what to measure beside loss and accuracy on the validation and test parts"),
    ] = None
    class_weights: Annotated[
        ClassWeights | None,
        doc("weights of the classes in the training loss: `balanced`, one for each class, or by name; default: all 1"),
    ] = None

    def __post_init__(self) -> None:
        held = self.validation
        if held < 0 or (isinstance(held, float) and held >= 1):
            raise ValueError(
                f"validation: {held} is neither a number of samples nor a fraction below 1; write 5000, or 0.1 for a "
                "tenth of them"
            )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: one is named twice among {', '.join(self.classes)}; name each once")
        if self.metrics is not None and len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics: one is named twice among {', '.join(self.metrics)}; name each once")
        _augmented(self.augment)

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "data"

    @property
    def pad(self) -> int:
        """Pixels of zero padding on each side before the random crop; 0 without `pad_crop`."""
        crop = self._augmentation(PadCrop)
        return crop.pad if isinstance(crop, PadCrop) else 0

    @property
    def resized_crop(self) -> ResizedCrop | None:
        """The random part of each image that is resized and trained on; None without `random_resized_crop`."""
        crop = self._augmentation(ResizedCrop)
        return crop if isinstance(crop, ResizedCrop) else None

    @property
    def flips(self) -> bool:
        """Whether images are mirrored left to right with probability 1/2."""
        return self._augmentation(Flip) is not None

    def _augmentation(self, kind: type[Augmentation]) -> Augmentation | None:
        named = _augmented(self.augment).values()
        return next((augmentation for augmentation in named if isinstance(augmentation, kind)), None)


def _augmented(entries: tuple[str | Mapping[str, Any], ...]) -> dict[str, Augmentation]:
    """The augmentations by name; raises OptionError with every fault, each at its place below `augment`."""
    augmentations: dict[str, Augmentation] = {}
    faults: list[Fault] = []
    for number, entry in enumerate(entries):
        named = {entry: None} if isinstance(entry, str) else entry
        if len(named) != 1:
            faults.append((("augment", number), "expected one augmentation", "write `{pad_crop: {pad: 4}}`"))
            continue
        [(name, options)] = named.items()
        if name not in AUGMENTATIONS:
            text = f"unknown value {name!r}"
            faults.append((("augment", number), text, suggestion(str(name), AUGMENTATIONS)))
        elif name in augmentations:
            faults.append((("augment", number), f"the augmentation {name!r} is named already", "name each once"))
        elif options is not None and not isinstance(options, Mapping):
            faults.append((("augment", number, name), "expected a mapping", "write `key: value` pairs"))
        else:
            try:
                augmentations[name] = construct(AUGMENTATIONS[name], options or {}, f"augmentation {name}")
            except OptionError as error:
                faults += [(("augment", number, name, *path), text, cure) for path, text, cure in error.faults]
    if not faults and {"pad_crop", "random_resized_crop"} <= augmentations.keys():
        faults.append((("augment",), "two crops exclude each other", "keep one of pad_crop and random_resized_crop"))
    if faults:
        raise_faults("data", faults)
    return augmentations
