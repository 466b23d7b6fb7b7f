"""Any average of the iterates, rebuilt from a few stored ones (arXiv:2312.02696, section 3).

The average of a rule f at T is Σ_s f(s) θ_s. The trainer keeps a few averages ("tracks") and
stores copies of them ("snapshots") at log-spaced moments. A sum of snapshots has the sum of their
profiles, so the average of any rule is about Σ_i a_i θ̄_i with

    a = argmin ‖Σ_i a_i f_i − f‖₂² / ‖f‖₂² + κ² ‖a‖₂²,   Σ_i a_i = 1.

    found = fit([Snapshot(t, PowerEma(sigma)) for t in moments(4, T) for sigma in tracks],
                AnytimeEma(25), T)
    found.error, found.coefficients
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, log, log10, sqrt

import numpy as np
from numpy.typing import NDArray

from anytrain.errors import UserError
from anytrain.rules import PowerEma, Rule, power_exponent

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

# κ: what a coefficient costs, as the rounding of a stored tensor over the distance of iterates
PENALTY = 1e-3
WITHIN = 0.01  # of the profile: enough, if fewer snapshots have to be read for it

EXACT = 4096  # steps, below which each of them is a bin
BINS = 256  # a factor e in time beyond that, so that about as many steps come one by one,
CROWDED = 1 / 16  # and so many more that no average has a larger part in one
JUMPS = 8  # edges where the asked profile changes most from step to step

# rms of the relative error of rounding to nearest, of values spread evenly in their logarithm:
# u/√3 · √(∫₁² v⁻³ dv / ln 2), u the unit roundoff
ROUNDING = {t: 2.0**-k * sqrt(0.125 / log(2)) for t, k in (("F32", 24), ("F16", 11), ("BF16", 8))}


# --- when to store ---------------------------------------------------------------------------


def snapshot_due(before: float, after: float, per_decade: int) -> bool:
    """Whether one of the moments 10^(k/per_decade) lies in (before, after]; see `next_moment`."""
    return next_moment(before, per_decade) <= after


def next_moment(after: float, per_decade: int) -> int:
    """The first of 10^(k/per_decade), k = 0, 1, …, rounded to whole steps, that is later."""
    if per_decade < 1:
        raise ValueError(f"per_decade = {per_decade}; 1 or more is valid")
    # round(x) > after where x >= floor(after) + 1/2; one lower in case the logarithm is rounded up
    k = max(0, ceil(per_decade * log10(floor(after) + 0.5)) - 1)
    while (moment := floor(10.0 ** (k / per_decade) + 0.5)) <= after:
        k += 1
    return moment


def moments(per_decade: int, last: float) -> list[int]:
    """All moments up to `last`, in steps: 1, …, 10, …, 100, …"""
    found = [next_moment(0, per_decade)]
    while found[-1] <= last:
        found.append(next_moment(found[-1], per_decade))
    return found[:-1]


# --- the fit ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """A stored average: what `rule`, begun at 0, had made of the iterates up to t.

    At t = 0 it is the starting point, of which anytime EMAs keep a part.
    """

    t: float  # steps
    rule: Rule


@dataclass(frozen=True)
class Fit:
    """How to add snapshots up, and how far the sum's profile is from the asked one."""

    coefficients: tuple[float, ...]  # one a snapshot, summing to one; 0 where it is not needed
    error: float  # ‖achieved − asked‖₂ / ‖asked‖₂

    @property
    def used(self) -> tuple[int, ...]:
        """The snapshots that have to be read."""
        return tuple(i for i, a in enumerate(self.coefficients) if a)

    @property
    def amplification(self) -> float:
        """Σ |a_i|: by how much at most an error of the stored tensors grows."""
        return fsum(abs(a) for a in self.coefficients)

    def rounding(self, dtype: str = "F32") -> float:
        """rms error of the sum, relative to the weights, where snapshots are F32, F16 or BF16.

        √(Σ a_i²) times one rounding's: snapshots that are not equal are rounded independently.
        """
        return ROUNDING[dtype] * sqrt(fsum(a * a for a in self.coefficients))


def fit(snapshots: Sequence[Snapshot], rule: Rule, t: float, within: float = WITHIN) -> Fit:
    """The sum of snapshots whose profile is nearest to that of `rule` at t, begun at 0.

    As few snapshots as a greedy search finds for an error of at most `within`, or 2% more than
    that of all. Profiles are over unit steps; those of power-function averages telescope,
    Σ_{s <= e} f(s) = (e/t)^(p + 1), and so hold for any steps. A second for a million steps.

    Raises a UserError if no snapshot is from t or before.
    """
    known = [i for i, s in enumerate(snapshots) if s.t <= t]
    if not known:
        raise UserError(f"no snapshot is from step {t:g} or before; one at least is valid")
    inside, asked = _profiles([snapshots[i] for i in known], rule, t)
    # QR keeps all distances between these columns, in n + 1 numbers each
    triangle = np.asarray(np.linalg.qr(np.column_stack([inside, asked]), mode="r"), np.float64)
    size = len(known)
    profiles = np.vstack([triangle[:, :size], PENALTY * np.eye(size)])
    target = np.concatenate([triangle[:, size], np.zeros(size)])

    def error(a: Array) -> float:
        return float(np.linalg.norm((profiles @ a - target)[: len(triangle)]))

    enough = max(within, 1.02 * error(_solve(profiles, target, np.arange(size))))
    chosen = _choose(profiles, target, len(triangle), enough)
    a = _solve(profiles, target, chosen)
    coefficients = np.zeros(len(snapshots))
    coefficients[known] = a
    return Fit(tuple(coefficients.tolist()), error(a))


def _solve(profiles: Array, target: Array, chosen: Indices) -> Array:
    """The least-squares coefficients (n,) that sum to one, zero outside `chosen`.

    The constraint is solved for the first of the chosen: a_j = 1 − Σ others, which leaves
    differences to its profile.
    """
    first, others = chosen[0], chosen[1:]
    base = profiles[:, first]
    a = np.zeros(profiles.shape[1])
    a[others] = np.linalg.lstsq(profiles[:, others] - base[:, None], target - base)[0]
    a[first] = 1.0 - a[others].sum()
    return a


def _choose(profiles: Array, target: Array, rows: int, enough: float) -> Indices:
    """Snapshots taken one by one, each the one that lowers the sum of squares most, until the
    first `rows` of the residual are within `enough` (orthogonal least squares).

    No column is lost in rounding: the rows of the penalty keep them apart.
    """
    first = int(np.argmin(np.linalg.norm(profiles - target[:, None], axis=0)))
    chosen = [first]
    rest = profiles - profiles[:, [first]]  # what is left of each, orthogonal to those chosen
    residual = target - profiles[:, first]
    while np.linalg.norm(residual[:rows]) > enough and len(chosen) < profiles.shape[1]:
        length = np.linalg.norm(rest, axis=0)
        length[chosen] = np.inf
        best = int(np.argmax(np.abs(residual @ rest) / length))
        direction = rest[:, best] / length[best]
        residual = residual - direction * (direction @ residual)
        rest = rest - np.outer(direction, direction @ rest)
        chosen.append(best)
    return np.array(chosen)


# --- profiles --------------------------------------------------------------------------------


def _profiles(snapshots: Sequence[Snapshot], rule: Rule, t: float) -> tuple[Array, Array]:
    """Profiles of snapshots (bins, n) and of `rule` at t (bins,), in units of the latter's norm.

    Over bins of time, mass/√width, so that norms are those of weights a step.
    """
    marks = np.array([s.t for s in snapshots])
    ends = np.unique(np.concatenate([np.arange(t // 1 + 1), marks, [t]]))  # of steps, 0 first
    steps = _Steps(ends)
    places = np.searchsorted(ends, marks).tolist()
    averages = [*((s.rule, last) for s, last in zip(snapshots, places, strict=True))]
    averages.append((rule, ends.size - 1))

    edges = _edges(steps, rule, places)
    mass = np.column_stack([steps.mass(*average, edges) for average in averages])
    while (more := _parts(edges, mass)).size:
        edges = np.union1d(edges, more)
        mass = np.column_stack([steps.mass(*average, edges) for average in averages])
    width = np.diff(ends[edges], prepend=-1.0)  # the starting point counts as a step
    profiles = np.diff(mass, axis=0, prepend=0.0) / np.sqrt(width)[:, None]
    profiles /= np.linalg.norm(profiles[:, -1])
    return profiles[:, :-1], profiles[:, -1]


class _Steps:
    """How much of an average is from iterates up to a step."""

    def __init__(self, ends: Array) -> None:
        self.ends = ends  # progress after every step, 0 first
        self.rates: dict[Rule, Array] = {}  # ρ of every step

    def mass(self, rule: Rule, last: int, at: Indices) -> Array:
        """Σ_{s <= e} f(s) for e in ends[at], f the profile at ends[last].

        It is ∏_{e < s <= last} (1 − ρ(s)): what later steps have left of the average at e.
        """
        at = np.minimum(at, last)
        if last == 0:
            return np.ones(at.size)
        if isinstance(rule, PowerEma):
            power: Array = (self.ends[at] / self.ends[last]) ** (power_exponent(rule.sigma_rel) + 1)
            return power
        if rule not in self.rates:
            steps = zip(self.ends[1:].tolist(), np.diff(self.ends).tolist(), strict=True)
            self.rates[rule] = np.array([rule(s, ds) for s, ds in steps])
        left = np.cumprod((1.0 - self.rates[rule][:last])[::-1])[::-1]
        return np.append(left, 1.0)[at]


def _edges(steps: _Steps, rule: Rule, places: Sequence[int]) -> Indices:
    """Which steps bound bins: all of a few thousand; of more, log-spaced ones, the snapshots' and
    those where the asked profile jumps."""
    ends, last = steps.ends, steps.ends.size - 1
    if last < EXACT:
        return np.arange(last + 1)
    even = np.geomspace(ends[1], ends[last], ceil(BINS * log(ends[last] / ends[1])))
    jumps = np.abs(np.diff(steps.mass(rule, last, np.arange(last + 1)), 2))
    return np.unique(
        np.concatenate(
            [
                [0, last],
                np.searchsorted(ends, even[:-1]),
                np.argpartition(jumps, -JUMPS)[-JUMPS:] + 1,
                places,
            ]
        )
    )


def _parts(edges: Indices, mass: Array) -> Indices:
    """Edges that cut in four the bins in which some average has too much of its mass."""
    crowded = (np.diff(mass, axis=0) > CROWDED).any(axis=1) & (np.diff(edges) > 1)
    low, high = edges[:-1][crowded], edges[1:][crowded]
    return np.unique(np.concatenate([low + (high - low) * k // 4 for k in (1, 2, 3)]))
