"""Schedules and averages outside t^(−γ): two exponents, two averages, free-form rates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log

import numpy as np

from anytrain.theory.plans import FASTEST, RULES, Bench
from anytrain.theory.problem import Array
from anytrain.theory.regret import Range
from anytrain.theory.risk import simulate
from anytrain.theory.search import Axis, Found, search

Values = Mapping[str, float]
KNOTS = (1, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
MIDDLE = 31_623.0  # steps; where `level` is the rate
POWERS = (0.0, 1.0, 2.0, 4.0, 8.0)  # p of the averages that are combined with free weights


@dataclass(frozen=True)
class TwoPowers:
    """Warmup, then peak·(α/(t − w + α))^γ·(β/(t − w + β))^δ: the exponent goes from γ to γ + δ."""

    peak: float
    warmup: float
    exponent: float  # γ
    offset: float  # α
    more: float  # δ; may be below 0
    bend: float  # β, steps

    def __call__(self, t: float) -> float:
        if t < self.warmup:
            return self.peak * t / self.warmup
        s = t - self.warmup
        first: float = (self.offset / (s + self.offset)) ** self.exponent
        second: float = (self.bend / (s + self.bend)) ** self.more
        return self.peak * first * second


@dataclass(frozen=True)
class Knots:
    """log rate, linear in log t between the knots: (K,) each."""

    at: tuple[float, ...] = field(repr=False)  # log steps
    rates: tuple[float, ...]  # log

    def __call__(self, t: float) -> float:
        return exp(float(np.interp(log(max(t, 1.0)), self.at, self.rates)))


def two_powers(bench: Bench, values: Values) -> TwoPowers:
    gamma, alpha, more, bend = (values[n] for n in ("exponent", "offset", "more", "bend"))
    s = MIDDLE - values["warmup"]
    fall = (alpha / (s + alpha)) ** gamma * (bend / (s + bend)) ** more
    peak = values["level"] / bench.trace / fall
    return TwoPowers(peak, values["warmup"], gamma, alpha, more, bend)


def knots(bench: Bench, values: Values) -> Knots:
    names = [name for name in values if name.startswith("rate")]
    at = tuple(log(float(name[4:])) for name in names)
    return Knots(at, tuple(log(values[name] / bench.trace) for name in names))


def rate_axes(bench: Bench, steps: int) -> list[Axis]:
    top = FASTEST * bench.limit
    inside = [knot for knot in KNOTS if knot < steps]
    return [Axis(f"rate{knot}", 1e-5 * top, top, (), "log") for knot in (*inside, steps)]


def begin_rates(schedule: Callable[[float], float], bench: Bench, axes: Sequence[Axis]) -> Values:
    """The knots of a schedule that is known."""
    rates = {axis.name: schedule(float(axis.name[4:])) * bench.trace for axis in axes}
    return {name: max(rate, 1e-4 * bench.limit) for name, rate in rates.items()}


# --- averages --------------------------------------------------------------------------------


def combine(moments: Array, best: Array) -> tuple[Array, float]:
    """Weights c, Σ c = 1, of the averages with the least max over N of cᵀM(N)c / best(N).

    Lawson's iteration: for weights λ of the horizons, c ∝ (Σ λ M)⁻¹ 1; λ grows where the ratio
    is large. `moments` is (N, K, K).
    """
    if not np.isfinite(moments).all():
        return np.full(moments.shape[1], np.nan), inf
    scaled = moments / best[:, None, None]
    ones, weights = np.ones(moments.shape[1]), np.full(best.size, 1.0 / best.size)
    least, chosen = inf, ones
    for _ in range(150):
        mean = np.tensordot(weights, scaled, 1)
        c = np.linalg.solve(mean + 1e-12 * np.trace(mean) * np.eye(ones.size), ones)
        c /= c.sum()
        ratios = np.einsum("i,nij,j->n", c, scaled, c)
        if ratios.max() < least:
            least, chosen = float(ratios.max()), c
        weights = weights * ratios
        weights /= weights.sum()
    return chosen, least


# --- what is searched ------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One kind of schedule with one kind of average, and how it is searched."""

    schedule: str
    average: str
    build: Callable[[Bench, Values], Callable[[float], float]]
    powers: Callable[[Values], Sequence[float]]  # p of the averages
    axes: Sequence[Axis]

    def regret(self, bench: Bench, span: Range, values: Values) -> float:
        try:
            schedule = self.build(bench, values)
        except (ValueError, OverflowError, ZeroDivisionError):
            return inf
        rules = [RULES["polynomial"](p) for p in self.powers(values)]
        if len(rules) == 1:
            risk = bench.strides.risk(schedule, rules[0], span.horizons)
            return float(np.max(risk / span.best))
        return combine(bench.strides.moments(schedule, rules, span.horizons), span.best)[1]

    def search(self, bench: Bench, span: Range, begin: Sequence[Values], tolerance: float) -> Found:
        """From each of `begin`, and again from where that ends, until that gains too little."""

        def objective(values: Values) -> float:
            return self.regret(bench, span, values)

        found = search(objective, self.axes, begin=begin, keep=0, most=1500)
        while True:
            again = search(objective, self.axes, begin=[found.values], keep=0, most=1500)
            again = again._replace(evaluations=again.evaluations + found.evaluations)
            if again.least > found.least * (1.0 - tolerance):
                return min(found, again, key=lambda one: one.least)._replace(
                    evaluations=again.evaluations
                )
            found = again

    def exact(self, bench: Bench, span: Range, values: Values) -> tuple[float, Array]:
        """The regret with every step taken, and the weights of the averages."""
        schedule, at = self.build(bench, values), span.horizons
        powers = self.powers(values)
        rules = [RULES["polynomial"](p) for p in powers]
        weights = np.ones(1)
        if len(rules) > 1:
            weights, _ = combine(bench.strides.moments(schedule, rules, at), span.best)
        named = {f"average{k}": rule for k, rule in enumerate(rules)}
        both = {"sum": dict(zip(named, weights.tolist(), strict=True))}
        found = simulate(
            bench.problem, schedule, named, steps=at[-1], at=at, method="compressed",
            combinations=both,
        )  # fmt: skip
        return float(np.max(found["sum"] / span.best)), weights


def shapes(bench: Bench, span: Range) -> list[Shape]:
    """Every kind; each begins from what a simpler one came to."""
    first, last = span.horizons[0], span.horizons[-1]
    limit = bench.limit
    power = [
        Axis("level", 1e-4 * limit, FASTEST * limit, (), "log"),
        Axis("warmup", 0.0, first / 2, (), "log1p"),
        Axis("exponent", 0.0, 1.0, ()),
        Axis("offset", 1.0, 10.0 * last, (), "log"),
    ]
    two = [*power, Axis("more", -1.0, 1.0, ()), Axis("bend", 1.0, 10.0 * last, (), "log")]
    average = Axis("average", 0.0, 300.0, (), "log1p")
    further = Axis("further", 0.0, 300.0, (), "log1p")
    rates = rate_axes(bench, last)

    def one(values: Values) -> Sequence[float]:
        return (values["average"],)

    def both(values: Values) -> Sequence[float]:
        return (values["average"], values["average"] + 0.2 + values["further"])

    def fixed(values: Values) -> Sequence[float]:
        return POWERS

    def single(bench: Bench, values: Values) -> TwoPowers:
        return two_powers(bench, {**values, "more": 0.0, "bend": 1.0})

    return [
        Shape("one power", "one", single, one, [*power, average]),
        Shape("one power", "two", single, both, [*power, average, further]),
        Shape("two powers", "one", two_powers, one, [*two, average]),
        Shape("two powers", "two", two_powers, both, [*two, average, further]),
        Shape("knots", "one", knots, one, [*rates, average]),
        Shape("knots", "five", knots, fixed, rates),
    ]
