"""Whether one number of base models goes with another: Pearson's r over bases. No torch."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Literal

from anytrain.compare.post import PostResults, per_seed
from anytrain.compare.student import distribution


@dataclass(frozen=True)
class Correlation:
    """Pearson's r of n pairs, and P(|r| as large by chance) from t = r·√((n − 2)/(1 − r²))."""

    r: float
    n: int
    p: float | None  # None: fewer than three pairs


def pearson(pairs: Sequence[tuple[float, float]]) -> Correlation | None:
    """None of fewer than two pairs, and where a side does not vary."""
    n = len(pairs)
    try:
        r = statistics.correlation([x for x, _ in pairs], [y for _, y in pairs])
    except statistics.StatisticsError:
        return None
    r = max(-1.0, min(1.0, r))
    if n < 3:
        return Correlation(r, n, None)
    if abs(r) == 1.0:
        return Correlation(r, n, 0.0)
    t = abs(r) * sqrt((n - 2) / (1 - r * r))
    return Correlation(r, n, 2 * (1 - distribution(t, n - 2)))


@dataclass(frozen=True)
class Point:
    """A base: means over the seeds that have both numbers."""

    base: str
    x: float
    y: float


def against(results: PostResults, what: Literal["loss", "trace"]) -> list[Point]:
    """Mean score against pre-training loss or trace, a point a base."""
    found = []
    for base in results.bases:
        pairs = []
        for seed, score in per_seed(results, base, results.tasks).items():
            before = results.before(base, seed)
            value = None if before is None else getattr(before, what)
            if value is not None:
                pairs.append((value, score))
        if pairs:
            found.append(Point(base, fmean(x for x, _ in pairs), fmean(y for _, y in pairs)))
    return found


def correlation(results: PostResults, what: Literal["loss", "trace"]) -> Correlation | None:
    """Over bases: seeds of one base are not independent evidence of a relation between bases.

    Nor are bases that are made of one run, which `p` does not know.
    """
    return pearson([(p.x, p.y) for p in against(results, what)])


def task_correlation(results: PostResults, task: str) -> Correlation | None:
    """Over bases, between the trace on a task's rows before it and the score on it after."""
    pairs = []
    for base in results.bases:
        found = [(p.task_traces[task], score) for p in results.pretrained
                 if p.base == base and task in p.task_traces
                 and (score := results.score(base, p.seed, task)) is not None]  # fmt: skip
        if found:
            pairs.append((fmean(x for x, _ in found), fmean(y for _, y in found)))
    return pearson(pairs)
