"""Weighted sums of blocks of numbers, each within an ulp of the exact one. numpy alone.

    r = Σ_j c_j x_j        in float64; then rounded to the output's type

A float64 sum of k products is off by at most (k + 1)·2⁻⁵³·S, S = Σ |c_j x_j|. That is half an ulp
of a type of p bits where |r| < (k + 1)·2^(p − 52)·S: nowhere but where the terms cancel. There,
and everywhere in a sum that goes to float64, the sum is done again with every rounding error kept
(two-sum and Dekker's product: Ogita, Rump and Oishi 2005), and with fractions where that too says
that it may not do.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRECISION = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}  # bits of a significand
LARGEST = {"F64": 1.7e308, "F32": 3.4e38, "F16": 65504.0, "BF16": 3.38e38}  # surely finite

_NUMPY: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
SLICE = 1 << 14  # elements for which `careful` is meant at a time
_SPLIT = 2.0**27 + 1.0  # halves of 26 bits, whose products are exact
_SMALL = 2.0**-960  # below it the error of a product may be lost


# --- types -----------------------------------------------------------------------------------


def widened(raw: Any, dtype: str, out: Array, half: NDArray[np.uint32]) -> tuple[Array, Any]:
    """The values of a block's bytes in float64, and in the type that is quickest to look through.

    bfloat16 is the upper half of a float32: `half` is room for these.
    """
    if dtype == "BF16":
        halves = np.frombuffer(raw, dtype=np.uint16)
        half = half[: halves.size]
        half[:] = halves
        half <<= 16
        stored: Any = half.view(np.float32)
    else:
        stored = np.frombuffer(raw, dtype=_NUMPY[dtype])
    out = out[: stored.size]
    out[:] = stored
    return out, out if dtype == "F16" else stored


def rounded(values: Array, dtype: str) -> Any:
    """Numbers to the nearest value of a type, ties to even, once; bfloat16 as its 16 bits."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return values.astype(_NUMPY[dtype])
        narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    # a tie of the float32 is one of the double only if they are equal
    ties = np.flatnonzero((bits & 0xFFFF) == 0x8000)
    if ties.size:
        beyond = np.sign(np.abs(values[ties]) - np.abs(narrow[ties].astype(np.float64)))
        bits[ties] += beyond.astype(np.int32).view(np.uint32)
    even = bits >> 16
    even &= 1
    even += 0x7FFF
    bits += even
    bits >>= 16
    return bits.astype(np.uint16)


def fits(out: Any, dtype: str, values: Array) -> bool:
    """Whether what was finite before `rounded` still is."""
    infinite = (out & 0x7FFF) == 0x7F80 if dtype == "BF16" else np.isinf(out)
    return bool((infinite <= np.isinf(values)).all())


# --- sums ------------------------------------------------------------------------------------


def largest(values: Any) -> float:
    """max |x|; NaN or infinite where an x is."""
    return max(float(values.max()), -float(values.min()))


def doubtful(total: Array, terms: int, bound: float, dtype: str) -> NDArray[np.intp]:
    """Where a float64 sum may be more than half an ulp of a type off; `bound` is an S for all."""
    if terms == 1:  # one rounding to float64
        return np.empty(0, dtype=np.intp)
    limit = (terms + 1) * 2.0 ** (PRECISION[dtype] - 52) * bound
    if not np.isfinite(limit):
        limit = np.inf
    return np.flatnonzero(np.abs(total) < limit)


def careful(weights: Sequence[float], values: Callable[[int], Array], dtype: str) -> Array:
    """Σ_j c_j x_j in float64, off by half an ulp of it and a quarter of one of a type at most.

    `values(j)` are the x_j, asked for in order. Where one is not finite, the sum is what float64
    makes of it.
    """
    with np.errstate(all="ignore"):
        high, low, slack, small = _with_errors(weights, values)
        total = np.where((low == 0.0) | ~np.isfinite(high), high, high + low)
        exact = (slack == 0.0) & ~small
        near = slack * 2.0**-51 <= np.abs(total) * 2.0 ** -PRECISION[dtype]
        again = np.flatnonzero(np.isfinite(high) & ~exact & ~(near & ~small))
    if again.size:
        exact_ones = [[Fraction(float(x)) for x in values(j)[again]] for j in range(len(weights))]
        for place, xs in zip(again.tolist(), zip(*exact_ones, strict=True), strict=True):
            total[place] = _nearest(sum(Fraction(c) * x for c, x in zip(weights, xs, strict=True)))
    return total


def _with_errors(
    weights: Sequence[float], values: Callable[[int], Array]
) -> tuple[Array, Array, Array, Any]:
    """(high, low, slack, small): the sum is high + low, give or take slack·2⁻⁵³, unless small."""
    high = low = slack = np.empty(0)
    small: Any = None
    for number, weight in enumerate(weights):
        x = values(number)
        product = weight * x
        error = _product_error(weight, x, product)
        tiny = (np.abs(product) < _SMALL) & (x != 0.0)
        if number == 0:
            high, low, slack, small = product, error, np.zeros_like(product), tiny
            continue
        added = high + product
        back = added - high
        error += (high - (added - back)) + (product - back)
        high, low = added, low + error
        slack = slack + np.abs(error) + np.abs(low)
        small = small | tiny
    return high, low, slack, small


def _product_error(weight: float, x: Array, product: Array) -> Array:
    """weight·x − product, exactly (Dekker 1971)."""
    a = _SPLIT * weight - (_SPLIT * weight - weight)
    b = _SPLIT * x
    b = b - (b - x)
    error: Array = ((a * b - product) + a * (x - b) + (weight - a) * b) + (weight - a) * (x - b)
    return error


def _nearest(exact: Fraction | int) -> float:
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")
