"""The synthetic experiment of arXiv:2602.03702 (Figure 3): schedules and averages on power laws.

Every setting of every arm is run exactly. A schedule that knows no horizon gets one setting for all
checkpoints, the one with the least mean excess risk, as the paper chooses; WSD and cosine get a run
and a setting of their own at every checkpoint. Rates are multiples m of 1/tr H.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from anytrain.rules import Polynomial
from anytrain.schedules import WSD, Constant, Cosine, InverseSqrt, Power
from anytrain.theory.along import averaging_along, rates_along
from anytrain.theory.grid import peak_grid
from anytrain.theory.problem import Array, Problem
from anytrain.theory.rates import Exponent, Rates, rates
from anytrain.theory.risk import simulate

MULTIPLIERS = (
    *(1e-4, 2e-4, 5e-4, 7e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5),
    *(0.8, 1.0, 2.0, 3.0, 5.0, 10.0),
)  # m of η = m / tr H
WINDOWS = (1, 2, 4, 8, 16)  # m of ρ = min(m, t)/t
HOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # fraction of the horizon before WSD decays
# The paper's at N = 50,000, in proportion at another N:
CHECKPOINTS = (0.02, 0.04, 0.06, 0.1, 0.16, 0.2, 0.4, 1.0)  # 1k … 50k
OFFSETS = tuple(0.008 * 2**k for k in range(7))  # 400 … 25,600
LEAST_STEPS = 50  # for checkpoints that differ

Arm = Literal["constant", "inverse_sqrt", "inverse_sqrt_offset", "power", "wsd", "cosine"]
FREE: tuple[Arm, ...] = ("constant", "inverse_sqrt", "inverse_sqrt_offset", "power")
PLANNED: tuple[Arm, ...] = ("wsd", "cosine")
Shape = Constant | Power | InverseSqrt | WSD | Cosine
Weights = Literal["average", "last"]
Chosen = Literal["mean", "horizon", "fixed"]  # one by the mean; one a horizon; not searched


class Setting(NamedTuple):
    """What is searched; None is what the arm does not have."""

    multiplier: float
    window: int | None = None
    offset: float | None = None  # α, steps
    hold: float | None = None


@dataclass(frozen=True)
class Setup:
    """The panels (a, b) and the size of the experiment."""

    panels: tuple[tuple[float, float], ...] = tuple(
        (a, ratio * a) for ratio in (1, 2) for a in (1.1, 1.5, 1.9)
    )
    dim: int = 500_000
    steps: int = 50_000  # N
    noise: float = 0.01  # σ²

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError("panels = (); one (capacity, source) or more is valid")
        for capacity, source in self.panels:
            self.problem(capacity, source)  # says what is wrong with it
        if self.steps != int(self.steps) or self.steps < LEAST_STEPS:
            raise ValueError(f"steps = {self.steps}; a whole number from {LEAST_STEPS} on is valid")

    def problem(self, capacity: float, source: float) -> Problem:
        return Problem(self.dim, capacity, source, self.noise)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return tuple(round(part * self.steps) for part in CHECKPOINTS)

    @property
    def offsets(self) -> tuple[float, ...]:
        return tuple(float(f"{part * self.steps:.6g}") for part in OFFSETS)


class Grid(NamedTuple):
    """The risk of every setting of an arm: (S, M), inf where it diverges."""

    arm: Arm
    weights: Weights
    settings: tuple[Setting, ...]
    risk: Array

    def best(self) -> int:
        """The setting of the least mean over the checkpoints."""
        return int(np.argmin(self.risk.mean(axis=1)))

    def edges(self, setting: Setting) -> tuple[str, ...]:
        """What lies at the end of its grid: the best may be beyond it."""
        columns = zip(Setting._fields, setting, zip(*self.settings, strict=True), strict=True)
        return tuple(
            name
            for name, value, values in columns
            if value is not None and len(set(values)) > 1 and value in (min(values), max(values))
        )


@dataclass(frozen=True)
class Curve:
    """The chosen runs of an arm: a setting and a risk a checkpoint."""

    arm: Arm
    weights: Weights
    chosen: Chosen
    settings: tuple[Setting, ...]  # M, all the same unless one a horizon
    edges: tuple[tuple[str, ...], ...]  # M, of the grid
    risk: Array  # (M,)
    bias: Array  # (M,)
    bound: float  # on the relative error of the compressed spectrum


@dataclass(frozen=True)
class Panel:
    """One (a, b): every grid, and what was chosen from them."""

    problem: Problem
    checkpoints: tuple[int, ...]
    grids: tuple[Grid, ...]
    curves: tuple[Curve, ...]

    @cached_property
    def rates(self) -> Rates:
        return rates(self.problem.capacity, self.problem.source)

    def curve(self, arm: Arm, weights: Weights = "average", chosen: Chosen = "mean") -> Curve:
        wanted = (arm, weights, chosen)
        return next(c for c in self.curves if (c.arm, c.weights, c.chosen) == wanted)

    def grid(self, arm: Arm, weights: Weights = "average") -> Grid:
        return next(g for g in self.grids if (g.arm, g.weights) == (arm, weights))

    @property
    def twin(self) -> Arm | None:
        """The other arm that t^(−γ*) is the same as, if any."""
        same: dict[float, Arm] = {0.0: "constant", 0.5: "inverse_sqrt"}
        return same.get(self.rates.gamma)

    @property
    def minimax(self) -> Array | None:
        """c·(σ²/N)^(1 − 1/b), c such that the lowest curve touches it; None without noise."""
        if self.problem.noise == 0:
            return None
        line = (self.problem.noise / np.array(self.checkpoints)) ** self.rates.minimax.value
        scale: float = min(float(np.min(curve.risk / line)) for curve in self.curves)
        return scale * line


def run_panel(setup: Setup, capacity: float, source: float, workers: int = 1) -> Panel:
    """Run every arm on one problem, `workers` threads at a time, and choose."""
    problem, at = setup.problem(capacity, source), setup.checkpoints
    gamma = rates(capacity, source).gamma
    cells = {arm: tuple(_cells(arm, setup)) for arm in (*FREE, *PLANNED)}
    runs = {  # the same schedule once: t^(−γ*) is a constant at b = a and 1/√t at b = 2a
        tuple(shape(arm, cell, gamma, at[k]) for k in range(len(at))): arm
        for arm, some in cells.items()
        for cell in some
    }
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda schedules: _risks(problem, schedules, at), runs)
        tables = dict(zip(runs, found, strict=True))
    grids: list[Grid] = []
    for arm, some in cells.items():
        by_cell = [tables[tuple(shape(arm, cell, gamma, n) for n in at)] for cell in some]
        grids += _grids(arm, some, by_cell)
    with ThreadPoolExecutor(workers) as pool:
        chosen = [(grid, way) for grid in grids for way in _ways(grid.arm)]
        curves = tuple(pool.map(lambda pair: _curve(problem, at, gamma, *pair), chosen))
    return Panel(problem, at, tuple(grids), curves)


def shape(arm: Arm, setting: Setting, gamma: float, horizon: int) -> Shape:
    """The arm's schedule at a peak of 1. `power` is the bare η/t^γ*, `inverse_sqrt` η/√t."""
    if arm == "constant" or (arm == "power" and gamma == 0):
        return Constant(1.0)
    if arm == "inverse_sqrt_offset":
        assert setting.offset is not None
        return InverseSqrt(1.0, 0, setting.offset)
    if arm == "wsd":
        assert setting.hold is not None
        return WSD(horizon=horizon, peak=1.0, decay=1.0 - setting.hold)
    if arm == "cosine":
        return Cosine(horizon=horizon, peak=1.0)
    return Power(1.0, 1, 0.5 if arm == "inverse_sqrt" else gamma, 1)


def expected(found: Rates, arm: Arm, weights: Weights, chosen: Chosen) -> Exponent | None:
    """What theory says of a curve; None of the last iterate of a schedule without a horizon."""
    if arm in PLANNED:
        if chosen == "horizon":  # η ∝ N^(−γ*) balances bias and variance at every horizon
            return Exponent(found.power.value, "a rate tuned for the horizon, ∝ N^(−γ*)")
        return found.wsd
    if weights == "last":
        return None
    if arm == "constant":
        return found.constant
    return found.power if arm == "power" else found.inverse_sqrt


def _ways(arm: Arm) -> tuple[Chosen, ...]:
    return ("mean",) if arm in FREE else ("horizon", "mean") if arm == "wsd" else ("horizon",)


def _cells(arm: Arm, setup: Setup) -> Iterator[Setting]:
    """What an arm has beside the multiplier and the window: a run with every multiplier each."""
    if arm == "inverse_sqrt_offset":
        yield from (Setting(1.0, offset=offset) for offset in setup.offsets)
    elif arm == "wsd":
        yield from (Setting(1.0, hold=hold) for hold in HOLDS)
    else:
        yield Setting(1.0)


@lru_cache(maxsize=512)
def _rates(schedule: Shape, steps: int) -> Array:
    return rates_along(schedule, steps)


@lru_cache(maxsize=8)
def windows(steps: int) -> dict[int, Array]:
    """ρ along the steps, by window: Polynomial(m − 1, shift=0)."""
    return {m: averaging_along(str(m), Polynomial(m - 1, 0), steps) for m in WINDOWS}


def _risks(
    problem: Problem, schedules: tuple[Shape, ...], at: tuple[int, ...]
) -> dict[int | None, Array]:
    """(multipliers, checkpoints) by window, None the last iterate. A schedule a checkpoint."""
    peaks = [m / problem.trace for m in MULTIPLIERS]
    if len(set(schedules)) == 1:
        rules = {str(m): rho for m, rho in windows(at[-1]).items()}
        along = _rates(schedules[0], at[-1])
        found = peak_grid(problem, along, peaks, rules, at=at, method="compressed")
        return {None: found["last"], **{int(name): found[name] for name in rules}}
    ends = [
        peak_grid(problem, _rates(schedule, n), peaks, at=[n], method="compressed")["last"]
        for schedule, n in zip(schedules, at, strict=True)
    ]
    return {None: np.concatenate(ends, axis=1)}


def _grids(
    arm: Arm, cells: tuple[Setting, ...], tables: list[dict[int | None, Array]]
) -> Iterator[Grid]:
    kinds: tuple[Weights, ...] = ("last",) if arm in PLANNED else ("average", "last")
    for weights in kinds:
        names: tuple[int | None, ...] = (None,) if weights == "last" else WINDOWS
        settings = tuple(
            cell._replace(multiplier=m, window=window)
            for cell, window, m in product(cells, names, MULTIPLIERS)
        )
        risk = np.concatenate([table[window] for table in tables for window in names])
        yield Grid(arm, weights, settings, risk)


def _curve(problem: Problem, at: tuple[int, ...], gamma: float, grid: Grid, way: Chosen) -> Curve:
    """Choose from the grid, and run what was chosen once more for bias and variance."""
    best = np.argmin(grid.risk, axis=0) if way == "horizon" else [grid.best()] * len(at)
    settings = tuple(grid.settings[k] for k in best)
    if grid.arm in FREE:
        curve = run(problem, grid.arm, settings[0], at, gamma)
    else:
        parts = [
            run(problem, grid.arm, setting, (n,), gamma)
            for setting, n in zip(settings, at, strict=True)
        ]
        curve = replace(
            parts[0],
            risk=np.concatenate([part.risk for part in parts]),
            bias=np.concatenate([part.bias for part in parts]),
            bound=max(part.bound for part in parts),
        )
    edges = tuple(grid.edges(setting) for setting in settings)
    return replace(curve, chosen=way, settings=settings, edges=edges)


def run(problem: Problem, arm: Arm, setting: Setting, at: tuple[int, ...], gamma: float) -> Curve:
    """One setting of an arm at the steps `at`; one with a horizon ends at the last of them."""
    peak = setting.multiplier / problem.trace
    eta = peak * _rates(shape(arm, setting, gamma, at[-1]), at[-1])
    rules = {} if setting.window is None else {"average": windows(at[-1])[setting.window]}
    risk = simulate(problem, eta, rules, steps=at[-1], at=at, method="compressed")
    weights: Weights = "last" if setting.window is None else "average"
    settings, edges = (setting,) * len(at), ((),) * len(at)
    return Curve(
        arm, weights, "fixed", settings, edges, risk[weights], risk.bias[weights], risk.bound
    )
