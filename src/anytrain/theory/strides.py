"""The risk in long strides: a million steps in a few milliseconds, to about 1e-4, for searches.

`simulate` takes every step. Here a stride takes m of them, m growing in proportion to the steps
before it, with the recursions of `kernels` summed over it in closed form. With the rate η of its
middle, f = 1 − ηλ and g = f² + η²λ²/B, the step j of a stride adds what it would have added, taken
as linear in j:

    s_m = g^m s_0 + h Σ_j g^(m−j) F_j,      F_j = (η_j·η/B)(q + σ²)

η_j·η and not η_j²: where many steps are forgotten within a stride, s follows F/(1 − g) ≈ F/(2ηλ),
which then holds at its end for the rate η_m of the end. An average keeps K = ∏(1 − ρ_j) of itself
and takes c_j = c_m κ^(m−j) of step j, Σ c_j = 1 − K:

    C_m = (ρ_m/ρ_0) (κf)^m C_0 + c_m Σ_j (κf)^(m−j) s_j·η/η_j
    D_m = K K' D_0 + Σ_j (κκ')^(m−j) Y_j,   Y_j = c_m C'_j + c'_m C_j − c_m c'_m s_j

D is the cross moment of two averages, A = D of one with itself. A stride of one step is exact, so
the first steps are. The error falls with the square of `FRACTION`; a corner of ρ within a stride,
the start of a tail average, costs more. `simulate` is the slow twin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit

from anytrain.rules import Rule
from anytrain.schedules import HorizonBound, Schedule
from anytrain.theory.problem import Array, Integers, Regression, stability_limit
from anytrain.theory.quadrature import Mesh, System, compressed

FRACTION = 0.02  # of the steps so far, and of those to the horizon, that a stride takes
NODES = 6  # a bin and measure: a spectrum good to 1e-5
GROWTH = 10.0  # a risk so many times that of the start, or the noise: no schedule to search among


@dataclass(frozen=True)
class Strides:
    """A problem prepared for many schedules of at most `steps` steps."""

    system: System
    noise: float  # σ²
    batch: float
    fraction: float = FRACTION

    @classmethod
    def of(
        cls,
        problem: Regression,
        steps: int,
        batch: float = 1.0,
        *,
        fastest: float = 1.0,
        fraction: float = FRACTION,
    ) -> "Strides":
        """For schedules with a Σ η of at most `fastest` times that of the stability limit."""
        rates = np.full(steps, fastest * stability_limit(problem, batch))
        system, _ = compressed(problem, rates, Mesh(nodes=NODES))
        return cls(system, float(problem.noise), float(batch), fraction)

    def risk(self, schedule: Schedule, rule: Rule | None, at: tuple[int, ...]) -> Array:
        """½ Σ λ E[(w̄ − w*)²] at the rising steps `at` (M,); the live iterate's without a rule.

        Infinite from where the risk first exceeds GROWTH times that of the start.
        """
        rules = [] if rule is None else [rule]
        return self._run(schedule, rules, np.zeros((len(rules), 2), np.int64), at)[:, -1]

    def moments(self, schedule: Schedule, rules: Sequence[Rule], at: tuple[int, ...]) -> Array:
        """½ Σ λ E[(w̄_k − w*)(w̄_j − w*)] of every two averages: (M, K, K)."""
        count = len(rules)
        one, two = np.triu_indices(count)
        found = self._run(schedule, rules, np.stack([one, two], axis=1), at)[:, 1:]
        table = np.empty((len(at), count, count))
        table[:, one, two] = table[:, two, one] = found
        return table

    def _run(
        self, schedule: Schedule, rules: Sequence[Rule], pairs: Integers, at: tuple[int, ...]
    ) -> Array:
        horizon = schedule.horizon if isinstance(schedule, HorizonBound) else None
        ends, sizes, middles = _cut(at, horizon, self.fraction)
        rates = np.array([schedule(t) for t in ends.tolist()])
        middle_rates = np.array([schedule(t) for t in middles.tolist()])
        weights = [_weights(rule, ends, sizes, middles) for rule in rules]
        averaging = np.stack(weights, axis=2) if rules else np.empty((4, sizes.size, 0))
        out = np.full((len(at), 1 + len(pairs)), np.inf)
        limit = GROWTH * max(float(self.system.risk @ self.system.start), self.noise)
        _walk(
            *self.system, sizes, rates, middle_rates, averaging, pairs, self.batch, self.noise,
            limit, np.isin(ends[1:], at).astype(np.float64), out,
        )  # fmt: skip
        return out


@lru_cache(maxsize=256)
def _cut(at: tuple[int, ...], horizon: float | None, fraction: float) -> tuple[Array, Array, Array]:
    """Where strides end (L + 1,), their sizes m (L,) and their middle steps (L,)."""
    ends = [0]
    for stop in at:
        while ends[-1] < stop:
            t = ends[-1]
            near = t if horizon is None else min(t, horizon - t)
            ends.append(min(stop, t + max(1, int(fraction * near))))
    edges = np.array(ends, dtype=np.float64)
    sizes = np.diff(edges)
    return edges, sizes, edges[:-1] + 0.5 * (sizes + 1.0)


def _weights(rule: Rule, ends: Array, sizes: Array, middles: Array) -> Array:
    """K, ρ_m/ρ_0, c_m and κ of every stride: (4, L)."""
    rho = np.array([rule(t) for t in ends[1:].tolist()])
    middle = np.array([rule(t) for t in middles.tolist()])
    single = sizes == 1
    with np.errstate(all="ignore"):
        keep = np.exp(sizes * np.log1p(-middle))
        growth = np.where(single, 1.0, rho / np.concatenate([rho[:1], rho[:-1]]))
        kappa = np.where(single, 1.0, (keep / growth) ** (1.0 / sizes))
        flat = np.abs(1.0 - kappa) * sizes < 1e-9
        total = np.where(flat, sizes, (1.0 - kappa**sizes) / (1.0 - kappa))
    return np.stack([keep, np.where(single, keep, growth), (1.0 - keep) / total, kappa])


_FAST = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sums(e: float, m: float) -> tuple[float, float, float]:
    """1 − f^m, Σ_j f^(m−j) and Σ_j f^(m−j) (m−j)/m over j = 1 … m, f = 1 − e."""
    if m == 1.0:
        return e, 1.0, 0.0
    gone = -np.expm1(m * np.log1p(-e)) if e < 1.0 else 1.0 - (1.0 - e) ** m
    if abs(e) * m < 1e-3:  # what follows loses its digits
        return gone, gone / e if e != 0.0 else m, 0.5 * (m - 1.0) * (1.0 - e * (2.0 * m - 1.0) / 3)
    total = gone / e
    return gone, total, ((1.0 - e) * total - m * (1.0 - gone)) / (e * m)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _walk(
    lam: Array,  # λ (n,)
    risk: Array,  # r (n,)
    source: Array,  # h (n,)
    start: Array,  # s₀ (n,)
    sizes: Array,  # m (L,)
    rates: Array,  # η at the ends of the strides (L + 1,)
    middle_rates: Array,  # (L,)
    averaging: Array,  # K, ρ_m/ρ_0, c_m, κ of every stride and average (4, L, K)
    pairs: Integers,  # (P, 2)
    batch: float,
    noise: float,  # σ²
    limit: float,  # of Σ r·s
    reported: Array,  # 1 where the end of a stride is reported (L,)
    out: Array,  # ½ Σ r·[s, D_p…] (M, 1 + P)
) -> None:
    """Fill `out` as far as Σ r·s stays below `limit`."""
    n, count, p_count = lam.shape[0], averaging.shape[2], pairs.shape[0]
    s, before = start.copy(), np.empty(n)
    cross, cross_before = np.empty((count, n)), np.empty((count, n))
    second = np.empty((p_count, n))
    cross[:], second[:] = start, start
    q, slope, row = (risk * start).sum(), 0.0, 0
    for stride in range(sizes.shape[0]):
        m, rate, many = sizes[stride], middle_rates[stride], sizes[stride] > 1
        first = rates[stride] * rate / batch * (q - slope + noise)
        last = rates[stride + 1] * rate / batch * (q + slope * (m - 1.0) + noise)
        now = 0.0
        for i in range(n):
            x = rate * lam[i]
            gone, total, early = _sums(x * (2.0 - x * (1.0 + 1.0 / batch)), m)
            before[i] = s[i]
            s[i] = (1.0 - gone) * s[i] + source[i] * (last * total + (first - last) * early)
            now += risk[i] * s[i]
        up, up_before = 1.0, 1.0  # η/η_j at the two ends
        if many:
            up, up_before = rate / rates[stride + 1], rate / rates[stride]
        for k in range(count):
            _, growth, c, kappa = averaging[:, stride, k]
            for i in range(n):
                gone, total, early = _sums(1.0 - kappa + kappa * rate * lam[i], m)
                taken = up * s[i] * (total - early) + up_before * before[i] * early
                cross_before[k, i] = cross[k, i]
                cross[k, i] = growth * (1.0 - gone) * cross[k, i] + c * taken
        for p in range(p_count):
            keep, growth, c, kappa = averaging[:, stride, pairs[p, 0]]
            keep_2, growth_2, c_2, kappa_2 = averaging[:, stride, pairs[p, 1]]
            one, two = cross[pairs[p, 0]], cross[pairs[p, 1]]
            one_before, two_before = cross_before[pairs[p, 0]], cross_before[pairs[p, 1]]
            _, total, early = _sums(1.0 - kappa * kappa_2, m)
            for i in range(n):
                y = c * two[i] + c_2 * one[i] - c * c_2 * s[i]
                y_before = c * growth_2 * two_before[i] + c_2 * growth * one_before[i]
                y_before -= c * c_2 * before[i]
                second[p, i] = keep * keep_2 * second[p, i] + (total - early) * y + early * y_before
        slope, q = (now - q) / m, now
        if not q < limit:
            return
        if reported[stride] > 0:
            out[row, 0] = 0.5 * q
            for p in range(p_count):
                out[row, 1 + p] = 0.5 * (risk * second[p]).sum()
            row += 1
