"""How much each checkpoint weighs: a rule over spaced checkpoints, and the merges with names.

uniform                       equal weights
last:k=5                      the mean of the k newest: LAWA (arXiv:2209.14981)
spaced:n=10                   the mean of n evenly spaced ones: PMA (arXiv:2505.12082)
wsm:shape=sqrt                stands for a cooldown over the merged span (arXiv:2507.17634)
anytime_ema:f=25, …           any averaging rule of the trainer, by its mass
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, sin
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from anytrain import rules as rule_book
from anytrain.errors import UserError
from anytrain.grammar import build
from anytrain.rules import Rule, weights
from anytrain.schedules import Shape

Array = NDArray[np.float64]


class Mass(Protocol):
    """Weights of k checkpoints at the moments t, in steps: (k,), summing to one."""

    timed: ClassVar[bool]  # whether the moments matter, which then increase; else the order alone

    def __call__(self, t: Array, /) -> Array: ...


@dataclass(frozen=True)
class Equal:
    """1/k each."""

    timed: ClassVar[bool] = False

    def __call__(self, t: Array, /) -> Array:
        return np.full(t.size, 1.0 / t.size)


@dataclass(frozen=True)
class Last:
    """1/k for each of the k newest."""

    timed: ClassVar[bool] = False
    k: int

    def __post_init__(self) -> None:
        _at_least_one("k", self.k)

    def __call__(self, t: Array, /) -> Array:
        if self.k > t.size:
            raise UserError(f"last:k={self.k} of {t.size} inputs; at most {t.size} is valid")
        out = np.zeros(t.size)
        out[-self.k :] = 1.0 / self.k
        return out


@dataclass(frozen=True)
class Spaced:
    """1/n for each of n that are as far apart as they can be evenly, up to the newest."""

    timed: ClassVar[bool] = False
    n: int

    def __post_init__(self) -> None:
        _at_least_one("n", self.n)

    def __call__(self, t: Array, /) -> Array:
        if self.n > t.size:
            raise UserError(f"spaced:n={self.n} of {t.size} inputs; at most {t.size} is valid")
        out = np.zeros(t.size)
        apart = (t.size - 1) // max(self.n - 1, 1)  # in their order
        out[t.size - 1 - apart * np.arange(self.n)] = 1.0 / self.n
        return out


@dataclass(frozen=True)
class Wsm:
    """Stands for a cooldown of a shape over the merged span (arXiv:2507.17634).

    A cooldown that scales the updates of interval i = 1 … k, between two checkpoints, by the mean
    w_i of its shape over that interval leads to

        θ₀ + Σ w_i (θ_i − θ_{i−1}) = (1 − w₁) θ₀ + Σ_{0<j<k} (w_j − w_{j+1}) θ_j + w_k θ_k,

    the trunk's gradients taken as they were.
    """

    timed: ClassVar[bool] = True
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.shape not in _INTEGRAL:
            raise ValueError(f"shape = {self.shape!r}; {', '.join(_INTEGRAL)} are valid")

    def __call__(self, t: Array, /) -> Array:
        if t.size < 2:
            raise UserError("wsm merges a span of checkpoints; 2 inputs or more are valid")
        x = (t - t[0]) / (t[-1] - t[0])
        integral = np.array([_INTEGRAL[self.shape](value) for value in x.tolist()])
        mean = np.diff(integral) / np.diff(x)  # w_i (k,)
        return np.concatenate([[1.0], mean]) - np.concatenate([mean, [0.0]])


# ∫₀ˣ of `schedules.decay` with final = 0
_INTEGRAL: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x - x * x / 2,
    "sqrt": lambda x: x - 2 / 3 * x**1.5,
    "cosine": lambda x: (x + sin(pi * x) / pi) / 2,
    "square": lambda x: x - x**3 / 3,
}


@dataclass(frozen=True)
class ByRule:
    """A rule's mass, summed over the steps since the previous checkpoint.

    The first stands for everything up to it, the initial weights included.
    """

    timed: ClassVar[bool] = True
    rule: Rule

    def __call__(self, t: Array, /) -> Array:
        last = int(np.floor(t[-1]))
        mass = weights(self.rule, last)  # one entry a step, 0 … T
        ends = np.concatenate([np.floor(t[:-1]).astype(int), [last]])
        summed = np.cumsum(mass)[ends]
        return np.diff(summed, prepend=0.0) / summed[-1]


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}; 1 or more is valid")


KINDS: dict[str, type] = {"uniform": Equal, "last": Last, "spaced": Spaced, "wsm": Wsm}


def mass(spec: str, tokens_per_step: float | None = None) -> Mass:
    """The weighing a spec describes: `uniform`, `last:k=5`, `anytime_ema:f=25`, …"""
    kind, _, parameters = spec.partition(":")
    if kind == "uniform" and parameters:  # uniform:start=… is the trainer's rule, by its steps
        return ByRule(rule_book.rule(spec, tokens_per_step))
    found: Any = build(spec, {**rule_book.KINDS, **KINDS}, tokens_per_step)
    named: bool = type(found) in KINDS.values()
    return found if named else ByRule(found)


def weigh(found: Mass, t: Sequence[float]) -> Array:
    """The weights of checkpoints at the moments t, which have to increase if they matter."""
    moments = np.asarray(t, dtype=np.float64)
    if found.timed and (np.diff(moments) <= 0).any():
        raise UserError(
            f"the inputs are at steps {[float(x) for x in moments]}; each later than the one "
            "before is valid"
        )
    return found(moments)
