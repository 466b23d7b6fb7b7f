"""Learning rates as functions of the step: t -> lr(t).

t is progress in optimizer steps at the reference batch: 1 at the first update, real-valued when
the batch size changes. A schedule never looks at the end of the run, except the horizon-bound
baselines, which are a type of their own (`HorizonBound`) and raise `BeyondHorizon` past theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, isfinite, pi, sqrt
from typing import Literal, Protocol, get_args, runtime_checkable

from anytrain.grammar import Spec, Steps, build, describe


@runtime_checkable
class Schedule(Protocol):
    """Anything callable from progress t (steps, t >= 0) to a learning rate."""

    def __call__(self, t: float, /) -> float: ...


class BeyondHorizon(ValueError):
    """A horizon-bound schedule was asked for a rate past its horizon."""


def warmup_fraction(t: float, warmup: float, initial: float) -> float:
    """r₀ + (1 − r₀)·t/w: the fraction of the peak during warmup, 0 <= t < w."""
    return initial + (1.0 - initial) * t / warmup


def _check(peak: float, warmup: float, initial: float) -> None:
    if not (isfinite(peak) and peak > 0):
        raise ValueError(f"peak = {peak}; a learning rate above 0 is valid")
    if not (isfinite(warmup) and warmup >= 0):
        raise ValueError(f"warmup = {warmup}; a number of steps, 0 or more, is valid")
    if not 0 <= initial <= 1:
        raise ValueError(f"initial = {initial}; a fraction of the peak, 0 to 1, is valid")


@dataclass(frozen=True)
class Constant:
    """Linear warmup from initial·peak, then `peak` for ever.

    Examples:
        >>> lr = Constant(peak=3e-3, warmup=1000)
        >>> lr(0), lr(500), lr(10**9)
        (0.0, 0.0015, 0.003)
    """

    peak: float  # learning rate
    warmup: Steps = 0.0
    initial: float = 0.0  # fraction of the peak at t = 0

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, self.initial)

    def __call__(self, t: float, /) -> float:
        if t < self.warmup:
            return self.peak * warmup_fraction(t, self.warmup, self.initial)
        return self.peak


@dataclass(frozen=True)
class Power:
    """Warmup, then peak·(α / (t − w + α))^γ for ever (arXiv:2602.03702, Corollary 1, offset).

    γ = max(1 − a/b, 0) is minimax for a linear regression of capacity a and source b.
    """

    peak: float  # learning rate at t = warmup
    warmup: Steps
    exponent: float  # γ
    offset: Steps  # α; larger stays near the peak for longer
    initial: float = 0.0  # fraction of the peak at t = 0

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, self.initial)
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent = {self.exponent}; 0 to 1 is valid")
        if not (isfinite(self.offset) and self.offset > 0):
            raise ValueError(f"offset = {self.offset}; a number of steps above 0 is valid")

    def __call__(self, t: float, /) -> float:
        if t < self.warmup:
            return self.peak * warmup_fraction(t, self.warmup, self.initial)
        decay: float = (self.offset / (t - self.warmup + self.offset)) ** self.exponent
        return self.peak * decay


@dataclass(frozen=True)
class InverseSqrt:
    """Warmup, then peak·√(α / (t − w + α)) for ever (arXiv:2602.03702).

    Examples:
        >>> lr = InverseSqrt(peak=3e-3, warmup=1000, offset=20_000)
        >>> lr(500), lr(1000), lr(61_000)
        (0.0015, 0.003, 0.0015)
    """

    peak: float  # learning rate at t = warmup
    warmup: Steps
    offset: Steps  # α; larger stays near the peak for longer
    initial: float = 0.0  # fraction of the peak at t = 0

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, self.initial)
        if not (isfinite(self.offset) and self.offset > 0):
            raise ValueError(f"offset = {self.offset}; a number of steps above 0 is valid")

    def __call__(self, t: float, /) -> float:
        if t < self.warmup:
            return self.peak * warmup_fraction(t, self.warmup, self.initial)
        return self.peak * sqrt(self.offset / (t - self.warmup + self.offset))


# --- baselines that know their end -----------------------------------------------------------

Shape = Literal["linear", "sqrt", "cosine", "square"]

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1.0 - x,
    "sqrt": lambda x: 1.0 - sqrt(x),
    "cosine": lambda x: 0.5 * (1.0 + cos(pi * x)),
    "square": lambda x: 1.0 - x * x,
}


def decay(shape: Shape, x: float, final: float) -> float:
    """α + (1 − α)·s(x): 1 at x = 0 and exactly α at x = 1 (shapes: arXiv:2405.18392)."""
    return final + (1.0 - final) * _SHAPES[shape](x)


@dataclass(frozen=True, kw_only=True)
class HorizonBound:
    """A schedule that has to know when the run ends. It cannot be extended, only branched from."""

    horizon: Steps

    def within(self, t: float) -> float:
        """`t`, if the schedule reaches that far; raises BeyondHorizon if not."""
        if t > self.horizon:
            raise BeyondHorizon(
                f"step {t:g} lies beyond the horizon of {self.horizon:g} steps that "
                f"{type(self).__name__} was planned for; train with a schedule without a horizon "
                "and fork a cooldown where you want a decayed model"
            )
        return t

    def __call__(self, t: float, /) -> float:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Planned(HorizonBound):
    """What the planned schedules share: a peak, a warmup, a final fraction."""

    peak: float  # learning rate
    warmup: Steps = 0.0
    final: float = 0.0  # α, fraction of the peak at t = horizon
    initial: float = 0.0  # fraction of the peak at t = 0

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, self.initial)
        if not 0 <= self.final <= 1:
            raise ValueError(f"final = {self.final}; a fraction of the peak, 0 to 1, is valid")
        if not self.warmup < self.horizon < inf:
            raise ValueError(
                f"horizon = {self.horizon:g} steps does not exceed warmup = {self.warmup:g}; "
                "a finite horizon after the warmup is valid"
            )

    def __call__(self, t: float, /) -> float:
        if self.within(t) < self.warmup:
            return self.peak * warmup_fraction(t, self.warmup, self.initial)
        return self.peak * self.fraction(t)

    def fraction(self, t: float) -> float:
        """lr(t) / peak after the warmup."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Cosine(_Planned):
    """α + (1 − α)/2·(1 + cos(π(t − w)/(T − w))) of the peak (arXiv:1608.03983)."""

    def fraction(self, t: float) -> float:
        return decay("cosine", (t - self.warmup) / (self.horizon - self.warmup), self.final)


@dataclass(frozen=True, kw_only=True)
class Linear(_Planned):
    """(1 − α)(T − t)/(T − w) + α of the peak (arXiv:2310.07831)."""

    def fraction(self, t: float) -> float:
        return decay("linear", (t - self.warmup) / (self.horizon - self.warmup), self.final)


@dataclass(frozen=True, kw_only=True)
class WSD(_Planned):
    """Warmup, stable, then a decay over the last `decay` of the horizon (arXiv:2404.06395)."""

    decay: float = 0.1  # fraction of the horizon
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_shape(self.shape)
        if not 0 < self.decay <= 1 - self.warmup / self.horizon:
            raise ValueError(
                f"decay = {self.decay}; a fraction above 0 that begins after the warmup, "
                f"at most {1 - self.warmup / self.horizon:g}, is valid"
            )

    def fraction(self, t: float) -> float:
        start = self.horizon * (1.0 - self.decay)
        if t <= start:
            return 1.0
        return decay(self.shape, (t - start) / (self.horizon - start), self.final)


@dataclass(frozen=True, kw_only=True)
class Cooldown(HorizonBound):
    """A branch of any trunk: its own rate up to `start`, then decayed to final·trunk(start)."""

    trunk: Schedule
    start: Steps  # the horizon is where it ends
    shape: Shape = "sqrt"
    final: float = 0.0  # α, fraction of the rate at `start`

    def __post_init__(self) -> None:
        _check_shape(self.shape)
        if not 0 <= self.final <= 1:
            raise ValueError(f"final = {self.final}; a fraction of the rate, 0 to 1, is valid")
        if not 0 <= self.start < self.horizon < inf:
            raise ValueError(
                f"start = {self.start:g}; a step from 0 to below horizon = {self.horizon:g} "
                "is valid"
            )
        if isinstance(self.trunk, HorizonBound):
            raise ValueError(
                f"trunk = {self.trunk!r} has a horizon of its own; a cooldown branches from a "
                "schedule without one"
            )

    def __call__(self, t: float, /) -> float:
        if self.within(t) <= self.start:
            return self.trunk(t)
        x = (t - self.start) / (self.horizon - self.start)
        return self.trunk(self.start) * decay(self.shape, x, self.final)


def _check_shape(shape: str) -> None:
    if shape not in _SHAPES:
        raise ValueError(f"shape = {shape!r}; {', '.join(get_args(Shape))} are valid")


KINDS: dict[str, type] = {
    "constant": Constant,
    "inverse_sqrt": InverseSqrt,
    "power": Power,
    "cosine": Cosine,
    "linear": Linear,
    "wsd": WSD,
    "cooldown": Cooldown,
}


def schedule(spec: Spec, tokens_per_step: float | None = None) -> Schedule:
    """The schedule a spec describes, such as `inverse_sqrt:peak=3e-3,warmup=5000-steps,…`."""
    built: Schedule = build(spec, KINDS, tokens_per_step)
    return built


def spec(value: Schedule) -> str:
    """The text that `schedule` turns back into an equal object."""
    return describe(value, KINDS)


def peak(value: Schedule) -> float | None:
    """The peak rate of a schedule or of its trunk; None where a user's class names none."""
    found = getattr(getattr(value, "trunk", value), "peak", None)
    return float(found) if found is not None else None


def rate(value: Schedule, before: float, after: float) -> float:
    """The learning rate of the step that takes t from `before` to `after`.

    A horizon need not fall on a step: the one that reaches it is the last and has the final rate.
    """
    end = horizon(value)
    return value(after if end is None or not before < end < after else end)


def horizon(value: Schedule) -> float | None:
    """Where a schedule ends, in steps; None for one that never does."""
    return value.horizon if isinstance(value, HorizonBound) else None
