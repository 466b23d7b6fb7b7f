"""Averaging rules as functions of the step: t -> ρ(t) in w̄ ← w̄ + ρ(t)·(w − w̄).

t is progress in optimizer steps after the update (1 after the first); Δt is how much the update
advanced it, 1 unless the batch size changed. ρ = 1 means that the average is the weights.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import expm1, isfinite, log, sqrt
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from anytrain.grammar import Spec, Steps, build, describe

if TYPE_CHECKING:  # numpy is loaded by `weights` alone: a verb that prints a status needs none
    import numpy as np
    from numpy.typing import NDArray


@runtime_checkable
class Rule(Protocol):
    """Anything callable from progress (t, Δt), 0 < Δt <= t, to ρ in [0, 1]."""

    def __call__(self, t: float, dt: float = 1.0, /) -> float: ...


@dataclass(frozen=True)
class AnytimeEma:
    """ρ = 1 − 2^(−f·Δt/(t + 1)): half-life about t/f, a fixed part of the run (arXiv:2602.03702).

    Close to weights ∝ s^(f·ln 2 − 1). It keeps the starting point in the average for a while.

    Examples:
        >>> AnytimeEma(f=1)(1), round(AnytimeEma(f=25)(999), 4)
        (0.2928932188134524, 0.0172)
    """

    f: float  # half-lives a run length

    def __post_init__(self) -> None:
        if not (isfinite(self.f) and self.f > 0):
            raise ValueError(f"f = {self.f}; above 0 is valid (the raw weights are called raw)")

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        keep: float = 2.0 ** (-self.f * dt / (t + 1.0))
        return 1.0 - keep


@dataclass(frozen=True)
class Polynomial:
    """ρ = min(1, (p + 1)·Δt/(t + shift)): weights about s^p (arXiv:1212.1824).

    At the default shift = p the weights are ∝ Γ(s + p)/Γ(s), exactly s^p for p = 0 and 1. At
    shift 0 with p = m − 1 it is the "window m" of arXiv:2602.03702's synthetic experiment.
    """

    p: float
    shift: float | None = None  # steps; None is p

    def __post_init__(self) -> None:
        if not (isfinite(self.p) and self.p >= 0):
            raise ValueError(f"p = {self.p}; 0 or more is valid")
        if self.shift is not None and not (isfinite(self.shift) and self.shift >= 0):
            raise ValueError(f"shift = {self.shift}; 0 or more steps are valid")

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        shift = self.p if self.shift is None else self.shift
        return min(1.0, (self.p + 1.0) * dt / (t + shift))


@dataclass(frozen=True)
class PowerEma:
    """1 − ρ = (1 − Δt/t)^(p + 1): weights ∝ s^p, of a width relative to t (arXiv:2312.02696).

    σ_rel = √((p + 1) / ((p + 2)²(p + 3))) is the standard deviation of s/t under the weights.
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel <= sqrt(1 / 12):
            raise ValueError(
                f"sigma_rel = {self.sigma_rel}; above 0 and at most {sqrt(1 / 12):.4f} "
                "(a uniform average) is valid"
            )

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        keep: float = (1.0 - dt / t) ** (power_exponent(self.sigma_rel) + 1.0)
        return 1.0 - keep


@lru_cache
def power_exponent(sigma_rel: float) -> float:
    """p >= 0 with σ_rel² = (p + 1)/((p + 2)²(p + 3)), by bisection: σ_rel falls in p."""
    low, high = 0.0, 1.0 / sigma_rel + 1.0
    for _ in range(200):
        p = 0.5 * (low + high)
        wider = (p + 1.0) / ((p + 2.0) ** 2 * (p + 3.0)) > sigma_rel**2
        low, high = (p, high) if wider else (low, p)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class Uniform:
    """ρ = Δt/(t − start): the mean of every iterate after `start`; the weights until then."""

    start: Steps = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.start) and self.start >= 0):
            raise ValueError(f"start = {self.start}; 0 or more steps are valid")

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        return min(1.0, dt / (t - self.start)) if t > self.start else 1.0


@dataclass(frozen=True)
class Ema:
    """ρ = (1 − β^Δt)/(1 − β^t), β = 2^(−1/half_life): bias-corrected (arXiv:1412.6980, section 3).

    A fixed half-life does not grow with the run: horizon-free rules are the ones above.
    """

    half_life: Steps

    def __post_init__(self) -> None:
        if not (isfinite(self.half_life) and self.half_life > 0):
            raise ValueError(f"half_life = {self.half_life}; above 0 steps is valid")

    def __call__(self, t: float, dt: float = 1.0, /) -> float:
        rate = log(2.0) / self.half_life  # expm1: 1 − β^t is not lost for a long half-life
        return expm1(-rate * dt) / expm1(-rate * t)


KINDS: dict[str, type] = {
    "anytime_ema": AnytimeEma,
    "polynomial": Polynomial,
    "power_ema": PowerEma,
    "uniform": Uniform,
    "ema": Ema,
}

DEFAULTS: dict[str, Rule] = {
    "ema6.25": AnytimeEma(6.25),
    "ema12.5": AnytimeEma(12.5),
    "ema25": AnytimeEma(25),
    "ema50": AnytimeEma(50),
    "ema100": AnytimeEma(100),
}


def rule(spec: Spec, tokens_per_step: float | None = None) -> Rule:
    """The rule a spec describes, such as `anytime_ema:f=25`."""
    built: Rule = build(spec, KINDS, tokens_per_step)
    return built


def spec(value: Rule) -> str:
    """The text that `rule` turns back into an equal object."""
    return describe(value, KINDS)


def named(given: Mapping[str, Rule | str] | None) -> dict[str, Rule]:
    """Rules, some of them as text, by name; the default ones where none are given."""
    found = DEFAULTS if given is None else given
    return {name: rule(it) if isinstance(it, str) else it for name, it in found.items()}


def require_same(rules: Mapping[str, Rule], saved: Mapping[str, str], where: str) -> None:
    """ValueError where averages were saved under other names or rules than these."""
    mine = {name: spec(it) for name, it in rules.items()}
    if dict(saved) != mine:
        raise ValueError(
            f"{where} holds averages {dict(saved)}, here are {mine}; the same are valid"
        )


def weights(rule: Rule, steps: int | Iterable[float], start: float = 0.0) -> "NDArray[np.float64]":
    """The weight of every iterate in the average: (T + 1,), float64, summing to one.

    Entry 0 is the starting point, entry s the iterate after update s:

        c_s = ρ(t_s) ∏_{u > s} (1 − ρ(t_u)),   c_0 = ∏_u (1 − ρ(t_u)).

    `steps` is T for unit steps, or the increasing progress t after each update; `start` is the
    progress at which the average was begun as a copy of the weights.

    Examples:
        >>> weights(Polynomial(1), 4).round(3).tolist()
        [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    import numpy as np

    if isinstance(steps, int):
        t = start + np.arange(1, steps + 1, dtype=np.float64)
    else:
        t = np.asarray(list(steps), dtype=np.float64)
    dt = np.diff(t, prepend=start)
    if np.any(dt <= 0):
        raise ValueError(f"steps = {t}; progress increasing from {start} is valid")
    rho = np.array([rule(a, b) for a, b in zip(t.tolist(), dt.tolist(), strict=True)])
    kept = np.cumprod((1.0 - rho)[::-1])[::-1]  # kept[s] = ∏_{u >= s} (1 − ρ_u)
    after = np.append(kept[1:], 1.0) if len(rho) else kept
    return np.concatenate([kept[:1] if len(rho) else np.ones(1), rho * after])
