"""Laws that predict a decayed run's loss curve from those of others, by the learning rates alone.

Both have the same three terms, linear in (L₀, A, B) >= 0,

    L(t) = L₀ + A·S(t)^(−α) − B·D(t),        S(t) = Σ_{τ<=t} η_τ  (the warmup included),

and differ in D, what the decays since the warmup's end w have brought by step t:

    annealing    D = Σ_{i<=t} Σ_{w<k<=i} (η_{k−1} − η_k)·λ^{i−k},    Tissue 2024, arXiv:2408.11029
    multi-power  D = Σ_{w<k<=t} (η_{k−1} − η_k)·G(η_k^(−γ)·S_k(t)),  Luo 2025, arXiv:2503.12811
                 G(x) = 1 − (1 + Cx)^(−β),  S_k(t) = Σ_{k<=τ<=t} η_τ

A constant rate has D = 0 and says nothing of B: a fit needs one run that decays. It minimises a
Huber loss of the difference of log losses, both papers' choice, and a weak prior that is ours,
from the best of a grid of starts, in which the linear three are by non-negative least squares.
Needs scipy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anytrain.errors import UserError, missing_extra

Floats = NDArray[np.float64]

_HUBER = 1e-3  # of log loss: residuals above it count linearly
_EVENTS = 512  # decays that the multi-power law tells apart
_STARTS = 6  # of the grid, that are polished


@dataclass(frozen=True, eq=False)
class Rates:
    """The learning rate of every step, and the steps at which a loss is asked for."""

    per_step: Floats  # (T,), of steps 1 … T
    steps: NDArray[np.int64]  # (n,), from 1 to T

    def __post_init__(self) -> None:
        steps, length = self.steps, len(self.per_step)
        if len(steps) and not (steps.min() >= 1 and steps.max() <= length):
            raise ValueError(
                f"steps {steps.min()} to {steps.max()} of {length} learning rates; "
                f"1 to {length} are valid"
            )
        if not (np.isfinite(self.per_step).all() and (self.per_step >= 0).all()):
            raise ValueError("a learning rate is not a number from 0 on")

    @cached_property
    def sums(self) -> Floats:
        """S at every step, from 0: (T + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.per_step)])

    @cached_property
    def drops(self) -> Floats:
        """η_{k−1} − η_k of every step after the warmup, which ends at the first highest rate."""
        found = np.zeros_like(self.per_step)
        top = int(np.argmax(self.per_step)) if len(self.per_step) else 0
        found[top + 1 :] = -np.diff(self.per_step[top:])
        return found

    @cached_property
    def decays(self) -> bool:
        """Whether the rate has changed by the last of `steps`."""
        last = int(self.steps.max(initial=0))
        return bool((self.drops[:last] != 0).any())

    @cached_property
    def events(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Decays, neighbours taken together where there are many: (size, η, step, S before).

        A group of them has the mean of its η and of where it lies; (K,) each, K <= 512.
        """
        at = np.flatnonzero(self.drops)
        if not len(at):
            return (np.zeros(0),) * 4
        groups = np.array_split(at, min(len(at), _EVENTS))
        means = [
            (
                self.drops[group].sum(),
                self.per_step[group].mean(),
                group.mean() + 1.0,
                self.sums[group].mean(),
            )
            for group in groups
        ]
        size, rate, step, before = np.array(means).T
        return size, rate, step, before


class Law(Protocol):
    """D for given parameters, and where to look for them."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> tuple[str, ...]:
        """Of D; α comes before them in a fit."""
        ...

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]: ...

    @property
    def grid(self) -> tuple[tuple[float, ...], ...]:
        """Starting values of each."""
        ...

    @property
    def prior(self) -> tuple[tuple[float, float], ...]:
        """(centre, width) of each: one width off weighs as a log loss missed by 1e-3 does."""
        ...

    def drop(self, values: Sequence[float], rates: Rates) -> Floats:
        """D at every asked step (n,)."""
        ...


@dataclass(frozen=True)
class Annealing:
    """Tissue 2024: a decay works as momentum does, forgotten over 1/(1 − λ) steps."""

    name: str = "annealing"
    parameters: tuple[str, ...] = ("log10 memory",)  # memory = 1/(1 − λ), steps
    bounds: tuple[tuple[float, float], ...] = ((0.3, 5.0),)
    grid: tuple[tuple[float, ...], ...] = ((0.7, 1.2, 1.7, 2.2, 2.7, 3.2),)
    prior: tuple[tuple[float, float], ...] = ((2.5, 1.0),)  # λ of 0.99 to 0.999

    def drop(self, values: Sequence[float], rates: Rates) -> Floats:
        """S₂ by its recursion: m_i = λ·m_{i−1} + (η_{i−1} − η_i), S₂ = Σ m_i."""
        from scipy.signal import lfilter

        forget = 1.0 - 10.0 ** -values[0]  # λ
        momentum: Floats = lfilter([1.0], [1.0, -forget], rates.drops)
        found: Floats = np.cumsum(momentum)[rates.steps - 1]
        return found


@dataclass(frozen=True)
class MultiPower:
    """Luo 2025: a decay saturates by a power of the learning rates summed since.

    One short decay does not tell C, β and γ apart, and without a prior the law promises a longer
    one anything at all. Its centre is what the authors' repository lists for 25M, 100M and 400M.
    """

    name: str = "multi-power"
    parameters: tuple[str, ...] = ("log10 C", "beta", "gamma")
    bounds: tuple[tuple[float, float], ...] = ((-4.0, 4.0), (0.05, 2.0), (0.0, 1.5))
    grid: tuple[tuple[float, ...], ...] = ((-0.5, 0.5, 1.5), (0.3, 0.6, 1.0), (0.4, 0.7))
    prior: tuple[tuple[float, float], ...] = ((0.3, 0.5), (0.6, 0.15), (0.65, 0.15))

    def drop(self, values: Sequence[float], rates: Rates) -> Floats:
        """LD / B, its decays in at most 512 groups; a rate of 0 brings nothing by itself."""
        size, rate, step, before = rates.events
        scale, beta, gamma = 10.0 ** values[0], values[1], values[2]
        since = np.maximum(rates.sums[rates.steps][:, None] - before, 0.0)  # S_k(t), (n, K)
        with np.errstate(divide="ignore"):
            weight = np.where(rate > 0, rate, np.inf) ** -gamma  # (K,)
        saturated = 1.0 - (1.0 + scale * weight * since) ** -beta
        found: Floats = np.where(rates.steps[:, None] >= step, saturated, 0.0) @ size
        return found


LAWS: tuple[Law, ...] = (Annealing(), MultiPower())

# --- the fit ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measured:
    """A run: its learning rates and its losses where it was evaluated."""

    rates: Floats  # (T,) of steps 1 … T
    steps: NDArray[np.int64]  # (n,)
    losses: Floats  # nats/token (n,)


@dataclass(frozen=True)
class Fitted:
    """A law with its parameters."""

    law: Law
    floor: float  # L₀, nats/token
    scale: float  # A
    strength: float  # B (the C of arXiv:2408.11029)
    exponent: float  # α
    values: tuple[float, ...]  # of law.parameters
    error: float  # nats/token, root mean square over what was fitted

    def predict(self, rates: Floats, steps: NDArray[np.int64]) -> Floats:
        """Losses at `steps` of a run with these learning rates, nats/token (n,)."""
        known = Rates(rates, steps)
        curve = self.floor + self.scale * known.sums[steps] ** -self.exponent
        found: Floats = curve - self.strength * self.law.drop(self.values, known)
        return found


def require() -> None:
    """Raise the sentence with the pip command where scipy is not installed."""
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as absent:
        raise missing_extra("scipy", "report", "fitting a loss-curve law") from absent


def fit(law: Law, runs: Sequence[Measured]) -> Fitted:
    """The parameters that fit all runs best. UserError where none decays or there is too little."""
    require()
    known = [Rates(run.rates, run.steps) for run in runs]
    if not any(rates.decays for rates in known):
        raise UserError(f"{law.name}: no run decays; a law of decay needs one that does")
    losses = np.concatenate([run.losses for run in runs])
    needed = 4 + len(law.parameters)
    if len(losses) < needed:
        raise UserError(f"{law.name}: {len(losses)} losses; {needed} or more are valid")
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        raise UserError(f"{law.name}: a loss is not a number above 0")
    best = min(
        (_polish(law, known, losses, start) for start in _starts(law, known, losses)),
        key=lambda found: found[0],
    )[1]
    error = np.sqrt(np.mean((_curve(law, known, best) - losses) ** 2))
    floor, scale, strength, exponent, *values = (float(v) for v in best)
    return Fitted(law, floor, scale, strength, exponent, tuple(values), float(error))


def _terms(law: Law, known: Sequence[Rates], x: Sequence[float]) -> Floats:
    """(1, S^(−α), −D) of every loss (n, 3); x is α and the law's own."""
    power = np.concatenate([rates.sums[rates.steps] for rates in known]) ** -x[0]
    drop = np.concatenate([law.drop(x[1:], rates) for rates in known])
    return np.stack([np.ones_like(power), power, -drop], axis=1)


def _curve(law: Law, known: Sequence[Rates], x: Floats) -> Floats:
    found: Floats = _terms(law, known, list(x[3:])) @ x[:3]
    return found


def _starts(law: Law, known: Sequence[Rates], losses: Floats) -> list[Floats]:
    """The best few of the grid, with (L₀, A, B) by non-negative least squares."""
    from scipy.optimize import nnls

    found = []
    for values in product((0.2, 0.4, 0.7, 1.1), *law.grid):
        terms = _terms(law, known, values)
        size = np.abs(terms).max(axis=0) + 1e-300  # columns of like size
        linear, error = nnls(terms / size, losses)
        found.append((error, np.array([*(linear / size), *values])))
    found.sort(key=lambda item: item[0])
    return [start for _, start in found[:_STARTS]]


def _polish(
    law: Law, known: Sequence[Rates], losses: Floats, start: Floats
) -> tuple[float, Floats]:
    """Huber on log losses from one start: (cost, parameters)."""
    from scipy.optimize import least_squares

    logs = np.log(losses)

    def residuals(x: Floats) -> Floats:
        missed = np.log(np.maximum(_curve(law, known, x * size), 1e-6)) - logs
        return np.concatenate([missed, _HUBER * (x[4:] * size[4:] - centre) / width])

    centre, width = np.array(law.prior).T
    size = np.where(start > 0, start, 1.0)
    limits = [(0.0, np.inf)] * 3 + [(0.02, 3.0), *law.bounds]
    low, high = np.sort(np.array(limits) / size[:, None], axis=1).T
    begin = np.clip(start / size, low, high)
    done = least_squares(
        residuals, begin, bounds=(low, high), loss="huber", f_scale=_HUBER, max_nfev=300
    )
    return float(done.cost), np.asarray(done.x * size)
