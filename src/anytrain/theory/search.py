"""A search over a few settings: a coarse grid, then a simplex from its best points.

The simplex of Nelder and Mead (1965, The Computer Journal 7, 308), in a box: what steps out of it
is moved to its edge. A simplex can collapse short of a minimum, above all of a maximum of several
functions, so it is built anew around its best point until that no longer gains anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, expm1, inf, isfinite, log, log1p
from typing import Literal, NamedTuple

import numpy as np

from anytrain.theory.problem import Array

STEP = 0.12  # first size of a simplex, of the box
AGAIN = 0.4  # each next simplex is so much smaller
MOST = 8  # simplices
EDGE = 0.005  # of the box: nearer than that lies at its edge

Values = Mapping[str, float]
Scale = Literal["linear", "log", "log1p"]

_SCALES: dict[Scale, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (float, float),
    "log": (log, exp),
    "log1p": (log1p, expm1),
}


@dataclass(frozen=True)
class Axis:
    """One setting: its range, and where the coarse grid tries it."""

    name: str
    low: float
    high: float
    starts: tuple[float, ...]
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"{self.name} from {self.low} to {self.high}; low < high is valid")

    def unit(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high = self._warp(self.low), self._warp(self.high)
        return min(max((self._warp(value) - low) / (high - low), 0.0), 1.0)

    def value(self, unit: float) -> float:
        """The inverse of `unit`; exact at both ends."""
        if unit <= 0.0 or unit >= 1.0:
            return self.low if unit <= 0.0 else self.high
        low, high = self._warp(self.low), self._warp(self.high)
        return min(max(_SCALES[self.scale][1](low + unit * (high - low)), self.low), self.high)

    def _warp(self, value: float) -> float:
        return _SCALES[self.scale][0](value)


class Found(NamedTuple):
    """What a search came to."""

    values: dict[str, float]
    least: float  # the objective there
    evaluations: int
    edges: tuple[str, ...]  # settings at an end of their range


def search(
    objective: Callable[[Values], float],
    axes: Sequence[Axis],
    *,
    begin: Iterable[Values] = (),
    keep: int = 2,
    tolerance: float = 3e-4,
    most: int = 400,
) -> Found:
    """The least `objective` (inf where it has none), from `begin` and the `keep` best of the grid.

    Every simplex of at most `most` evaluations is followed by another until one gains less than
    `tolerance`, relative.
    """
    count = 0

    def at(point: Array) -> float:
        nonlocal count
        count += 1
        value = objective(_values(axes, point))
        return value if isfinite(value) else inf

    begun = [np.array([axis.unit(values[axis.name]) for axis in axes]) for values in begin]
    grid = product(*([axis.unit(start) for start in axis.starts] for axis in axes))
    ranked = sorted((at(np.array(point)), point) for point in grid) if keep else []
    ends = [
        _settle(at, point, tolerance, most)
        for point in (*begun, *(np.array(point) for _, point in ranked[:keep]))
    ]
    point, least = min(ends, key=lambda end: end[1])
    edges = [a.name for a, u in zip(axes, point, strict=True) if not EDGE <= u <= 1 - EDGE]
    return Found(_values(axes, point), least, count, tuple(edges))


def _values(axes: Sequence[Axis], point: Array) -> dict[str, float]:
    return {axis.name: axis.value(float(u)) for axis, u in zip(axes, point, strict=True)}


def _settle(
    at: Callable[[Array], float], point: Array, tolerance: float, most: int
) -> tuple[Array, float]:
    least, step = inf, STEP
    for _ in range(MOST):
        before = least
        point, least = _simplex(at, point, step, 0.3 * tolerance, most)
        step = max(AGAIN * step, 0.02)
        if not least < before * (1.0 - tolerance):
            break
    return point, least


def _simplex(
    at: Callable[[Array], float], start: Array, step: float, tolerance: float, most: int
) -> tuple[Array, float]:
    """Nelder and Mead's method in the unit box, with its usual coefficients 1, 2, ½, ½."""
    moves = np.where(start + step <= 1.0, step, -step) * np.eye(start.size)
    vertices = [start, *(start + move for move in moves)]
    values = [at(vertex) for vertex in vertices]
    used = len(values)

    def reach(by: float) -> tuple[Array, float]:
        nonlocal used
        used += 1
        point = np.clip(centre + by * (vertices[-1] - centre), 0.0, 1.0)
        return point, at(point)

    while used < most:
        order = np.argsort(values, kind="stable")
        vertices, values = [vertices[i] for i in order], [values[i] for i in order]
        if values[-1] - values[0] <= tolerance * abs(values[0]) or not isfinite(values[0]):
            break
        centre = np.mean(vertices[:-1], axis=0)
        point, value = reach(-1.0)
        if value < values[0]:
            further = reach(-2.0)
            point, value = min((point, value), further, key=lambda one: one[1])
        elif value >= values[-2]:
            inner = reach(-0.5 if value < values[-1] else 0.5)
            if inner[1] >= min(value, values[-1]):
                vertices = [vertices[0] + 0.5 * (vertex - vertices[0]) for vertex in vertices]
                values = [values[0], *(at(vertex) for vertex in vertices[1:])]
                used += len(values) - 1
                continue
            point, value = inner
        vertices[-1], values[-1] = point, value
    best = int(np.argmin(values))
    return vertices[best], values[best]
