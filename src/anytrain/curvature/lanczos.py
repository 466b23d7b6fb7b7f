"""The largest eigenvalues and the spectral density of a matrix that is known by its products."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anytrain.curvature.hvp import Operator
from anytrain.errors import UserError

Array = NDArray[np.float64]
_SMALL = 1e-6  # of the first off-diagonal: the space is exhausted


def tridiagonal(operator: Operator, start: Tensor, steps: int) -> tuple[Array, Array]:
    """Lanczos's α (k,) and β (k − 1,) from a starting vector, k <= steps.

    Every vector is made orthogonal to all before it, twice, so that fp32 brings no ghosts; that
    keeps `steps` vectors in memory.
    """
    objective = operator.objective
    q = start / objective.norm(start)
    basis, alphas, betas = [q], [], []
    for k in range(steps):
        w = operator @ basis[k]
        alphas.append(objective.dot(basis[k], w))
        for _ in range(2):
            for other in basis:
                w = w - objective.dot(other, w) * other
        beta = objective.norm(w)
        if k + 1 == steps or beta <= _SMALL * max(abs(alphas[0]), 1e-30):
            break
        betas.append(beta)
        basis.append(w / beta)
    return np.array(alphas), np.array(betas)


def _ritz(alphas: Array, betas: Array) -> tuple[Array, Array]:
    """Eigenvalues of the tridiagonal matrix, and its eigenvectors' first entries."""
    matrix = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors[0]


def largest(operator: Operator, count: int, steps: int | None = None, seed: int = 0) -> list[float]:
    """The `count` algebraically largest eigenvalues, falling; `steps` products (3·count + 10)."""
    size = operator.objective.dim
    if not 1 <= count <= size:
        raise UserError(f"top = {count}; 1 to {size} eigenvalues are valid")
    steps = min(size, steps or 3 * count + 10)
    if steps < count:
        raise UserError(f"steps = {steps}; {count} or more are valid for as many eigenvalues")
    start = operator.objective.direction(0, seed)
    values, _ = _ritz(*tridiagonal(operator, start, steps))
    return [float(value) for value in values[::-1][:count]]


@dataclass(frozen=True)
class Density:
    """A spectrum as points with weights: ∫ f dμ ≈ Σ weight·f(value), weights summing to 1."""

    values: tuple[float, ...]
    weights: tuple[float, ...]

    def share_above(self, value: float) -> float:
        """The fraction of eigenvalues above a value."""
        pairs = zip(self.values, self.weights, strict=True)
        return sum(weight for found, weight in pairs if found > value)

    def smooth(self, at: Array, width: float) -> Array:
        """The density at some values, each point spread as a normal of this width."""
        values, weights = np.array(self.values), np.array(self.weights)
        apart = (at[:, None] - values[None, :]) / width
        bell = np.exp(-0.5 * apart**2) / (width * np.sqrt(2 * np.pi))
        return np.asarray(bell @ weights, dtype=np.float64)


def density(operator: Operator, probes: int = 4, steps: int = 40, seed: int = 0) -> Density:
    """Stochastic Lanczos quadrature (arXiv:1901.10159): Gauss nodes of random starting vectors."""
    if probes < 1 or steps < 2:
        raise UserError(f"probes = {probes}, steps = {steps}; 1 and 2 or more are valid")
    values: list[float] = []
    weights: list[float] = []
    for number in range(probes):
        start = operator.objective.direction(number, seed)
        nodes, first = _ritz(*tridiagonal(operator, start, min(steps, operator.objective.dim)))
        values += [float(v) for v in nodes]
        weights += [float(w) ** 2 / probes for w in first]
    order = np.argsort(values)
    return Density(tuple(values[i] for i in order), tuple(weights[i] for i in order))
