"""Schedules with settings to search: those that know their horizon, and those that do not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_DOWN, Context, Decimal
from functools import cached_property
from math import isfinite, log, sqrt
from typing import Any, TypeVar

from anytrain.rules import AnytimeEma, Polynomial, PowerEma, Rule, Uniform
from anytrain.schedules import WSD, Constant, Cosine, InverseSqrt, Linear, Power, Schedule
from anytrain.theory.problem import Array, Regression, scale, stability_limit
from anytrain.theory.search import Axis, Values
from anytrain.theory.strides import Strides

FASTEST = 2.0  # times the stability limit of a constant rate: what decays may begin above it
DIGITS = 4  # of a setting that is reported: what is reported is what was run
BARE = 1.0  # step: the offset of 1/√t without one; 1/√(t + 1)


@dataclass(frozen=True)
class Bench:
    """What the searches on one problem share."""

    problem: Regression
    steps: int  # the longest run
    batch: float = 1.0
    warmup: bool = True  # whether schedules may warm up, linearly from 0

    def __post_init__(self) -> None:
        if not (isfinite(self.batch) and self.batch >= 1):
            raise ValueError(f"batch = {self.batch}; 1 or more is valid")

    @cached_property
    def trace(self) -> float:
        """tr H: a multiplier m is a rate of m / tr H."""
        return scale(self.problem).trace

    @cached_property
    def limit(self) -> float:
        """The multiplier from which on a constant rate is unstable."""
        return stability_limit(self.problem, self.batch) * self.trace

    @cached_property
    def strides(self) -> Strides:
        return Strides.of(self.problem, self.steps, self.batch, fastest=FASTEST)

    def risk(self, schedule: Schedule, rule: Rule | None, at: tuple[int, ...]) -> Array:
        """The risk at the steps `at`, every step taken; the compressed spectrum."""
        from anytrain.theory.risk import simulate

        name = "last" if rule is None else "average"
        rules = {} if rule is None else {name: rule}
        found = simulate(
            self.problem, schedule, rules, steps=at[-1], at=at, batch=self.batch,
            method="compressed",
        )  # fmt: skip
        return found[name]


@dataclass(frozen=True)
class Plan:
    """A shape of schedule, the settings to search, and whether an average of it is read.

    `level` is a rate times tr H: that at the step `reference`, the horizon or the middle of the
    budgets, where the offset of a power law is searched, and otherwise the peak.
    """

    name: str
    settings: tuple[str, ...]  # beside level, warmup and average
    build: Callable[[Values, float, float], Schedule]  # of the settings, a rate and `reference`
    averaged: bool = True
    fixed: Mapping[str, float] = field(default_factory=dict)  # settings that are not searched

    def axes(self, bench: Bench, shortest: float, longest: float) -> list[Axis]:
        """The ranges that are searched, for horizons of `shortest` to `longest` steps."""
        limit = bench.limit
        levels = tuple(limit * part for part in (0.001, 0.01, 0.05, 0.2, 0.8))
        offsets = (30.0, sqrt(250.0 * longest))
        known = {
            "level": Axis("level", 1e-5 * limit, FASTEST * limit, levels, "log"),
            "warmup": Axis("warmup", 0.0, shortest / 2, (0.0, shortest / 10), "log1p"),
            "decay": Axis("decay", 0.01, 1.0, (0.1, 0.5, 0.95)),
            "exponent": Axis("exponent", 0.0, 1.0, (0.2, 0.5, 0.8)),
            "offset": Axis("offset", BARE, 10 * longest, offsets, "log"),
            "average": Axis("average", 0.0, 300.0, (1.0, 5.0), "log1p"),
        }
        names = ["level", *(["warmup"] if bench.warmup else []), *self.settings]
        return [known[name] for name in (*names, *(["average"] if self.averaged else []))]

    def schedule(self, values: Values, bench: Bench, reference: float) -> Schedule:
        """The schedule of these settings. Raises ValueError where there is none."""
        every = {"warmup": 0.0, **values, **self.fixed}
        return self.build(every, values["level"] / bench.trace, reference)


def power(name: str, exponent: float | None = None, offset: float | None = None) -> Plan:
    """peak·(α/(t − w + α))^γ with averaging; γ and α are searched where they are absent."""
    given = {"exponent": exponent, "offset": offset}
    free = tuple(setting for setting, value in given.items() if value is None)
    fixed = {setting: value for setting, value in given.items() if value is not None}

    def build(values: Values, rate: float, reference: float) -> Schedule:
        return _power(values, rate, reference if offset is None else 0.0)

    return Plan(name, free, build, fixed=fixed)


def _power(values: Values, rate: float, reference: float) -> Schedule:
    """The power law that has this rate at `reference`."""
    gamma, alpha, w = values["exponent"], values["offset"], values["warmup"]
    if gamma == 0.0:
        return Constant(rate, w)
    peak = rate * ((max(reference - w, 0.0) + alpha) / alpha) ** gamma
    return InverseSqrt(peak, w, alpha) if gamma == 0.5 else Power(peak, w, gamma, alpha)


def _planned(name: str, *, averaged: bool) -> Plan:
    def build(values: Values, peak: float, horizon: float) -> Schedule:
        w = values["warmup"]
        if name == "wsd":
            decay = min(values["decay"], 1.0 - w / horizon)
            return WSD(peak=peak, warmup=w, horizon=horizon, decay=decay)
        cls = {"cosine": Cosine, "linear": Linear}[name]
        return cls(peak=peak, warmup=w, horizon=horizon)

    settings = ("decay",) if name == "wsd" else ()
    return Plan(f"{name} + average" if averaged else name, settings, build, averaged)


# What knows its horizon: everything is tuned for it. Without an average, the last iterate is read.
DECAYED = tuple(_planned(name, averaged=False) for name in ("wsd", "cosine", "linear"))
AVERAGED = (
    _planned("wsd", averaged=True),
    power("constant + average", 0.0, BARE),
    power("power + average"),
)
FURTHER = tuple(_planned(name, averaged=True) for name in ("cosine", "linear"))

# What does not, one setting for every horizon.
CONSTANT = power("constant", 0.0, BARE)
BARE_INVERSE_SQRT = power("1/√t, bare", 0.5, BARE)
INVERSE_SQRT = power("1/√t", 0.5)
FREE = power("power")


# --- averages --------------------------------------------------------------------------------

# The rule whose weights go as s^p.
RULES: dict[str, Callable[[float], Rule]] = {
    "polynomial": lambda p: Polynomial(p) if p > 0 else Uniform(),
    "anytime_ema": lambda p: AnytimeEma((p + 1.0) / log(2.0)),
    "power_ema": lambda p: PowerEma(sqrt((p + 1.0) / ((p + 2.0) ** 2 * (p + 3.0)))),
}

T = TypeVar("T")


def rounded(value: T) -> T:
    """A schedule or a rule with its numbers cut to DIGITS digits, warmups to whole steps.

    A horizon stays as it is. Cut and not rounded: a relative width may not exceed its limit.
    """
    cut: dict[str, Any] = {}
    for one in fields(value):  # type: ignore[arg-type]
        number = getattr(value, one.name)
        if isinstance(number, float) and one.name != "horizon":
            cut[one.name] = float(int(number)) if one.name == "warmup" else _cut(number)
    return replace(value, **cut)  # type: ignore[type-var]


def _cut(number: float) -> float:
    return float(Context(prec=DIGITS, rounding=ROUND_DOWN).create_decimal(Decimal(repr(number))))
