"""The recursions as a textbook writes them: a loop over steps, coordinates and averages.

Slow, in plain Python floats, from the equations and not from the kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anytrain.theory import Spectrum
from anytrain.theory.moments import AverageMoments, Walk
from anytrain.theory.problem import Regression
from anytrain.theory.quadrature import System

Array = NDArray[np.float64]
Rules = Mapping[str, Callable[[int], float]]
Parts = Mapping[str, float]  # of a combination: name -> coefficient

SPECTRA: dict[str, Spectrum] = {
    "one": Spectrum([0.7], [1.3], noise=0.2),
    "unsorted": Spectrum([0.2, 1.0, 0.05, 0.7], [1.0, -0.5, 2.0, 0.3], noise=0.1),
    "repeated": Spectrum([0.5, 0.5, 1.0, 0.5, 1.0, 0.01], [1.0, 2.0, -1.0, 0.5, 0.0, 3.0]),
    "zero targets": Spectrum([1.0, 0.3, 0.1], [0.0, 0.0, 1.0], noise=0.5),
    "no target": Spectrum([1.0, 0.1], [0.0, 0.0], noise=1.0),
}


@dataclass
class Moments:
    """E[e²], the mean of e and, by name, of averages: every entry (d,)."""

    live: list[float]
    mean: list[float]
    second: dict[str, list[float]]  # A = E[ē²]
    cross: dict[str, list[float]]  # C = E[ēe]
    between: dict[tuple[str, str], list[float]]  # D = E[ēē'], both ways round
    means: dict[str, list[float]]


def sgd_twin(
    problem: Regression, eta: Sequence[float], rules: Rules, batch: float
) -> list[Moments]:
    """The moments after 0, 1, … T steps."""
    lam = [float(x) for x in problem.eigenvalues]
    start = [float(x) for x in problem.target_squared]
    d, noise, names = len(lam), problem.noise, list(rules)
    pairs = [(one, two) for one in names for two in names if one != two]
    roots = [x**0.5 for x in start]
    s, mu = start[:], roots[:]
    a, c = {n: list(start) for n in names}, {n: list(start) for n in names}
    between, means = {p: list(start) for p in pairs}, {n: list(roots) for n in names}
    history = []
    for t in range(len(eta) + 1):
        if t > 0:
            rate = eta[t - 1]
            q = sum(lam[i] * s[i] for i in range(d))
            rho = {n: rules[n](t) for n in names}
            for i in range(d):
                keep = 1 - rate * lam[i]
                extra = lam[i] ** 2 * s[i] + lam[i] * (q + noise)
                s[i] = keep**2 * s[i] + rate**2 / batch * extra
                mu[i] = keep * mu[i]
                moved = {n: keep * c[n][i] for n in names}  # E[ē e] of the old average
                for one, two in pairs:
                    x, y = rho[one], rho[two]
                    between[one, two][i] = (
                        (1 - x) * (1 - y) * between[one, two][i]
                        + (1 - x) * y * moved[one]
                        + x * (1 - y) * moved[two]
                        + x * y * s[i]
                    )
                for n in names:
                    x = rho[n]
                    a[n][i] = (1 - x) ** 2 * a[n][i] + 2 * x * (1 - x) * moved[n] + x**2 * s[i]
                    c[n][i] = (1 - x) * moved[n] + x * s[i]
                    means[n][i] = (1 - x) * means[n][i] + x * mu[i]
        history.append(
            Moments(
                s[:],
                mu[:],
                *({k: v[:] for k, v in each.items()} for each in (a, c)),
                {k: v[:] for k, v in between.items()},
                {k: v[:] for k, v in means.items()},
            )
        )
    return history


def half(problem: Regression, moments: Sequence[float]) -> float:
    """½ Σ λ m."""
    return 0.5 * sum(float(x) * m for x, m in zip(problem.eigenvalues, moments, strict=True))


def form(moments: Moments, parts: Parts) -> list[float]:
    """E[(Σ c ē)²] of a combination of averages and `last`, by coordinate."""
    total = [0.0] * len(moments.live)
    for one, x in parts.items():
        for two, y in parts.items():
            if one == two:
                value = moments.live if one == "last" else moments.second[one]
            elif "last" in (one, two):
                value = moments.cross[two if one == "last" else one]
            else:
                value = moments.between[one, two]
            total = [z + x * y * v for z, v in zip(total, value, strict=True)]
    return total


def mean_form(moments: Moments, parts: Parts) -> list[float]:
    """E[Σ c ē]² of a combination, by coordinate."""
    every = {"last": moments.mean, **moments.means}
    return [sum(x * every[n][i] for n, x in parts.items()) ** 2 for i in range(len(moments.live))]


def schedule_free_twin(
    problem: Regression, eta: Sequence[float], c: Callable[[int], float], beta: float, batch: float
) -> list[dict[str, tuple[float, float]]]:
    """(½ Σ λ E[e²], ½ Σ λ E[e]²) of y, z and x by step, from 2 × 2 moments of (z, x)."""
    look = np.array([1 - beta, beta])  # y of (z, x)
    lam, d = problem.eigenvalues, problem.eigenvalues.size
    second = [float(w) * np.ones((2, 2)) for w in problem.target_squared]
    mean = [float(w) ** 0.5 * np.ones(2) for w in problem.target_squared]
    views = {"last": look, "fast": np.array([1.0, 0.0]), "schedule_free": np.array([0.0, 1.0])}
    history = []
    for t in range(len(eta) + 1):
        if t > 0:
            rate, share = eta[t - 1], c(t)
            mix = np.array([[1.0, 0.0], [share, 1 - share]])  # x ← (1 − c) x + c z
            seen = [float(look @ second[i] @ look) for i in range(d)]
            q = sum(float(lam[i]) * seen[i] for i in range(d))
            for i in range(d):
                step = np.eye(2) - rate * lam[i] * np.outer([1.0, 0.0], look)
                came = rate**2 / batch * (lam[i] ** 2 * seen[i] + lam[i] * (q + problem.noise))
                moved = step @ second[i] @ step.T + came * np.diag([1.0, 0.0])
                second[i] = mix @ moved @ mix.T
                mean[i] = mix @ step @ mean[i]
        history.append(
            {
                name: (
                    half(problem, [float(v @ second[i] @ v) for i in range(d)]),
                    half(problem, [float(v @ mean[i]) ** 2 for i in range(d)]),
                )
                for name, v in views.items()
            }
        )
    return history


def tables(
    system: System,
    eta: Array,
    rules: Rules,
    at: Sequence[int],
    batch: float = 1.0,
    noise: float = 0.0,
    combinations: Mapping[str, Parts] | None = None,
) -> Array:
    """Every column of the compiled kernel for any coordinates: totals and means, (2, M, R)."""
    reading = AverageMoments(rules, combinations or {}, eta.size)
    walk = Walk(eta, batch, noise, np.array(at, dtype=np.int64), np.inf)
    out = np.zeros((2, len(at), reading.columns["last"].size))
    assert reading.run(system, walk, out[0], out[1]) == 0
    return out


def growth(problem: Regression, rate: float, batch: float) -> float:
    """The factor a step multiplies E[e²] with in the end: a power method of 2^40 steps."""
    lam = problem.eigenvalues
    per = rate**2 / batch
    matrix = np.diag((1 - rate * lam) ** 2 + per * lam**2) + per * np.outer(lam, lam)
    log_norm, steps = 0.0, 1.0
    for _ in range(40):
        size = float(np.abs(matrix).max())
        log_norm, matrix = 2 * (log_norm + np.log(size)), (matrix / size) @ (matrix / size)
        steps *= 2
    return float(np.exp((log_norm + np.log(np.abs(matrix).max())) / steps))
