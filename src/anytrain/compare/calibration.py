"""Whether the forecast of the next doubling holds: the last doubling of every run, hidden.

A run without a horizon is forecast from its evaluations up to half its tokens, as
`anytrain status` would have done then, and the gain it went on to make is looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path
from statistics import median

from anytrain.compare.frontier import warmup_tokens
from anytrain.compare.predict import LEVEL, Forecast, TooEarly, forecast
from anytrain.compare.results import Curve, Phase, Results
from anytrain.errors import UserError
from anytrain.rundir import RunDir

_STEP = 0.005  # of half the tokens: the step that reaches it goes past it by a part of its own


@dataclass(frozen=True)
class Hindsight:
    """What was forecast for the last doubling of a run, and what it gained."""

    arm: str
    phase: Phase
    seed: int
    setting: str
    run: str
    tokens: int  # at the end of the doubling
    ahead: Forecast
    measured: float  # nats/token

    @property
    def held(self) -> bool:
        """Whether the interval has the measured gain in it."""
        return self.ahead.low <= self.measured <= self.ahead.high

    @property
    def error(self) -> float:
        """Forecast − measured gain, nats/token; above 0 it promised too much."""
        return self.ahead.gain - self.measured


@dataclass(frozen=True)
class Calibration:
    """Every run that could be forecast, and why others could not."""

    hindsights: tuple[Hindsight, ...]
    too_early: tuple[tuple[str, str], ...] = ()  # (run, why)

    @property
    def covered(self) -> int:
        return sum(h.held for h in self.hindsights)

    @property
    def median_error(self) -> float | None:
        """Of the absolute errors, nats/token."""
        return median(abs(h.error) for h in self.hindsights) if self.hindsights else None

    @property
    def bias(self) -> float | None:
        """Median of forecast − measured, nats/token."""
        return median(h.error for h in self.hindsights) if self.hindsights else None

    def sentence(self) -> str:
        """Covered k of n, and by how much it was off."""
        if self.median_error is None or self.bias is None:
            return "No run is long enough to hide its last doubling."
        gain = median(h.measured for h in self.hindsights)
        return (
            f"The {LEVEL:.0%} interval covered {self.covered} of {len(self.hindsights)} measured "
            f"gains of a hidden last doubling; the forecast was off by {self.median_error:.4f} "
            f"nats/token in the median, of a gain of {gain:.4f}."
        )


def calibration(results: Results, out: Path | None = None) -> Calibration:
    """Hide the last doubling of every run without a horizon; `out` is the study's directory.

    A run that several arms share counts once. Its warmup is left out of the fit where its recipe
    is still below OUT/runs.
    """
    found, early, seen = [], [], set()
    for curve in results.curves:
        if results.arms[curve.arm].kind != "free" or curve.run in seen:
            continue
        seen.add(curve.run)
        after = warmup(out / "runs" / curve.run) if out is not None else 0.0
        try:
            found.append(_hindsight(curve, after))
        except TooEarly as why:
            early.append((curve.run, str(why)))
    return Calibration(tuple(found), tuple(early))


def warmup(run: Path) -> float:
    """Where a run's warmup ends, tokens; 0 where its recipe is gone."""
    try:
        return warmup_tokens(RunDir(run).recipe)
    except (UserError, OSError):
        return 0.0


def best_points(curve: Curve) -> list[tuple[float, float]]:
    """(tokens, loss of the best weights) of every evaluation.

    Of the weights that every evaluation has: an average that came later has only the horizons, and
    would bend the curve there.
    """
    throughout = [values for values in curve.losses.values() if all(map(isfinite, values))]
    best = [min(values) for values in zip(*throughout, strict=True)]
    return [(float(d), v) for d, v in zip(curve.tokens, best, strict=True) if d > 0]


def _hindsight(curve: Curve, after: float) -> Hindsight:
    points = best_points(curve)
    end = points[-1][0] if points else 0.0
    past = [(d, v) for d, v in points if d <= end / 2 * (1 + _STEP)]
    ahead = forecast(past, after)
    measured = past[-1][1] - _at(points, min(2 * past[-1][0], end))
    return Hindsight(
        *(curve.arm, curve.phase, curve.seed, curve.setting, curve.run),
        *(ahead.tokens, ahead, measured),
    )


def _at(points: Sequence[tuple[float, float]], tokens: float) -> float:
    """The loss at `tokens`, interpolated in log tokens where there was no evaluation."""
    later = next(i for i, (d, _) in enumerate(points) if d >= tokens * (1 - 1e-9))
    (d0, v0), (d1, v1) = points[max(0, later - 1)], points[later]
    if d1 <= tokens or d0 == d1:
        return v1
    return v0 + (v1 - v0) * log(tokens / d0) / log(d1 / d0)
