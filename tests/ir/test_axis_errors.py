"""What ops that rearrange axes refuse, in words that say where and what instead."""

from __future__ import annotations

from typing import Any

import pytest

from nasir.errors import TypeRuleError
from nasir.ir import Draft

IMAGE = [8, 6, 4]


@pytest.mark.parametrize(
    ("op", "attrs", "text"),
    [
        ("split", {"sizes": [2, 3], "axis": 1}, "sizes [2, 3] sum to 5, the input has 6 places on axis 2"),
        (
            "slice",
            {"start": 0, "stop": 2, "axis": 3},
            "axis must be from 0 to 2, not 3, of an input of shape (8, ",
        ),
        ("slice", {"start": 3, "stop": 9}, "needs 0 <= start < stop <= 8, got start 3, stop 9"),
        ("select", {"axis": 1, "index": 6}, "index must be from 0 to 5, not 6"),
        ("unbind", {"axis": 5}, "axis must be from 0 to 2, not 5"),
        ("stack", {"axis": 4}, "axis must be from 0 to 3, not 4"),
        ("layout", {"channel_axis": 3}, "channel_axis must be from 0 to 2, not 3"),
        ("reduce", {"how": "mean", "axes": [2, 1]}, "axes must rise from 0 to at most 2, not [2, 1]"),
        ("reduce", {"how": "mean", "axes": [3]}, "axes must rise from 0 to at most 2, not [3]"),
        ("channel_shuffle", {"groups": 3}, "groups 3 must divide the 8 channels"),
        ("pixel_shuffle", {"factor": 3}, "factor 3 needs a multiple of 9 channels, got 8"),
        ("pixel_unshuffle", {"factor": 4}, "factor 4 must divide both sides of the 6x4 input"),
        ("roll", {"shifts": [1], "axes": [1, 2]}, "needs an axis from 0 to 2 for each shift"),
        ("roll", {"shifts": [1], "axes": [3]}, "needs an axis from 0 to 2 for each shift"),
        ("repeat", {"counts": [2, 2]}, "needs a count for each of 3 axes of shape (8, 6, 4), got [2, 2]"),
    ],
)
def test_what_cannot_be_is_told(op: str, attrs: dict[str, Any], text: str) -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 6, 4]), "conv", out=8, kernel=1)
    draft.output(draft.add(op, x, "op", **attrs))
    with pytest.raises(TypeRuleError) as caught:
        draft.commit()
    assert str(caught.value).startswith(f"{op} 'op': ") and text in str(caught.value)


@pytest.mark.parametrize("op", ["concat", "stack"])
@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"shape": [8, 5, 4]}, "(from 'y'"),
        ({"shape": [8, 6, 4], "dtype": "int64"}, "inputs differ on dtype: float32 (from 'x'"),
        ({"shape": [8, 6, 4], "channel_axis": 2}, "(from 'y'"),
    ],
)
def test_what_is_joined_must_be_alike(op: str, other: dict[str, Any], text: str) -> None:
    draft = Draft()
    inputs = (draft.add("input", (), "x", shape=IMAGE), draft.add("input", (), "y", **other))
    draft.output(draft.add(op, inputs, "joined"))
    with pytest.raises(TypeRuleError) as caught:
        draft.commit()
    assert text in str(caught.value)
