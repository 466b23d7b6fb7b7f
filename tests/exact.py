"""Sums and roundings with fractions: the slow twin of what a merge computes."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

# bits of a significand, the smallest normal exponent, and the largest finite value
TYPES = {
    "F64": (53, -1022, Fraction(np.finfo(np.float64).max.item())),
    "F32": (24, -126, Fraction(np.finfo(np.float32).max.item())),
    "F16": (11, -14, Fraction(65504)),
    "BF16": (8, -126, Fraction(torch.finfo(torch.bfloat16).max)),
}
TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def ulp(value: Fraction, dtype: str) -> Fraction:
    """The distance between neighbours of a type at a value."""
    precision, smallest, _ = TYPES[dtype]
    exponent = smallest
    if value:
        exponent = abs(value).numerator.bit_length() - value.denominator.bit_length()
        exponent -= abs(value) < Fraction(2) ** exponent
    return Fraction(2) ** (max(exponent, smallest) - precision + 1)


def nearest(value: Fraction, dtype: str) -> Fraction:
    """The nearest value of a type, ties to even."""
    step = ulp(value, dtype)
    return round(value / step) * step


def weighted(weights: Sequence[float], inputs: Sequence[Any]) -> list[Fraction]:
    """Σ_j c_j x_j of each element, exactly."""
    columns = zip(*[x.reshape(-1).tolist() for x in inputs], strict=True)
    return [
        sum((Fraction(c) * Fraction(x) for c, x in zip(weights, column, strict=True)), Fraction(0))
        for column in columns
    ]


def worst(found: Any, exact: Sequence[Fraction], dtype: str) -> float:
    """The largest distance from the exact values, in ulps of the type there."""
    pairs = zip(found.reshape(-1).tolist(), exact, strict=True)
    return max(float(abs(Fraction(a) - b) / ulp(b, dtype)) for a, b in pairs)
