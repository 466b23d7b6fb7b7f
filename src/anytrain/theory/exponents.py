"""Capacity and source of a model, from four traces of its Gauss–Newton matrix (arXiv:2602.03702).

The theory's problem has eigenvalues λ_i = c·i^(−a) and a target with λ_i w_i² = C·i^(−b), i <= D.
With H_{D,s} = Σ_{i<=D} i^(−s), a matrix G and a target θ of that form have

    tr G² / (tr G)²  = H_{D,2a} / H_{D,a}²                         which rises in a from 1/D to 1
    θᵀG²θ / θᵀGθ     = (tr G / H_{D,a}) · H_{D,a+b} / H_{D,b}      which rises in b

so that the first equation gives a and then the second b (derived from the paper's section on
estimating them). A model's spectrum is no exact power law; the two numbers are of the law that has
the same traces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log

import numpy as np
from numpy.typing import NDArray

from anytrain.theory.problem import Array

LARGEST = 30.0  # of an exponent: beyond it the first direction is all there is
_DRAWS = 500  # of the bootstrap
_NEAR = 1e-10  # of an exponent that is solved for
_ROUGH = 1e-4  # of one that is drawn for an interval
_FIRST = np.log(np.arange(1, 101, dtype=np.float64))


def harmonic(dim: float, exponent: float) -> float:
    """H_{D,s} = Σ_{i<=D} i^(−s): the first 100 terms, and the rest by Euler–Maclaurin.

    The remainder is below s(s+1)(s+2)/720·100^(−s−3), 1e-9 of the sum for 0 <= s <= 60.
    """
    head = int(min(dim, len(_FIRST)))
    total = float(np.exp(-exponent * _FIRST[:head]).sum())
    if dim <= head:
        return total
    first, last, s = head + 1.0, float(dim), exponent
    power = 1.0 - s
    # ∫ x^(−s) dx from first to last, as expm1 so that s = 1 is no special case
    span = log(last / first)
    integral = first**power * (span if power == 0 else float(np.expm1(power * span)) / power)
    ends = 0.5 * (first**-s + last**-s)
    slopes = s / 12.0 * (first ** (-s - 1.0) - last ** (-s - 1.0))
    return total + integral + ends + slopes


@dataclass(frozen=True)
class Exponents:
    """a and b, each with a 95% interval, and what they advise."""

    capacity: float  # a
    source: float  # b
    capacity_range: tuple[float, float]
    source_range: tuple[float, float]
    dim: int  # D, parameters
    draws: tuple[tuple[float, float], ...] = ()  # (a, b) of resampled traces

    @property
    def gamma(self) -> float:
        """γ* = max(1 − a/b, 0) of t^(−γ) (arXiv:2602.03702, Corollary 1)."""
        return max(1.0 - self.capacity / self.source, 0.0)

    @property
    def gamma_range(self) -> tuple[float, float]:
        """95% of the resampled pairs; the pair varies together, so it is not that of its ends."""
        if not self.draws:
            return self.gamma, self.gamma
        values = [max(1.0 - a / b, 0.0) for a, b in self.draws]
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)


def capacity(dim: int, ratio: float, near: float = _NEAR) -> float:
    """a with H_{D,2a}/H_{D,a}² = `ratio` = tr G²/(tr G)²; raises ValueError outside (1/D, 1)."""
    if not 1.0 / dim < ratio < 1.0:
        raise ValueError(
            f"tr G²/(tr G)² = {ratio:.4g} of {dim} parameters; above 1/D = {1 / dim:.4g} and below "
            "1 is valid: more probes"
        )
    return _root(lambda a: log(harmonic(dim, 2 * a)) - 2 * log(harmonic(dim, a)) - log(ratio), near)


def source(dim: int, a: float, ratio: float, near: float = _NEAR) -> float:
    """b with H_{D,a+b}/H_{D,b} = `ratio` = θᵀG²θ/θᵀGθ·H_{D,a}/tr G; raises ValueError if none."""
    least = harmonic(dim, a) / dim
    if not least < ratio < 1.0:
        raise ValueError(
            f"θᵀG²θ/θᵀGθ is {ratio:.4g} of the largest eigenvalue that a capacity of {a:.3g} "
            f"implies; above {least:.3g} and below 1 has a source: the spectrum is not a power law"
        )
    return _root(lambda b: log(harmonic(dim, a + b)) - log(harmonic(dim, b)) - log(ratio), near)


def _root(rising: Callable[[float], float], near: float) -> float:
    """Where a rising function of an exponent is 0, by bisection; its end if nowhere."""
    low, high = 0.0, LARGEST
    if rising(high) < 0:
        return high
    while high - low > near:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def solve(dim: int, traces: Sequence[float] | Array) -> tuple[float, float]:
    """(a, b) from (tr G, tr G², θᵀGθ, θᵀG²θ)."""
    first, second, energy, squared = (float(value) for value in traces)
    if not all(isfinite(v) and v > 0 for v in (first, second, energy, squared)):
        raise ValueError(
            f"traces {first:.4g}, {second:.4g}, {energy:.4g}, {squared:.4g}; numbers above 0 are "
            "valid: more probes"
        )
    a = capacity(dim, second / first**2)
    return a, source(dim, a, squared / energy * harmonic(dim, a) / first)


def estimate(dim: int, rows: NDArray[np.float64], seed: int = 0) -> Exponents:
    """Exponents from independent estimates of the four traces, a row each: (n, 4), n >= 8.

    Intervals: percentiles of the solution for the means of resampled rows. A sample without a
    solution counts as the end of the range it lies beyond. Raises ValueError where the means
    themselves have none.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 4 or len(rows) < 8:
        raise ValueError(f"estimates of shape {rows.shape}; (n, 4) with n of 8 or more is valid")
    a, b = solve(dim, rows.mean(0))
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(_DRAWS):
        mean = rows[random.integers(len(rows), size=len(rows))].mean(0)
        draws.append(_drawn(dim, mean))
    found = np.array(draws)
    low, high = np.nanquantile(found, (0.025, 0.975), axis=0)
    return Exponents(
        a, b, (float(low[0]), float(high[0])), (float(low[1]), float(high[1])), dim,
        tuple((float(x), float(y)) for x, y in found if isfinite(x) and y > 0),
    )  # fmt: skip


def _drawn(dim: int, mean: Array) -> tuple[float, float]:
    first, second, energy, squared = np.maximum(mean, 1e-300)
    ratio = float(np.clip(second / first**2, exp(1e-9) / dim, 1.0 - 1e-9))
    a = capacity(dim, ratio, _ROUGH)
    total = harmonic(dim, a)
    least = total / dim
    share = float(squared / energy * total / first)
    if share <= least:
        return a, 1e-9
    return a, LARGEST if share >= 1.0 else source(dim, a, share, _ROUGH)
