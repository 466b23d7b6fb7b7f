"""What the kernels are asked for, and how each name is read from the moments they return.

A reading runs one kernel on a system of coordinates. It returns a table of raw second moments (M
moments in time, R columns) and the same of the means; every name is a linear form in the columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations as pairs_of
from typing import NamedTuple, Protocol

import numpy as np

from anytrain.rules import Uniform
from anytrain.theory import kernels
from anytrain.theory.along import Averaged, averaging_along
from anytrain.theory.problem import Array, Integers
from anytrain.theory.quadrature import System

LAST = "last"


class Walk(NamedTuple):
    """What every kernel needs beside the coordinates."""

    eta: Array  # (T,)
    batch: float
    noise: float  # σ²
    at: Integers  # (M,), rising
    limit: float  # Σ r·s from which on the risk has diverged


class Reading(Protocol):
    """One kernel, its inputs, and the columns that each name is read from."""

    columns: dict[str, Array]  # name -> coefficients (R,)
    doubt: (
        float  # the error of a compressed spectrum is at most so many times the two runs' distance
    )

    def run(self, system: System, walk: Walk, total: Array, mean: Array) -> int:
        """Fill both tables (M, R); 0, or the step of a divergence."""


@dataclass(frozen=True)
class ScheduleFree:
    """Schedule-Free SGD in place of SGD (arXiv:2405.15682): y = (1 − β)z + βx.

    The risk of y, where the gradient is taken, is called `last`, that of x, which is released,
    `schedule_free`, and that of z `fast`.
    """

    beta: float = 0.9
    averaging: Averaged = field(default_factory=Uniform)  # c in x ← x + c·(z − x)

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta = {self.beta}; 0 to 1 is valid")


class ScheduleFreeMoments:
    """The reading of Schedule-Free SGD: E[y²], E[z²] and E[x²].

    Its momentum oscillates in λ, so Gauss and Radau need not lie on two sides of the truth. On
    thousands of random spectra the error was at most 6 times their distance.
    """

    doubt = 30.0

    def __init__(self, optimizer: ScheduleFree, steps: int) -> None:
        self.columns = dict(zip((LAST, "fast", "schedule_free"), np.eye(3), strict=True))
        self._beta = optimizer.beta
        self._weight = averaging_along("averaging", optimizer.averaging, steps)

    def run(self, system: System, walk: Walk, total: Array, mean: Array) -> int:
        eta, batch, noise, at, limit = walk
        found: int = kernels.schedule_free(
            *system, eta, self._weight, self._beta, batch, noise, at, limit, total, mean
        )
        return found


class AverageMoments:
    """The reading of SGD with averages: columns s, C_k …, A_k …, D of the pairs asked for."""

    doubt = 1.0  # bracketed, see `quadrature`

    def __init__(
        self,
        rules: Mapping[str, Averaged],
        combinations: Mapping[str, Mapping[str, float]],
        steps: int,
    ) -> None:
        names = list(rules)
        _check_names(names, combinations)
        order = {name: k for k, name in enumerate(names)}
        pairs = sorted(
            {
                (order[one], order[two])
                for parts in combinations.values()
                for one, two in pairs_of([name for name in names if name in parts], 2)
            }
        )
        rho = [averaging_along(name, rule, steps) for name, rule in rules.items()]
        self._rho = np.stack(rho, axis=1) if rho else np.empty((steps, 0))
        self._pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self.columns = {name: self._form({name: 1.0}, order) for name in (LAST, *names)}
        self.columns |= {name: self._form(parts, order) for name, parts in combinations.items()}

    def _form(self, parts: Mapping[str, float], order: Mapping[str, int]) -> Array:
        """E[(Σ c_k ē_k)²] as coefficients of the columns."""
        count = len(order)
        form = np.zeros(1 + 2 * count + len(self._pairs))
        last = parts.get(LAST, 0.0)
        form[0] = last**2
        for name, k in order.items():
            form[1 + k] = 2.0 * last * parts.get(name, 0.0)
            form[1 + count + k] = parts.get(name, 0.0) ** 2
        names = list(order)
        for p, (k, j) in enumerate(self._pairs):
            product = parts.get(names[k], 0.0) * parts.get(names[j], 0.0)
            form[1 + 2 * count + p] = 2.0 * product
        return form

    def run(self, system: System, walk: Walk, total: Array, mean: Array) -> int:
        eta, batch, noise, at, limit = walk
        found: int = kernels.sgd(
            *system, eta, self._rho, self._pairs, batch, noise, at, limit, total, mean
        )
        return found


def _check_names(names: list[str], combinations: Mapping[str, Mapping[str, float]]) -> None:
    for name in (*names, *combinations):
        if name == LAST or (name in names and name in combinations):
            raise ValueError(f"the name {name!r} is taken; one that is used once is valid")
    for combined, parts in combinations.items():
        for name in parts:
            if name not in (LAST, *names):
                raise ValueError(
                    f"combination {combined!r} uses {name!r}; {', '.join((LAST, *names))} are valid"
                )
