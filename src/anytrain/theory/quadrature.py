"""A spectrum of a million eigenvalues replaced by a hundred: Gauss quadrature of two measures.

The recursion of a coordinate is linear, so its second moment is

    s_i(t) = w*_i²·P_t(λ_i) + λ_i·N_t(λ_i),

where P_t is the decay of the start and N_t the noise that came in, the same functions for every
coordinate. The risk ½Σ λ_i s_i needs them only under the measures Σ λ_i w*_i² δ(λ_i) and
Σ λ_i² δ(λ_i). Within a bin of eigenvalues, n nodes integrate every polynomial of degree 2n − 1
exactly, whatever the measure.

P_t is a product of factors (1 − ηλ)² and N_t a positive sum of such products: while ηλ < 1 their
derivatives alternate in sign (the factor's η²λ²/B, which would disturb that, is small in every bin
that is compressed; eigenvalues with a larger ηλ stay as they are). For such functions Gauss
quadrature is a lower bound and Gauss–Radau, with a node at the lower end of the bin, an upper
bound (Golub and Meurant 1994, theorems 3.2 and 3.3). Every coefficient with which a coordinate
acts on the others is positive, so the two runs bracket every second moment over the whole curve,
averages and their cross moments included: the distance between them is the error bound.
"""

from functools import lru_cache
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numba import njit

from anytrain.theory.problem import Array, Regression, scale

NEAR = 1e-10  # a node that far outside [−1, 1] is there by rounding


class Mesh(NamedTuple):
    """How finely a spectrum is cut; the choice is that of experiments/0002-compression."""

    nodes: int = 12  # a bin and measure
    ratio: float = 4.0  # largest over smallest eigenvalue of a bin
    flat: float = 4.0  # eigenvalues with 2λΣη below this share a bin: P_t has hardly begun to fall
    steep: float = 0.5  # eigenvalues with a larger ηλ at any step stay: there P_t may rise in λ


class System(NamedTuple):
    """Coordinates for the recursion: s ← g(λ)·s + (η²/B)(q + σ²)·h, q = Σ r·s, all (n,).

    Exact: one coordinate an eigenvalue, r = h = λ, s₀ = w*². Compressed: nodes of the target's
    measure have h = 0 and s₀ = 1, nodes of the noise's measure h = 1 and s₀ = 0.
    """

    eigenvalues: Array  # λ
    risk: Array  # r
    source: Array  # h
    start: Array  # s₀


class Nodes(NamedTuple):
    """A measure Σ masses·δ(places)."""

    places: Array
    masses: Array


def exact(problem: Regression) -> System:
    """One coordinate an eigenvalue."""
    eigenvalues = problem.eigenvalues
    return System(eigenvalues, eigenvalues, eigenvalues, problem.target_squared)


def compressed(problem: Regression, eta: Array, mesh: Mesh | None = None) -> tuple[System, System]:
    """A few nodes a bin: Gauss, which bounds the risk from below, and Radau, from above.

    The rates η of the run, (T,), say which eigenvalues are steep and which are still flat.
    """
    mesh = mesh or Mesh()
    spread = 2.0 * float(eta.sum()) * scale(problem).largest / mesh.flat
    bins = ceil(log(spread) / log(mesh.ratio)) if spread > 1 else 0
    steep = int(np.count_nonzero(problem.eigenvalues * eta.max() > mesh.steep))
    return _compressed(problem, bins, steep, mesh)


@lru_cache(maxsize=64)
def _compressed(problem: Regression, bins: int, steep: int, mesh: Mesh) -> tuple[System, System]:
    order = np.argsort(problem.eigenvalues, kind="stable")
    eigenvalues, target = problem.eigenvalues[order], problem.target_squared[order]
    edges = eigenvalues[-1] / mesh.ratio ** np.arange(bins, 0, -1.0)
    above = eigenvalues.size - steep
    inner = np.searchsorted(eigenvalues, edges, side="right")
    cuts = [0, *np.minimum(inner, above).tolist(), above, eigenvalues.size]
    systems: tuple[list[Array], list[Array]] = ([], [])  # (4, n) of the Gauss and the Radau rule
    for low, high in pairwise(cuts):
        x, w = eigenvalues[low:high], target[low:high]
        most = mesh.nodes if low < above else x.size
        both = zip(_rules(x, x * w, most), _rules(x, x * x, most), strict=True)
        for found, (decay, noise) in zip(systems, both, strict=True):
            if decay.places.size + noise.places.size < x.size:
                found.append(np.stack([*decay, 0 * decay.places, 0 * decay.places + 1]))
                found.append(np.stack([*noise, 0 * noise.places + 1, 0 * noise.places]))
            else:  # too few to be worth replacing
                found.append(np.stack([x, x, x, w]))
    lower, upper = (System(*np.concatenate(found, axis=1)) for found in systems)
    return lower, upper


def _rules(x: Array, masses: Array, most: int) -> tuple[Nodes, Nodes]:
    """Gauss and Gauss–Radau of Σ masses·δ(x), x rising, with at most so many nodes.

    The nodes are eigenvalues of the Jacobi matrix, their masses the squared first components of
    its eigenvectors (Golub and Welsch 1969).
    """
    positive = masses > 0
    if not positive.all():
        x, masses = x[positive], masses[positive]
    first = np.flatnonzero(np.diff(x, prepend=-np.inf))  # of every place
    if first.size <= most:  # no more places than nodes: they stay
        places = Nodes(x[first], np.add.reduceat(masses, first) if x.size else masses)
        return places, places
    half, whole = 0.5 * (x[-1] - x[0]), masses.sum()
    alpha, beta = _stieltjes((x - x[0]) / half - 1.0, masses / whole, most)
    gauss = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
    lower, upper = (
        Nodes(x[0] + half * (y + 1.0), whole * vectors[0] ** 2)
        for y, vectors in (np.linalg.eigh(gauss), _radau(gauss))
    )
    return lower, upper


def _radau(gauss: Array) -> tuple[Array, Array]:
    """Eigenvalues, of which the first is −1, and vectors of J with another last entry (Golub 1973).

    The entry is β²/pivot − 1, with the last of the pivots of the rest of J + 1. They are positive,
    since −1 lies below every node of a leading block; where a measure is all but exhausted they
    are lost in rounding, and fewer nodes, which bound it as well, have to do.
    """
    last = [-1.0]
    pivot = gauss[0, 0] + 1.0
    while len(last) < len(gauss) and pivot > 0:
        step = gauss[len(last), len(last) - 1] ** 2 / pivot
        pivot = gauss[len(last), len(last)] + 1.0 - step
        last.append(step - 1.0)
    for size in range(len(last), 1, -1):
        jacobi = gauss[:size, :size].copy()
        jacobi[-1, -1] = last[size - 1]
        nodes, vectors = np.linalg.eigh(jacobi)
        if abs(nodes[0] + 1.0) < NEAR and nodes[-1] < 1.0 + NEAR:
            return nodes, vectors
    return np.array([-1.0]), np.eye(1)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _stieltjes(y: Array, masses: Array, count: int) -> tuple[Array, Array]:
    """α (n,) and β (n − 1,) of the polynomials orthonormal under Σ masses·δ(y), y in [−1, 1].

    β_{k+1} p_{k+1} = (y − α_k) p_k − β_k p_{k−1}, p₀ constant.
    """
    alpha, beta = np.empty(count), np.empty(count)
    before, now, scale, norm = np.zeros_like(y), np.ones_like(y), 0.0, masses.sum()
    for k in range(count):
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
