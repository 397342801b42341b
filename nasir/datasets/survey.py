"""Data looked at before a run, without torch: which classes, how many examples, of which shape.

Each shipped data set that can be looked at has a function here, registered by its name (`nasir.registry.surveys`, entry
points `nasir.surveys`): `fn(options, where, whole) -> Survey`. Only names, labels and headers are read, unless `whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nasir.datasets.arrays import class_count, npz_path, npz_shape, read_npz
from nasir.datasets.decoded import Sizes
from nasir.datasets.folder import find_folder, read_folder
from nasir.datasets.made import DIGITS, DIGITS_SHAPE, Synthetic, digits_arrays
from nasir.datasets.moments import normalisation
from nasir.datasets.options import Constants, DataContext, padded, read_options
from nasir.datasets.split import SPLIT_SEED, class_numbers, cut, partition, sampled
from nasir.datasets.summary import counted, summarize
from nasir.datasets.weights import class_weights
from nasir.errors import DataError
from nasir.images.pool import decode_all
from nasir.records.data import DataSummary
from nasir.registry import code_of, surveys
from nasir.training.data import DataPlan

_Array = np.ndarray[Any, Any]
_AT_ONCE = 2048  # examples that are measured at a time
Values = Callable[[_Array], _Array]


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a data set. `labels`: int64 [N] of the training and of the test part, None where they were not
    read. `values`: from positions in the training part to examples [n, C, H, W] or [n, D], where the `whole` was
    wanted. `streamed`: a sample is measured instead of all.
    """

    class_names: tuple[str, ...]
    shape: tuple[int, ...] | None
    labels: tuple[_Array, _Array] | None = None
    values: Values | None = None
    streamed: bool = False
    constants: Constants | None = None
    sizes: Sizes | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def look(plan: DataPlan, where: DataContext, whole: bool = False) -> DataSummary | None:
    """The summary of the data that a plan names; None for a data set that only a run can read.

    Its `counts` are empty where labels were not read; sizes, mean and deviation are known with `whole` only. Raises
    DataAbsent where no data are, DataError where they, or what the plan says of them, are wrong.
    """
    if plan.dataset not in surveys.names():
        return None
    options = dict(plan.options)
    side = options.pop("pad_to", None)
    survey = surveys.get(plan.dataset)
    with code_of(survey, f"survey {plan.dataset!r}", "mend it, or take it out of the registry"):
        found: Survey = survey(options, where, whole)
    if plan.classes is not None:
        found = _only(found, plan)
    shape = found.shape
    if side is not None and shape is not None:
        shape, _ = padded(shape, side, plan.dataset)
    counts: dict[str, tuple[int, ...]] = {}
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    if found.labels is not None:
        train, test = found.labels
        for part, labels in (("training", train), ("test", test)):
            if not len(labels):
                raise DataError(f"data set {plan.dataset!r}: the {part} part is empty; give at least one example")
        kept, held = partition(train, plan)
        parts = {"train": train[kept], "validation": train[held], "test": test}
        counts = {part: counted(labels, len(found.class_names)) for part, labels in parts.items()}
        class_weights(plan, found.class_names, counts["train"])
        mean, deviation = _measured(found, plan, kept, side)
    return summarize(
        plan,
        found.class_names,
        counts,
        shape or (),
        sizes=found.sizes,
        mean=mean,
        std=deviation,
        skipped=found.skipped,
        notes=found.notes,
    )


def _only(found: Survey, plan: DataPlan) -> Survey:
    """The classes that the plan names."""
    assert plan.classes is not None
    number = class_numbers(found.class_names, plan.classes, plan.dataset)
    if found.labels is None:
        return replace(found, class_names=plan.classes)
    places = [np.flatnonzero(number[labels] >= 0) for labels in found.labels]
    labels = (number[found.labels[0][places[0]]], number[found.labels[1][places[1]]])
    values = found.values
    chosen = None if values is None else (lambda positions: values(places[0][positions]))
    return replace(found, class_names=plan.classes, labels=labels, values=chosen)


def _measured(
    found: Survey, plan: DataPlan, kept: _Array, side: int | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, as a run would normalize them away."""
    if found.constants is not None:
        return found.constants.mean, found.constants.deviation
    values, labels = found.values, found.labels
    if plan.normalize is None or values is None or labels is None:
        return (), ()
    if found.streamed:
        kept = kept[sampled(labels[0][kept], plan)]
    unit = 255.0 if values(kept[:1]).dtype == np.uint8 else 1.0

    def parts() -> Iterator[_Array]:
        for start in range(0, len(kept), _AT_ONCE):
            part = values(kept[start : start + _AT_ONCE])
            yield part if side is None else np.pad(part, padded(part.shape[1:], side, plan.dataset)[1])

    mean, deviation = normalisation(parts(), unit)
    return tuple((mean / unit).tolist()), tuple((deviation / unit).tolist())


def digits(options: Mapping[str, Any], where: DataContext, whole: bool) -> Survey:
    """scikit-learn is loaded for the `whole` only."""
    read_options("digits", options, {})
    if not whole:
        return Survey(DIGITS, DIGITS_SHAPE)
    images, labels = digits_arrays()
    train, test = cut(labels, 0.2, SPLIT_SEED)
    return Survey(DIGITS, DIGITS_SHAPE, (labels[train], labels[test]), lambda positions: images[train[positions]])


def synthetic(options: Mapping[str, Any], where: DataContext, whole: bool) -> Survey:
    """Made from its options."""
    made = Synthetic.of(options)
    labels = made.labels(made.train), made.labels(made.test)
    values = made.values()[0] if whole else None
    return Survey(made.names, made.shape, labels, None if values is None else values.__getitem__)


def npz(options: Mapping[str, Any], where: DataContext, whole: bool) -> Survey:
    """The labels, and of the examples the header."""
    path = npz_path(options, where)
    arrays = read_npz(path, whole)
    names = tuple(str(label) for label in range(class_count(arrays)))
    values = arrays["x_train"].__getitem__ if whole else None
    return Survey(names, npz_shape(path), (arrays["y_train"], arrays["y_test"]), values)


def image_folder(options: Mapping[str, Any], where: DataContext, whole: bool) -> Survey:
    """The names of files, and one header; with `whole` all images are decoded, or, streamed, examined."""
    folder = find_folder(options, where)
    shape = (folder.view.channels, *folder.view.size)
    if not whole:
        train, test = folder.files()
        found = Survey(folder.names, shape, (train.labels, test.labels), notes=folder.notes)
        return replace(found, constants=folder.constants)
    read = read_folder(folder)
    if folder.fraction is None:
        train, test = read.files
        places = np.arange(len(train))
    else:
        train, test = folder.divided(read.files[0])
        places, _ = cut(read.files[0].labels, folder.fraction, SPLIT_SEED)

    def values(positions: _Array) -> _Array:
        if folder.stream:
            return decode_all(train.take(positions).paths, folder.view)
        chosen: _Array = read.images[0][places[positions]]
        return chosen

    labels = (train.labels, test.labels)
    found = Survey(folder.names, shape, labels, values, folder.stream, folder.constants)
    return replace(found, sizes=read.sizes, skipped=read.skipped, notes=folder.notes)
