"""How sure the difference of two arms is: over seeds, and over seeds and held-out sequences.

Over seeds, the differences d_i of S pairs of runs that share a seed are a sample of independent
values: the mean ± t(S − 1)·√(Σ(d_i − d̄)²/(S − 1)/S), given these held-out sequences.

With the loss of every sequence, d_ij is seed i's difference on sequence j, two crossed random
effects and a rest, all independent, of means zero:

    d_ij = μ + a_i + b_j + e_ij,      var a = σ_a², var b = σ_b², var e = σ_e².

The grand mean has Var(d̄) = σ_a²/S + σ_b²/N + σ_e²/(SN). The mean squares

    A = N Σ_i (d̄_i· − d̄)²/(S − 1)                          E[A] = σ_e² + N σ_a²
    B = S Σ_j (d̄_·j − d̄)²/(N − 1)                          E[B] = σ_e² + S σ_b²
    E = Σ_ij (d_ij − d̄_i· − d̄_·j + d̄)²/((S − 1)(N − 1))    E[E] = σ_e²

give the unbiased (A + B − E)/(SN). A component estimated below zero is zero: A and B are held to
at least E. The sum of mean squares is taken as a multiple of χ² with the degrees of freedom that
match its variance, a mean square M on k degrees having 2·E[M]²/k (Satterthwaite 1946):

    ν = (A + B − E)² / (A²/(S − 1) + B²/(N − 1) + E²/((S − 1)(N − 1))),   at least min(S, N) − 1.

With two or three seeds ν is too large where σ_a² rules (coverage 0.89 and 0.93 by simulation), as
A is then nearly all of the variance and hardly known. A second level cannot make a mean surer, so
the interval is the one over seeds alone where that is wider.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from anytrain.compare.student import quantile
from anytrain.words import signed

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it is with probability `LEVEL`; from one seed there is no interval."""

    mean: float  # nats/token
    seeds: int
    error: float | None = None  # standard error of the mean, nats/token
    freedom: float | None = None  # degrees of freedom of `error`

    @property
    def half(self) -> float | None:
        """Half the width."""
        if self.error is None or self.freedom is None:
            return None
        return self.error * quantile(0.5 + LEVEL / 2, self.freedom)

    @property
    def low(self) -> float | None:
        half = self.half
        return None if half is None else self.mean - half

    @property
    def high(self) -> float | None:
        half = self.half
        return None if half is None else self.mean + half

    @property
    def sure(self) -> bool:
        """Whether zero is outside."""
        half = self.half
        return half is not None and abs(self.mean) > half

    def text(self, digits: int = 4, scale: float = 1.0) -> str:
        """+0.0031 (−0.0010 to +0.0072), or what is known from one seed."""
        mean = signed(scale * self.mean, digits)
        if self.low is None or self.high is None:
            return f"{mean} (one seed, no interval)"
        return f"{mean} ({signed(scale * self.low, digits)} to {signed(scale * self.high, digits)})"

    def around(self, digits: int = 4, scale: float = 1.0, *, sign: bool = True) -> str:
        """+0.0031 ± 0.0041; `sign` False, of what is no difference: 0.0031 ± 0.0041."""
        mean = signed(scale * self.mean, digits)
        mean = mean if sign else mean.removeprefix("+")
        return mean if self.half is None else f"{mean} ± {scale * self.half:.{digits}f}"


def over_seeds(differences: Sequence[float]) -> Interval:
    """The paired-t interval of one difference a seed."""
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"one difference a seed is valid, not an array of {values.shape}")
    mean, seeds = float(values.mean()), len(values)
    if seeds == 1:
        return Interval(mean, 1)
    return Interval(mean, seeds, sqrt(float(values.var(ddof=1)) / seeds), seeds - 1.0)


def over_sequences(differences: NDArray[np.floating]) -> Interval:
    """The interval of seeds × sequences of differences (S, N) as crossed random effects."""
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or not d.size:
        raise ValueError(f"seeds × sequences is valid, not an array of {d.shape}")
    (seeds, count), mean = d.shape, float(d.mean())
    if seeds < 2 or count < 2:
        return Interval(mean, seeds)
    rows, columns = d.mean(axis=1), d.mean(axis=0)
    rest = d - rows[:, None] - columns[None, :] + mean
    e = float(np.square(rest).sum()) / ((seeds - 1) * (count - 1))
    a = max(count * float(rows.var(ddof=1)), e)
    b = max(seeds * float(columns.var(ddof=1)), e)
    total = a + b - e
    if total == 0:
        return Interval(mean, seeds, 0.0, float(min(seeds, count) - 1))
    spread = a**2 / (seeds - 1) + b**2 / (count - 1) + e**2 / ((seeds - 1) * (count - 1))
    freedom = max(total**2 / spread, float(min(seeds, count) - 1))
    crossed = Interval(mean, seeds, sqrt(total / (seeds * count)), freedom)
    return max(crossed, over_seeds(list(rows)), key=lambda found: found.half or 0.0)
