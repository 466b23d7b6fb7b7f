"""One-pass SGD on a linear regression: the problem, and where a constant rate is stable.

x ~ N(0, H), y = xᵀw* + ε, ε ~ N(0, σ²), w₀ = 0. Everything below works in the eigenbasis of H,
so a problem is its eigenvalues λ, its target w* in that basis and σ² (arXiv:2602.03702, section 2).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isfinite
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


class Regression(Hashable, Protocol):
    """What the simulator needs to know of a problem; it does not change."""

    @property
    def eigenvalues(self) -> Array:
        """λ of H, above 0: (d,)."""

    @property
    def target_squared(self) -> Array:
        """w*² in the eigenbasis: (d,)."""

    @property
    def noise(self) -> float:
        """σ², the variance of ε."""


def _check_noise(noise: float) -> None:
    if not (isfinite(noise) and noise >= 0):
        raise ValueError(f"noise = {noise}; a variance, 0 or more, is valid")


@dataclass(frozen=True)
class Problem:
    """Power laws: λ_i = i^(−a), w*_i² = i^(−(b − a)), so that λ_i·w*_i² = i^(−b)."""

    dim: int  # d
    capacity: float  # a; larger: fewer directions matter
    source: float  # b; larger: more of the target lies in the first directions
    noise: float = 0.0  # σ²

    def __post_init__(self) -> None:
        if self.dim != int(self.dim) or self.dim < 1:
            raise ValueError(f"dim = {self.dim}; a whole number from 1 on is valid")
        check_exponents(self.capacity, self.source)
        _check_noise(self.noise)

    @cached_property
    def eigenvalues(self) -> Array:
        """λ_i = i^(−a): (d,), falling."""
        return np.arange(1, self.dim + 1, dtype=np.float64) ** -self.capacity

    @cached_property
    def target_squared(self) -> Array:
        """w*_i² = i^(a − b): (d,)."""
        return np.arange(1, self.dim + 1, dtype=np.float64) ** (self.capacity - self.source)

    @property
    def trace(self) -> float:
        """tr H."""
        return scale(self).trace


def check_exponents(capacity: float, source: float) -> None:
    """Raise ValueError unless a > 1 and b > 1: tr H and the risk at the start have to converge."""
    for name, value in (("capacity", capacity), ("source", source)):
        if not (isfinite(value) and value > 1):
            raise ValueError(f"{name} = {value}; above 1 is valid")


class Spectrum:
    """Any eigenvalues and any target, as arrays of one length d."""

    def __init__(
        self,
        eigenvalues: Sequence[float] | Array,
        target: Sequence[float] | Array,
        noise: float = 0.0,
    ) -> None:
        """λ above 0 and w* in the basis of its eigenvectors, both (d,), in any order; σ²."""
        self.eigenvalues = np.array(eigenvalues, dtype=np.float64)
        self.target_squared = np.asarray(target, dtype=np.float64) ** 2
        for array in (self.eigenvalues, self.target_squared):
            array.setflags(write=False)  # what is derived from them is kept
        self.noise = noise
        _check_noise(noise)
        if self.eigenvalues.ndim != 1 or self.eigenvalues.size < 1:
            raise ValueError(
                f"eigenvalues of shape {self.eigenvalues.shape}; one row of 1 or more is valid"
            )
        if self.target_squared.shape != self.eigenvalues.shape:
            raise ValueError(
                f"target has shape {self.target_squared.shape}, eigenvalues "
                f"{self.eigenvalues.shape}; the same shape is valid"
            )
        if not (np.isfinite(self.eigenvalues).all() and (self.eigenvalues > 0).all()):
            raise ValueError(f"eigenvalues down to {self.eigenvalues.min()}; above 0 is valid")
        if not np.isfinite(self.target_squared).all():
            raise ValueError("target holds a value that is not finite")

    def __repr__(self) -> str:
        return f"Spectrum(d={self.eigenvalues.size}, noise={self.noise})"

    @property
    def trace(self) -> float:
        """tr H."""
        return scale(self).trace


class Scale(NamedTuple):
    """Sums over a spectrum that every simulation asks for."""

    trace: float  # tr H
    largest: float  # λ_max
    start: float  # Σ λ·w*², twice the risk at the start


@lru_cache(maxsize=64)
def scale(problem: Regression) -> Scale:
    """The sums of one problem, made once."""
    eigenvalues = problem.eigenvalues
    start = float(eigenvalues @ problem.target_squared)
    return Scale(float(eigenvalues.sum()), float(eigenvalues.max()), start)


def is_stable(problem: Regression, rate: float, batch: float = 1.0) -> bool:
    """Whether the risk stays bounded under a constant rate η.

    The fixed point of the recursion of s = E[e²] (see `kernels`) is

        s = (η/B)(q + σ²) / (2 − ηλ(1 + 1/B)),   so   q = Σ λs = (q + σ²)·φ(η),
        φ(η) = (1/B) Σ ηλ / (2 − ηλ(1 + 1/B)) <= (η tr H / B) / (2 − ηλ_max(1 + 1/B)),

    which is positive, and attracting, exactly while every denominator is and φ(η) < 1.
    """
    trace, largest, _ = scale(problem)
    least = 2.0 - rate * largest * (1.0 + 1.0 / batch)
    if least <= 0:
        return False
    return rate * trace < batch * least or rate < stability_limit(problem, batch)


@lru_cache(maxsize=64)
def stability_limit(problem: Regression, batch: float = 1.0) -> float:
    """The constant rates below this one are stable: φ rises in η, hence a bisection."""
    eigenvalues = problem.eigenvalues
    low, high = 0.0, 2.0 / (scale(problem).largest * (1.0 + 1.0 / batch))
    for _ in range(44):  # to 2^−44 of the bound
        middle = 0.5 * (low + high)
        x = middle * eigenvalues
        stable = float(np.sum(x / (2.0 - x * (1.0 + 1.0 / batch)))) < batch
        low, high = (middle, high) if stable else (low, middle)
    return low
