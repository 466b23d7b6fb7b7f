"""The excess risk of SGD on a linear regression, exactly: any schedule, any averages.

risk = simulate(problem, Constant(0.1), {"ema25": AnytimeEma(25)}, steps=50_000, at=[1000, 2000])
risk["ema25"]           # ½ Σ λ E[(w̄ − w*)²] at steps 1,000 and 2,000
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Literal

import numpy as np

from anytrain.theory.along import Averaged, Rated, rates_along
from anytrain.theory.moments import AverageMoments, Reading, ScheduleFree, ScheduleFreeMoments, Walk
from anytrain.theory.problem import Array, Regression, is_stable, scale, stability_limit
from anytrain.theory.quadrature import System, compressed, exact

Method = Literal["exact", "compressed", "auto"]

BOUND = 1e-9  # relative: `auto` takes the compressed spectrum where its error is proved smaller
GROWTH = 1e12  # a risk so many times that of the start, or the noise, has diverged


class Diverged(ValueError):
    """The risk grows without bound: the step where that shows, and the limit of the rate."""

    def __init__(self, step: int, rate: float, limit: float, batch: float) -> None:
        self.step, self.rate, self.limit = step, rate, limit
        super().__init__(
            f"the risk diverges, seen at step {step} with a rate of {rate:.4g}; "
            f"rates η < {limit:.4g} are valid (stable at batch {batch:g})"
        )


@dataclass(frozen=True)
class Risk:
    """Half excess risk ½ E[(w − w*)ᵀH(w − w*)] by name, float64, a value a step of `at`.

    `last` is the live iterate; averages and combinations have the names they were given.
    """

    at: tuple[int, ...]  # steps
    total: Mapping[str, Array]
    bias: Mapping[str, Array]  # the risk of the mean iterate
    method: Literal["exact", "compressed"]
    states: int  # coordinates that stood for the spectrum
    bound: float  # on the compression's error of total and bias, relative to the total; 0 if exact
    variance: Mapping[str, Array] = field(init=False)  # the rest

    def __post_init__(self) -> None:
        rest = {name: self.total[name] - self.bias[name] for name in self.total}
        object.__setattr__(self, "variance", rest)

    def __getitem__(self, name: str) -> Array:
        return self.total[name]


def simulate(
    problem: Regression,
    schedule: Rated,
    rules: Mapping[str, Averaged] | None = None,
    *,
    steps: int,
    batch: float = 1,
    at: Iterable[int] | None = None,
    method: Method = "auto",
    combinations: Mapping[str, Mapping[str, float]] | None = None,
    optimizer: ScheduleFree | None = None,
) -> Risk:
    """The exact risk of one-pass SGD at the steps `at` (the last one, if absent); no sampling.

    `schedule` is the trainer's own object, any callable of the step (1 for the first), or the
    rates themselves, one a step; `rules` likewise give ρ. `combinations` name weighted sums of
    averages and of `last`, such as {"both": {"slow": 2, "fast": -1}}; their risk needs the
    averages' cross moments. `method` is exact (every eigenvalue), compressed (see `quadrature`),
    or auto: compressed where its bound is at most 1e-9, else exact.

    Raises ValueError for `at` beyond `steps` and a horizon shorter than them, and `Diverged`, a
    ValueError, for a rate that does not come below the stability limit or a risk that explodes.
    """
    moments = _at(at, steps)
    if not (isfinite(batch) and batch >= 1):
        raise ValueError(f"batch = {batch}; 1 or more is valid")
    if method not in ("exact", "compressed", "auto"):
        raise ValueError(f"method = {method!r}; exact, compressed and auto are valid")
    eta = rates_along(schedule, steps)
    _check_stability(problem, eta, batch)
    reading = _reading(rules or {}, combinations or {}, optimizer, steps)
    limit = GROWTH * max(scale(problem).start, problem.noise) or inf  # nothing there that grows
    walk = Walk(eta, float(batch), problem.noise, np.array(moments, dtype=np.int64), limit)

    def run(system: System) -> Array:
        tables = np.zeros((2, len(moments), len(next(iter(reading.columns.values())))))
        step = reading.run(system, walk, tables[0], tables[1])
        if step:
            raise Diverged(step, eta[step - 1], stability_limit(problem, batch), batch)
        return 0.5 * tables

    def risk(tables: Array, used: Literal["exact", "compressed"], states: int, off: float) -> Risk:
        total, bias = ({n: t @ c for n, c in reading.columns.items()} for t in tables)
        return Risk(moments, total, bias, used, states, off)

    if method != "exact":
        lower, upper = compressed(problem, eta)
        count = lower.eigenvalues.size
        if method == "compressed" or 2 * count < problem.eigenvalues.size:
            tables = run(lower)
            off = reading.doubt * _bound(tables, run(upper), reading.columns)
            if method == "compressed" or off <= BOUND:
                return risk(tables, "compressed", count, off)
    return risk(run(exact(problem)), "exact", problem.eigenvalues.size, 0.0)


def _reading(
    rules: Mapping[str, Averaged],
    combinations: Mapping[str, Mapping[str, float]],
    optimizer: ScheduleFree | None,
    steps: int,
) -> Reading:
    if optimizer is None:
        return AverageMoments(rules, combinations, steps)
    if rules or combinations:
        raise ValueError(
            f"rules = {list(rules)} beside Schedule-Free SGD, which has an average of its own; "
            "no rules and no combinations are valid"
        )
    return ScheduleFreeMoments(optimizer, steps)


def _at(at: Iterable[int] | None, steps: int) -> tuple[int, ...]:
    if steps != int(steps) or steps < 1:
        raise ValueError(f"steps = {steps}; a whole number from 1 on is valid")
    moments = (steps,) if at is None else tuple(at)
    for step in moments:
        if step != int(step) or not 0 <= step <= steps:
            raise ValueError(f"at = {step}; whole steps from 0 to steps = {steps} are valid")
    if list(moments) != sorted(moments):
        raise ValueError(f"at = {list(moments)}; rising steps are valid")
    return moments


def _check_stability(problem: Regression, eta: Array, batch: float) -> None:
    """A rate that is at or above the limit to the end cannot be told from one that diverges."""
    if is_stable(problem, float(eta[-1]), batch):
        return
    limit = stability_limit(problem, batch)
    below = np.flatnonzero(eta < limit)
    first = int(below[-1]) + 1 if below.size else 0  # the step from which on it stays outside
    raise Diverged(first + 1, eta[first], limit, batch)


def _bound(lower: Array, upper: Array, columns: Mapping[str, Array]) -> float:
    """The largest distance between two runs' tables (2, M, R), relative to the total.

    Every column is bracketed, so a form's distance is that of its terms, whatever their signs.
    """
    apart, worst = np.abs(upper - lower), 0.0
    for form in columns.values():
        total = np.maximum(lower[0] @ form, 1e-300)
        worst = max(worst, float(np.max(apart @ np.abs(form) / total, initial=0.0)))
    return worst
