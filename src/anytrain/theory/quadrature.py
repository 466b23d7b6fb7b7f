"""A spectrum of a million eigenvalues replaced by a hundred: Gauss quadrature of two measures.

The recursion of a coordinate is linear, so its second moment is

    s_i(t) = w*_i²·P_t(λ_i) + λ_i·N_t(λ_i),

where P_t is the decay of the start and N_t the noise that came in, the same functions for every
coordinate. The risk ½Σ λ_i s_i needs them only under the measures Σ λ_i w*_i² δ(λ_i) and
Σ λ_i² δ(λ_i). Within a bin of eigenvalues, n nodes integrate every polynomial of degree 2n − 1
exactly, whatever the measure.

P_t is a product of factors (1 − ηλ)² and N_t a positive sum of such products: while ηλ < 1 their
derivatives alternate in sign (the factor's η²λ²/B, which would disturb that, is small in every bin
that is compressed). For such functions Gauss quadrature is a lower bound and Gauss–Radau, with a
node at the lower end of the bin, an upper bound (Golub and Meurant 1994, theorems 3.2 and 3.3).
Every coefficient with which a coordinate acts on the others is positive, so the two runs bracket
the risk over the whole curve, averages included: the distance between them is the error bound.
"""

from functools import lru_cache
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numba import njit

from anytrain.theory.problem import Array, Regression, scale

NODES = 12  # a bin and measure; with RATIO, 1e-12 over the curve: experiments/0002-compression
RATIO = 4.0  # largest over smallest eigenvalue of a bin
FLAT = 4.0  # eigenvalues with 2λΣη below this share the last bin: P_t has hardly begun to fall


class System(NamedTuple):
    """Coordinates for the recursion: s ← g(λ)·s + (η²/B)(q + σ²)·h, q = Σ r·s, all (n,).

    Exact: one coordinate an eigenvalue, r = h = λ, s₀ = w*². Compressed: nodes of the target's
    measure have h = 0 and s₀ = 1, nodes of the noise's measure h = 1 and s₀ = 0.
    """

    eigenvalues: Array  # λ
    risk: Array  # r
    source: Array  # h
    start: Array  # s₀


def exact(problem: Regression) -> System:
    """One coordinate an eigenvalue."""
    eigenvalues = problem.eigenvalues
    return System(eigenvalues, eigenvalues, eigenvalues, problem.target_squared)


def compressed(problem: Regression, reach: float) -> tuple[System, System]:
    """A few nodes a bin: Gauss, which bounds the risk from below, and Radau, from above.

    `reach` is Σ η over the run: it says which eigenvalues are still flat.
    """
    spread = 2.0 * reach * scale(problem).largest / FLAT
    bins = ceil(log(spread) / log(RATIO)) if spread > 1 else 0
    return _compressed(problem, bins)


@lru_cache(maxsize=64)
def _compressed(problem: Regression, bins: int) -> tuple[System, System]:
    order = np.argsort(problem.eigenvalues, kind="stable")
    eigenvalues, target = problem.eigenvalues[order], problem.target_squared[order]
    edges = eigenvalues[-1] / RATIO ** np.arange(bins, 0, -1.0)
    cuts = [0, *np.searchsorted(eigenvalues, edges, side="right").tolist(), eigenvalues.size]
    systems: tuple[list[Array], list[Array]] = ([], [])  # (4, n) of the Gauss and the Radau rule
    for low, high in pairwise(cuts):
        x, w = eigenvalues[low:high], target[low:high]
        for kind, found in enumerate(systems):
            if x.size <= 2 * NODES:  # too few to be worth replacing
                found.append(np.stack([x, x, x, w]))
                continue
            nodes, masses = _rule(x, x * w, radau=kind == 1)
            found.append(np.stack([nodes, masses, 0 * nodes, 0 * nodes + 1]))
            nodes, masses = _rule(x, x * x, radau=kind == 1)
            found.append(np.stack([nodes, masses, 0 * nodes + 1, 0 * nodes]))
    lower, upper = (System(*np.concatenate(found, axis=1)) for found in systems)
    return lower, upper


def _rule(x: Array, masses: Array, *, radau: bool) -> tuple[Array, Array]:
    """Nodes and masses that stand for Σ masses·δ(x), x rising (Golub and Welsch 1969)."""
    positive = masses > 0
    if not positive.all():
        x, masses = x[positive], masses[positive]
    if np.count_nonzero(np.diff(x)) < NODES:  # no more places than nodes: they stay
        return x, masses
    centre, half = 0.5 * (x[0] + x[-1]), 0.5 * (x[-1] - x[0])
    alpha, beta = _stieltjes((x - centre) / half, masses)
    jacobi = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
    if radau:  # the last entry such that −1, the lower end, is an eigenvalue (Golub 1973)
        unit = np.zeros(NODES - 1)
        unit[-1] = beta[-1] ** 2
        jacobi[-1, -1] = np.linalg.solve(jacobi[:-1, :-1] + np.eye(NODES - 1), unit)[-1] - 1.0
    nodes, vectors = np.linalg.eigh(jacobi)
    return centre + half * nodes, masses.sum() * vectors[0] ** 2


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _stieltjes(y: Array, masses: Array) -> tuple[Array, Array]:
    """α (n,) and β (n − 1,) of the polynomials orthonormal under Σ masses·δ(y), y in [−1, 1].

    β_{k+1} p_{k+1} = (y − α_k) p_k − β_k p_{k−1}, p₀ constant.
    """
    alpha, beta = np.empty(NODES), np.empty(NODES)
    before, now, scale, norm = np.zeros_like(y), np.ones_like(y), 0.0, masses.sum()
    for k in range(NODES):
        size, first = 1.0 / np.sqrt(norm), 0.0
        for i in range(y.shape[0]):
            now[i] *= size
            first += masses[i] * now[i] * now[i] * y[i]
        alpha[k], norm = first, 0.0
        for i in range(y.shape[0]):
            following = (y[i] - first) * now[i] - scale * before[i]
            before[i] = now[i]
            now[i] = following
            norm += masses[i] * following * following
        scale = beta[k] = np.sqrt(norm)
    return alpha, beta[:-1]
