"""How steeply a risk falls: over the last decade, and locally against N for several dimensions."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from anytrain.theory.problem import Array, Problem
from anytrain.theory.risk import Diverged
from anytrain.theory.sweep import FREE, WINDOWS, Arm, Chosen, Panel, Setting, Weights, expected, run

TAIL = 2  # the least window of which the start is forgotten as fast as any bias that matters
PER_DECADE = 10  # steps of a local curve
REACH = 2  # a local slope is taken over so many of them to either side


def slope(at: Sequence[int], risk: Array) -> float:
    """The slope of log risk on log N by least squares, over the last decade of `at`."""
    steps = np.array(at, dtype=np.float64)
    last = steps >= steps[-1] / 10
    x, y = np.log(steps[last]), risk[last]
    if not (np.isfinite(y).all() and (y > 0).all()):
        return float("nan")
    x = x - x.mean()
    return float(x @ np.log(y) / (x @ x))


@dataclass(frozen=True)
class Slope:
    """One line of the table: a choice, the risk where it ends, its slope, and what theory says."""

    arm: Arm
    weights: Weights
    chosen: Chosen
    setting: Setting  # at the last checkpoint
    edges: tuple[str, ...]
    risk: float
    value: float
    theory: float | None  # below 0, as the slope


def last_decade(panel: Panel) -> Iterator[Slope]:
    """Every chosen curve; then constant and t^(−γ*) at multiplier 1, where nothing is chosen."""
    for curve in panel.curves:
        found = expected(panel.rates, curve.arm, curve.weights, curve.chosen)
        yield Slope(
            *(curve.arm, curve.weights, curve.chosen, curve.settings[-1], curve.edges[-1]),
            float(curve.risk[-1]),
            slope(panel.checkpoints, curve.risk),
            -found.value if found else None,
        )
    for arm in unsearched(panel):
        grid = panel.grid(arm)
        for window in WINDOWS:
            setting = Setting(1.0, window)
            risk = grid.risk[grid.settings.index(setting)]
            if np.isfinite(risk).all():
                found = expected(panel.rates, arm, "average", "fixed")
                value = slope(panel.checkpoints, risk)
                theory = -found.value if found else None
                end = float(risk[-1])
                yield Slope(arm, "average", "fixed", setting, (), end, value, theory)


def unsearched(panel: Panel) -> tuple[Arm, ...]:
    """The arms shown at multiplier 1: t^(−γ*) where it is not the constant."""
    return ("constant",) if panel.rates.gamma == 0 else ("constant", "power")


# --- local slopes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Local:
    """One run in the limit of many samples: its risk, and d log R / d log N around each N."""

    dim: int
    arm: Arm
    chosen: Chosen  # fixed: multiplier 1 and the window TAIL
    setting: Setting
    steps: tuple[int, ...]
    risk: Array
    slope: Array
    theory: float  # below 0
    bound: float  # on the relative error of the risk
    weights: Weights = "average"


def local_slopes(
    panel: Panel, dims: Sequence[int], steps: int, workers: int = 1
) -> tuple[Local, ...]:
    """Multiplier 1 at every d; what the sweep chose at its own. Runs that diverge are left out."""
    problem = panel.problem
    jobs: list[tuple[int, Arm, Chosen, Setting]] = [
        (dim, arm, "fixed", Setting(1.0, TAIL)) for arm in unsearched(panel) for dim in dims
    ]
    for arm in FREE:
        if arm == "constant" or (arm == "inverse_sqrt_offset" and panel.rates.gamma > 0):
            jobs.append((problem.dim, arm, "mean", panel.curve(arm).settings[0]))
    low = panel.checkpoints[0]
    count = 1 + round(PER_DECADE * np.log10(steps / low))
    at = tuple(np.round(np.geomspace(low, steps, count)).astype(int).tolist())

    def one(job: tuple[int, Arm, Chosen, Setting]) -> Local | None:
        dim, arm, chosen, setting = job
        other = Problem(dim, problem.capacity, problem.source, problem.noise)
        try:
            curve = run(other, arm, setting, at, panel.rates.gamma)
        except Diverged:
            return None
        theory = expected(panel.rates, arm, "average", chosen)
        assert theory is not None
        return Local(
            *(dim, arm, chosen, setting, *local(at, curve.risk), -theory.value, curve.bound)
        )

    with ThreadPoolExecutor(workers) as pool:
        return tuple(line for line in pool.map(one, jobs) if line)


def local(at: tuple[int, ...], risk: Array) -> tuple[tuple[int, ...], Array, Array]:
    """Steps, risk and slope around each: central differences over 10^(±REACH/PER_DECADE)."""
    x, y = np.log(np.array(at, dtype=np.float64)), np.log(risk)
    wide = 2 * REACH
    return at[REACH:-REACH], risk[REACH:-REACH], (y[wide:] - y[:-wide]) / (x[wide:] - x[:-wide])
