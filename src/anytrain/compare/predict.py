"""What the last doubling of the tokens gained, and what the next one is predicted to gain.

The best loss is taken to follow L(D) = E + A·D^(−β) (E the floor, A, β >= 0). Written with what
a run has seen, its loss ℓ now, at D₀, and the gain g of its last doubling, it is

    L(D) = ℓ + g·((D/D₀)^(−β) − 1)/(2^β − 1),        E = ℓ − g/(2^β − 1) >= 0,

so β says how much of a gain is left: each doubling gains 2^(−β) times the one before. For a
given β, (ℓ, g) is a line by least squares, with g >= 0 and E >= 0. Over a grid of β, evenly in
log β, a value weighs by its posterior under flat priors on (ℓ, g, log σ),

    p(β | losses) ∝ |ZᵀZ|^(−1/2) · RSS(β)^(−(m−2)/2),

and the loss at 2D₀ is a mixture over β of Student t with m − 2 degrees of freedom, centre
ℓ + g·z and squared width s²(1 + zᵀ(ZᵀZ)⁻¹z), z = (2^(−β) − 1)/(2^β − 1). m is the number of
evaluations n made smaller where neighbouring residuals agree in sign: m = n(1 − r)/(1 + r), r
their first autocorrelation where it is above its own noise; a smooth curve that is no power law
repeats its error, and has told less than its number of points.

How far back a run is one power law is not known either: what is left of a warmup bends older
losses, and two doublings alone say little of β. So half of the mixture is fitted to the last two
doublings and half to the last four.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, lgamma, log, log2, pi, sqrt

from anytrain.evaluations import Evaluation

LEVEL = 0.8  # of the interval
ENOUGH = 5  # evaluations for a fit
# Two doublings and four. Over 144 forecasts of experiments/0006, hidden ends of 2M to 8M tokens,
# 80% intervals of both covered 78%, of four alone 56%; two alone fail on tests/studies.py (1 in 10)
_SPANS = (4.0, 16.0)
_A_DOUBLING = 8  # evaluations of one doubling that count; a run evaluated hourly has hundreds
_EXPONENTS = (0.03, 2.0)  # β
_ROUNDS = 3  # of narrowing the grid of β
_GRID = 400  # points of the predictive density
_EXACT = 1e-16  # nats² added to RSS: an exact power law leaves no residuals


class TooEarly(ValueError):
    """No prediction yet; the message says why, to be shown as it is."""


@dataclass(frozen=True)
class Forecast:
    """The next doubling: from the best loss now to the best loss at twice the tokens."""

    tokens: int  # at the end of the doubling
    gain: float  # nats/token, the median
    low: float  # nats/token: the gain is above with probability 0.9
    high: float  # nats/token: and above this with 0.1
    loss: float  # nats/token, the median at `tokens`
    exponent: float  # β, posterior mean
    evaluations: int  # that were fitted


def best_curve(found: Iterable[Evaluation]) -> list[tuple[float, float]]:
    """(tokens, loss of the best weights) of every evaluation."""
    return [(float(e.tokens), e.best[1]) for e in found if e.tokens > 0]


def gained(curve: Sequence[tuple[float, float]]) -> float | None:
    """Best loss at half the tokens, interpolated in log tokens, minus the one now, nats/token."""
    if len(curve) < 2:
        return None
    now, loss = curve[-1]
    for (d0, l0), (d1, l1) in pairwise(curve):
        if d0 <= now / 2 <= d1:
            share = log(now / 2 / d0) / log(d1 / d0)
            return l0 + share * (l1 - l0) - loss
    return None


def forecast(curve: Sequence[tuple[float, float]], after: float = 0.0) -> Forecast:
    """What the next doubling gains, from the last four doublings past `after` (the warmup).

    The interval holds the *measured* gain with probability 0.8: the noise of both ends is in it.
    Raises TooEarly where there are fewer than 5 evaluations or they span less than one doubling.
    """
    points = _thinned([(d, v) for d, v in curve if d > after])
    if len(points) < ENOUGH:
        raise TooEarly(f"not enough evaluations: {len(points)} of {ENOUGH} past the warmup")
    now, loss = points[-1]
    if points[0][0] > now / 2:
        raise TooEarly("not enough evaluations: they span less than one doubling")
    mixture = [part for span in _SPANS for part in _mixture(_recent(points, span))]
    low, median, high = _quantiles(mixture)
    return Forecast(
        tokens=round(2 * now),
        gain=loss - median,
        low=loss - high,
        high=loss - low,
        loss=median,
        exponent=sum(part.weight * part.beta for part in mixture) / len(_SPANS),
        evaluations=len(points),
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The last four doublings, thinned to the latest in each eighth of a doubling back from now."""
    if not points:
        return []
    now = points[-1][0]
    kept: dict[int, tuple[float, float]] = {}
    for d, v in points:
        if d * max(_SPANS) >= now * (1 - 1e-9):
            kept[int(log2(now / d) * _A_DOUBLING)] = (d, v)
    return [kept[age] for age in sorted(kept, reverse=True)]


def _recent(points: list[tuple[float, float]], span: float) -> list[tuple[float, float]]:
    """Those from now/span on, and older ones where these are fewer than ENOUGH."""
    count = sum(d * span >= points[-1][0] * (1 - 1e-9) for d, _ in points)
    return points[-max(count, ENOUGH) :]


@dataclass(frozen=True)
class _Part:
    """A Student t of the loss at 2D₀."""

    weight: float
    centre: float
    width: float
    freedom: float
    beta: float


def _mixture(points: list[tuple[float, float]]) -> list[_Part]:
    """What the points say: a part for each β, their weights adding up to 1."""
    now = points[-1][0]
    fits, m = _fits([d / now for d, _ in points], [v for _, v in points])
    n, freedom, weights = len(points), m - 2.0, _weights(fits, m)
    found = []
    for fit, weight in zip(fits, weights, strict=True):
        variance = (fit.rss + _EXACT) * (m / n) / freedom  # m residuals of the same size
        width = sqrt(variance * (1.0 + fit.leverage * n / m))
        found.append(_Part(weight / sum(weights), fit.centre, width, freedom, fit.beta))
    return found


def _fits(x: list[float], y: list[float]) -> tuple[list["_Fit"], float]:
    """Fits over a grid of β as fine as the posterior is narrow, and the m they share."""
    sharp = _narrowed(x, y, float(len(x)))  # as if every residual counted: finds the minimum
    m = _effective(min(sharp, key=lambda fit: fit.rss).residuals)
    return _narrowed(x, y, m), m


def _narrowed(x: list[float], y: list[float], m: float) -> list["_Fit"]:
    low, high = _EXPONENTS
    for _ in range(_ROUNDS):
        fits = [_fit(low * (high / low) ** (i / 40), x, y) for i in range(41)]
        held = [i for i, weight in enumerate(_weights(fits, m)) if weight > 1e-4]
        low, high = fits[max(held[0] - 1, 0)].beta, fits[min(held[-1] + 1, 40)].beta
    return fits


def _weights(fits: list["_Fit"], m: float) -> list[float]:
    """Posterior of each β, the largest being 1."""
    logs = [-0.5 * fit.logdet - 0.5 * (m - 2.0) * log(fit.rss + _EXACT) for fit in fits]
    return [exp(value - max(logs)) for value in logs]


@dataclass(frozen=True)
class _Fit:
    """(ℓ, g) at one β, and what it says of the loss at 2D₀."""

    beta: float
    rss: float
    residuals: list[float]
    logdet: float  # log |ZᵀZ|
    centre: float  # predicted loss at 2D₀
    leverage: float  # zᵀ(ZᵀZ)⁻¹z there


def _fit(beta: float, x: list[float], y: list[float]) -> _Fit:
    """Least squares of y on (1, z(x)), held to g >= 0 and E >= 0; x is tokens over tokens now."""
    scale = 2.0**beta - 1.0
    z = [(v**-beta - 1.0) / scale for v in x]
    ahead = (2.0**-beta - 1.0) / scale
    n = len(x)
    mean_z, mean_y = sum(z) / n, sum(y) / n
    spread = sum((v - mean_z) ** 2 for v in z)
    g = max(0.0, sum((v - mean_z) * (w - mean_y) for v, w in zip(z, y, strict=True)) / spread)
    level = mean_y - g * mean_z
    if level < g / scale:  # E < 0: the best with E = 0 is L = level·x^(−β)
        power = [v**-beta for v in x]
        level = sum(p * w for p, w in zip(power, y, strict=True)) / sum(p * p for p in power)
        g = level * scale
    residuals = [w - level - g * v for v, w in zip(z, y, strict=True)]
    return _Fit(
        beta,
        sum(r * r for r in residuals),
        residuals,
        log(n * spread),
        level + g * ahead,
        1.0 / n + (ahead - mean_z) ** 2 / spread,
    )


def _effective(residuals: list[float]) -> float:
    """How many independent residuals these are worth: n(1 − r)/(1 + r), at least 5."""
    n = len(residuals)
    square = sum(r * r for r in residuals)
    if square == 0:
        return float(n)
    r = sum(a * b for a, b in pairwise(residuals)) / square
    if r <= 1.0 / sqrt(n):  # what independent residuals show by chance
        return float(n)
    return max(float(ENOUGH), n * (1.0 - r) / (1.0 + r))


def _quantiles(mixture: Sequence[_Part]) -> tuple[float, float, float]:
    """10%, 50% and 90% of the loss at 2D₀."""
    low = min(part.centre - 15 * part.width for part in mixture)
    high = max(part.centre + 15 * part.width for part in mixture)
    grid = [low + (high - low) * (i + 0.5) / _GRID for i in range(_GRID)]
    heights = [_height(part) for part in mixture]
    density = [
        sum(
            height * (1.0 + ((y - p.centre) / p.width) ** 2 / p.freedom) ** (-(p.freedom + 1) / 2)
            for p, height in zip(mixture, heights, strict=True)
        )
        for y in grid
    ]
    tail = (1.0 - LEVEL) / 2
    below, middle, above = (_quantile(grid, density, p) for p in (tail, 0.5, 1.0 - tail))
    return below, middle, above


def _height(part: _Part) -> float:
    """Weighted density at the centre: Γ((f + 1)/2) / (Γ(f/2)·√(πf)·width)."""
    f = part.freedom
    return part.weight / part.width * exp(lgamma((f + 1) / 2) - lgamma(f / 2)) / sqrt(pi * f)


def _quantile(grid: list[float], density: list[float], p: float) -> float:
    """Where the density, constant on the cell around each grid point, reaches probability p."""
    target, below, half = p * sum(density), 0.0, (grid[1] - grid[0]) / 2
    for y, mass in zip(grid, density, strict=True):
        if below + mass >= target:
            return y - half + 2 * half * (target - below) / mass
        below += mass
    return grid[-1]
