"""The checks of numbers and labels: which values pass, and what is said of the others."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from simplicial_reg._checks import check_count, check_labels, check_number

INF = math.inf


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "wanted"),
    [
        ({}, [0, -1.5, np.float32(2), np.int64(3)], [INF, -INF, math.nan], "finite"),
        ({"above": 0}, [1e-300, 7], [0, -0.0, -1, INF, math.nan], "positive and finite"),
        ({"above": 0, "most": INF}, [1e-300, INF], [0, -INF, math.nan], "positive"),
        ({"above": 1}, [1.1], [1, 0, INF], "above 1 and finite"),
        ({"least": 0}, [0, -0.0, 5], [-1e-9, INF, math.nan], "at least 0 and finite"),
        ({"least": 0, "most": 2}, [0, 2], [-1, 2.5, INF, math.nan], "in [0, 2]"),
        ({"least": 0, "below": 1}, [0, 0.999], [1, -1, math.nan], "in [0, 1)"),
        ({"above": 0, "most": 1}, [1e-9, 1], [0, 1.5, math.nan], "in (0, 1]"),
        ({"above": -0.5, "below": 0.5}, [0], [-0.5, 0.5], "in (-0.5, 0.5)"),
        ({"most": 3}, [3, -7], [3.5, -INF, math.nan], "at most 3 and finite"),
        ({"below": 3}, [2], [3, -INF], "below 3 and finite"),
    ],
    ids=str,
)
def test_a_number_is_in_its_interval_or_the_interval_is_said(
    bounds: dict[str, float], inside: list[float], outside: list[float], wanted: str
) -> None:
    for value in inside:
        check_number("size", value, **bounds)
    for value in outside:
        with pytest.raises(ValueError, match=re.escape(f"size must be {wanted}; got {value}") + "$"):
            check_number("size", value, **bounds)


@pytest.mark.parametrize("value", [True, np.True_, "1", None, [1], 1j, torch.tensor(1.0)], ids=repr)
def test_what_is_no_number_is_named_by_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"t must be a number; got {type(value).__name__}")):
        check_number("t", value)
    with pytest.raises(TypeError, match=re.escape(f"k must be an int; got {type(value).__name__}")):
        check_count("k", value, 0)


def test_a_count_is_an_integer_of_at_least_so_much() -> None:
    for value in (2, 10**9, np.int64(2), np.uint8(3)):
        check_count("k", value, 2)
    with pytest.raises(ValueError, match=r"^k must be at least 2; got 1$"):
        check_count("k", 1, 2)
    with pytest.raises(TypeError, match=r"^k must be an int; got float$"):
        check_count("k", 2.0, 2)


def test_none_passes_where_it_is_said_to() -> None:
    check_count("k", None, 1, optional=True)
    check_number("q", None, optional=True)
    with pytest.raises(ValueError, match=r"^k must be None or at least 1; got 0$"):
        check_count("k", 0, 1, optional=True)
    with pytest.raises(TypeError, match=r"^k must be None or an int; got str$"):
        check_count("k", "1", 1, optional=True)
    with pytest.raises(ValueError, match=r"^q must be None or in \(0, 1\]; got 2$"):
        check_number("q", 2, above=0, most=1, optional=True)
    with pytest.raises(TypeError, match=r"^q must be None or a number; got str$"):
        check_number("q", "1", optional=True)


def test_a_hint_ends_the_message() -> None:
    with pytest.raises(ValueError, match=r"^fraction must be positive and finite; got 0; use something else$"):
        check_number("fraction", 0, above=0, hint="use something else")


def test_labels_are_integers_of_the_shape_of_the_mask() -> None:
    points = torch.zeros(2, 3, 4)
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool):
        check_labels(torch.zeros(2, 3, dtype=dtype), points)
    for labels, got in ((torch.zeros(2, 3), "torch.float32"), ([0, 1], "list"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"labels must be an integer tensor; got {got}"):
            check_labels(labels, points)
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\), .* of points \(2, 3, 4\); got \(3,\)"):
        check_labels(torch.zeros(3, dtype=torch.int64), points)
    with pytest.raises(ValueError, match="labels must be on the device of points, cpu; got meta"):
        check_labels(torch.zeros(2, 3, dtype=torch.int64, device="meta"), points)
