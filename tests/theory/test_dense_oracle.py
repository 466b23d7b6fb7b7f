"""Two checks that know nothing of coordinates: full covariances, and SGD on sampled data."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from anytrain.rules import AnytimeEma, Polynomial, Uniform
from anytrain.schedules import InverseSqrt
from anytrain.theory import Risk, ScheduleFree, Spectrum, simulate

Array = NDArray[np.float64]
D, STEPS, NOISE = 4, 30, 0.3
PROBLEM = Spectrum([0.9, 0.4, 0.4, 0.05], [1.0, -2.0, 0.5, 1.5], noise=NOISE)
BASIS = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0]  # H is not diagonal
H = BASIS @ np.diag(PROBLEM.eigenvalues) @ BASIS.T
TARGET = BASIS @ np.array([1.0, -2.0, 0.5, 1.5])
SCHEDULE = InverseSqrt(0.35, warmup=4, offset=8)
RULES = {"slow": Polynomial(1), "fast": AnytimeEma(25)}
BOTH = {"slow": 2.0, "fast": -0.6, "last": -0.4}


def fourth_moments() -> Array:
    """E[x_a x_b x_c x_d] of x ~ N(0, H), by Isserlis: (D, D, D, D)."""
    return (
        np.einsum("ab,cd->abcd", H, H)
        + np.einsum("ac,bd->abcd", H, H)
        + np.einsum("ad,bc->abcd", H, H)
    )


def dense(
    look: Array, mixes: Callable[[int], Array], batch: int, views: Mapping[str, Array]
) -> dict[str, tuple[float, float]]:
    """The risk and that of the mean of linear views of a state of blocks (e₀, e₁ …).

    A step takes the gradient at y = Σ look·e, moves block 0 by it, and mixes the blocks.
    """
    count, eye, fourth = len(look), np.eye(D), fourth_moments()
    start = np.tile(-TARGET, count)
    mean, second = start.copy(), np.outer(start, start)
    seen, first = np.kron(look, eye), np.kron(np.eye(count)[:1].T, eye)  # (D, nD), (nD, D)
    for t in range(1, STEPS + 1):
        rate, mix = SCHEDULE(t), np.kron(mixes(t), eye)
        y = seen @ second @ seen.T
        one = np.einsum("abcd,bc->ad", fourth, y)  # E[xxᵀ Y xxᵀ]
        spread = (one - H @ y @ H + NOISE * H) / batch  # of the gradient around H·y
        step = np.eye(count * D) - rate * first @ H @ seen
        second = step @ second @ step.T + rate**2 * first @ spread @ first.T
        mean, second = mix @ step @ mean, mix @ second @ mix.T
    result = {}
    for name, view in views.items():
        v = np.kron(view, eye)
        m = v @ mean
        result[name] = (0.5 * np.trace(H @ v @ second @ v.T), 0.5 * m @ H @ m)
    return result


def agree(risk: Risk, expected: Mapping[str, tuple[float, float]]) -> None:
    for name, (total, bias) in expected.items():
        assert risk[name][0] == pytest.approx(total, rel=1e-12), name
        assert risk.bias[name][0] == pytest.approx(bias, rel=1e-12), name


@pytest.mark.parametrize("batch", [1, 3])
def test_averages_in_another_basis(batch: int) -> None:
    def mixes(t: int) -> Array:
        a, b = RULES["slow"](t), RULES["fast"](t)
        return np.array([[1, 0, 0], [a, 1 - a, 0], [b, 0, 1 - b]])

    views = dict(zip(("last", "slow", "fast"), np.eye(3), strict=True))
    views["both"] = np.array([-0.4, 2.0, -0.6])
    risk = simulate(PROBLEM, SCHEDULE, RULES, steps=STEPS, batch=batch, combinations={"both": BOTH})
    agree(risk, dense(np.array([1.0, 0.0, 0.0]), mixes, batch, views))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("beta", [0.0, 0.6, 0.9, 1.0])
def test_schedule_free_in_another_basis(beta: float, batch: int) -> None:
    look = np.array([1 - beta, beta])
    views = {"last": look, "fast": np.array([1.0, 0.0]), "schedule_free": np.array([0.0, 1.0])}
    expected = dense(look, lambda t: np.array([[1, 0], [1 / t, 1 - 1 / t]]), batch, views)
    risk = simulate(PROBLEM, SCHEDULE, steps=STEPS, batch=batch, optimizer=ScheduleFree(beta))
    agree(risk, expected)


# --- Monte Carlo -----------------------------------------------------------------------------

RUNS = 20_000


def sampled(batch: int, seed: int) -> Callable[[Array], Array]:
    """Fresh data for every run and step: weights (R, D) -> gradient (R, D) of the batch mean."""
    rng = np.random.default_rng(seed)
    root = BASIS * np.sqrt(PROBLEM.eigenvalues)

    def gradient(w: Array) -> Array:
        x = rng.normal(size=(RUNS, batch, D)) @ root.T
        y = x @ TARGET + np.sqrt(NOISE) * rng.normal(size=(RUNS, batch))
        off = np.einsum("rbd,rd->rb", x, w) - y
        return np.einsum("rbd,rb->rd", x, off) / batch

    return gradient


def within_sampling_error(w: Array, expected: float) -> None:
    """The mean over runs of ½(w − w*)ᵀH(w − w*), and that it says something."""
    off = w - TARGET
    risks = 0.5 * np.einsum("rd,de,re->r", off, H, off)
    error = risks.std() / np.sqrt(RUNS)
    assert error < 0.02 * expected
    assert abs(risks.mean() - expected) < 5 * error


@pytest.mark.parametrize("batch", [1, 4])
def test_sgd_on_sampled_data(batch: int) -> None:
    gradient, w = sampled(batch, seed=batch), np.zeros((RUNS, D))
    averages = {name: w.copy() for name in RULES}
    for t in range(1, STEPS + 1):
        w = w - SCHEDULE(t) * gradient(w)
        for name, rule in RULES.items():
            averages[name] += rule(t) * (w - averages[name])
    risk = simulate(PROBLEM, SCHEDULE, RULES, steps=STEPS, batch=batch, combinations={"both": BOTH})
    within_sampling_error(w, risk["last"][0])
    for name in RULES:
        within_sampling_error(averages[name], risk[name][0])
    both = sum(BOTH[name] * average for name, average in averages.items()) + BOTH["last"] * w
    within_sampling_error(both, risk["both"][0])


@pytest.mark.parametrize("batch", [1, 4])
def test_schedule_free_on_sampled_data(batch: int) -> None:
    beta, gradient = 0.9, sampled(batch, seed=10 + batch)
    x, z = np.zeros((RUNS, D)), np.zeros((RUNS, D))
    for t in range(1, STEPS + 1):
        z = z - SCHEDULE(t) * gradient((1 - beta) * z + beta * x)
        x = x + Uniform()(t) * (z - x)
    risk = simulate(PROBLEM, SCHEDULE, steps=STEPS, batch=batch, optimizer=ScheduleFree(beta))
    within_sampling_error((1 - beta) * z + beta * x, risk["last"][0])
    within_sampling_error(z, risk["fast"][0])
    within_sampling_error(x, risk["schedule_free"][0])
