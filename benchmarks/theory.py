"""How fast the simulator is. One process, one thread, CPU time, medians of interleaved repeats.

python -m benchmarks.theory        (about two minutes)

A first call in a process also loads compiled code, and the first one ever compiles it: neither is
in the figures.
"""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # before numpy

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np
from numba import njit

from anytrain.rules import AnytimeEma, Polynomial, Rule, Uniform
from anytrain.schedules import InverseSqrt
from anytrain.theory import Problem, simulate
from anytrain.theory.kernels import TILE
from anytrain.theory.problem import Array
from benchmarks.harness import Row, Target, cpu_name, interleaved, report

SCHEDULE = InverseSqrt(0.2, warmup=10, offset=100)
FOUR: dict[str, Rule] = {
    "uniform": Uniform(),
    "ema25": AnytimeEma(25),
    "window4": Polynomial(3, shift=0),
    "polynomial16": Polynomial(16),
}


def problem(dim: int) -> Problem:
    return Problem(dim, capacity=1.5, source=3.0, noise=0.01)


# --- peers ------------------------------------------------------------------------------------


def numpy_loop(dim: int, steps: int, rules: Mapping[str, Rule]) -> dict[str, float]:
    """The recursion as one writes it in NumPy: risk and bias of every name."""
    it = problem(dim)
    lam, s, mu = it.eigenvalues, it.target_squared, np.sqrt(it.target_squared)
    a, c, means = (dict.fromkeys(rules, x) for x in (s, s, mu))
    for t in range(1, steps + 1):
        rate = SCHEDULE(t)
        keep, q = 1 - rate * lam, lam @ s
        s = keep**2 * s + rate**2 * (lam**2 * s + lam * (q + it.noise))
        mu = keep * mu
        for name, rule in rules.items():
            rho = rule(t)
            moved = keep * c[name]
            a[name] = (1 - rho) ** 2 * a[name] + 2 * rho * (1 - rho) * moved + rho**2 * s
            c[name] = (1 - rho) * moved + rho * s
            means[name] = (1 - rho) * means[name] + rho * mu
    found = {"last": lam @ s, "last mean": lam @ mu**2}
    for name in rules:
        found |= {name: lam @ a[name], f"{name} mean": lam @ means[name] ** 2}
    return {name: 0.5 * float(value) for name, value in found.items()}


def numpy_in_place(dim: int, steps: int) -> float:
    """The last iterate in NumPy with as few passes over memory as it allows: no temporaries."""
    it = problem(dim)
    lam, s, mu = it.eigenvalues, it.target_squared.copy(), np.sqrt(it.target_squared)
    factor, buffer = np.empty(dim), np.empty(dim)
    for t in range(1, steps + 1):
        rate = SCHEDULE(t)
        incoming = rate**2 * (lam @ s + it.noise)
        np.multiply(lam, 2 * rate**2, out=factor)
        factor -= 2 * rate
        factor *= lam
        factor += 1
        s *= factor
        np.multiply(lam, incoming, out=buffer)
        s += buffer
        np.multiply(lam, -rate, out=factor)
        factor += 1
        mu *= factor
    return 0.5 * float(lam @ s)


@njit
def stream(lam: Array, arrays: Array, steps: int) -> None:
    """Read λ, read and write so many arrays, one addition each, a tile at a time: a floor."""
    for _ in range(steps):
        for low in range(0, lam.shape[0], TILE):
            x = lam[low : low + TILE]
            for k in range(arrays.shape[0]):
                row = arrays[k, low : low + TILE]
                for i in range(x.shape[0]):
                    row[i] += x[i]


# --- rows -------------------------------------------------------------------------------------


def numbered(runs: Mapping[str, Callable[[int], object]]) -> dict[str, float]:
    """Median CPU seconds by name; each gets the number of the repeat."""

    def each(run: Callable[[int], object]) -> Callable[[], object]:
        repeats = count()
        return lambda: run(next(repeats))

    return interleaved({name: each(run) for name, run in runs.items()})


def agree(ours: Mapping[str, float], theirs: Mapping[str, float], within: float) -> float:
    """The largest relative difference; figures of things that differ are not compared."""
    off = max(abs(ours[name] / value - 1) for name, value in theirs.items())
    assert off <= within, f"off by {off:.2g}"
    return off


def values(risk: Any) -> dict[str, float]:
    found = {name: float(risk[name][-1]) for name in risk.total}
    return found | {f"{name} mean": float(risk.bias[name][-1]) for name in risk.total}


def exact(dim: int, steps: int, rules: Mapping[str, Rule], target: float | None) -> Row:
    """Nanoseconds a dimension and step against NumPy's."""

    def ours(_: int, n: int = steps) -> object:
        return simulate(problem(dim), SCHEDULE, rules, steps=n, method="exact")

    state = np.zeros((2 + 3 * len(rules), dim))
    runs: dict[str, Callable[[int], object]] = {
        "ours": ours,
        "numpy": lambda _: numpy_loop(dim, steps, rules),
        "floor": lambda _: stream(problem(dim).eigenvalues, state, steps),
    }
    if not rules:
        runs["numpy in place"] = lambda _: numpy_in_place(dim, steps)
    found = {k: v / (dim * steps) * 1e9 for k, v in numbered(runs).items()}
    off = agree(values(ours(0)), numpy_loop(dim, steps, rules), 1e-12)
    return Row(
        f"exact, d = {dim:.0e}, {len(rules)} averages",
        "ns a dimension and step",
        found.pop("ours"),
        f"risk and bias of every name, {off:.0e} apart",
        {name: value for name, value in found.items() if name != "floor"},
        found["floor"],
        (Target("", "≤", target), Target("numpy", "≤", 0.1)) if target else (),
    )


def compressed(rules: Mapping[str, Rule], limit: float | None) -> Row:
    """A whole call at d = T = 1e6 against exact steps of the same problem, scaled to T."""
    dim = steps = 1_000_000
    short = 20

    def fresh(repeat: int) -> Problem:
        """A problem of which nothing is kept from an earlier call."""
        return Problem(dim, 1.5, 3.0, noise=0.01 + 1e-6 * (repeat + 100 * len(rules)))

    def run(repeat: int, n: int, method: Any) -> Any:
        return simulate(fresh(repeat), SCHEDULE, rules, steps=n, method=method)

    found = numbered(
        {
            "ours": lambda repeat: run(repeat, steps, "auto"),
            "short": lambda repeat: run(repeat + 20, short, "exact"),
            "long": lambda repeat: run(repeat + 40, 3 * short, "exact"),
        }
    )
    peer = (found["long"] - found["short"]) / (2 * short) * steps
    one, two = (run(99, 300, method) for method in ("auto", "exact"))
    assert one.method == "compressed"
    off = agree(values(one), {name: float(two[name][-1]) for name in two.total}, 1e-9)
    return Row(
        f"compressed, d = T = 1e6, {len(rules)} averages",
        "s",
        found["ours"],
        f"the risk of 300 exact steps, {off:.0e} apart",
        {"exact": peer},
        targets=(Target("", "≤", limit), Target("exact", "≤", 1 / 500)) if limit else (),
    )


def rows() -> list[Row]:
    stream(np.zeros(8), np.zeros((2, 8)), 1)
    return [
        exact(10_000, 2_000, {}, 0.3),
        exact(100_000, 200, {}, 0.3),
        exact(10_000, 500, FOUR, None),
        exact(100_000, 50, FOUR, None),
        compressed({}, 1.0),
        compressed(FOUR, None),
    ]


if __name__ == "__main__":
    report(rows(), cpu_name())
