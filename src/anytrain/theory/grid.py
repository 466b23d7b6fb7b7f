"""One schedule at many peak rates: the grids that are searched for the best rate."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from anytrain.theory.along import Averaged, Rated, averaging_along, rates_along
from anytrain.theory.problem import Array, Regression
from anytrain.theory.risk import Diverged, Method, simulate


def peak_grid(
    problem: Regression,
    shape: Rated,
    peaks: Sequence[float],
    rules: Mapping[str, Averaged] | None = None,
    *,
    at: Sequence[int],
    batch: float = 1,
    method: Method = "auto",
    workers: int = 1,
) -> dict[str, Array]:
    """The risk of `last` and of every average at the steps `at`, by peak: name -> (P, M).

    `shape` is a schedule with a peak of 1: rates scale with it. Runs that diverge are inf.
    """
    steps = max(at)
    eta = rates_along(shape, steps)
    rho = {name: averaging_along(name, rule, steps) for name, rule in (rules or {}).items()}

    def run(peak: float) -> dict[str, Array]:
        try:
            found = simulate(
                problem, peak * eta, rho, steps=steps, at=at, batch=batch, method=method
            )
        except Diverged:
            return {name: np.full(len(at), np.inf) for name in ("last", *rho)}
        return dict(found.total)

    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(run, peaks))
    return {name: np.stack([row[name] for row in rows]) for name in ("last", *rho)}
