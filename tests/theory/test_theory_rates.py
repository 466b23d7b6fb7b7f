"""Exponents of the excess risk: the theorems' values, their balance, their table."""

import numpy as np
import pytest

from anytrain.rules import Polynomial
from anytrain.schedules import Power
from anytrain.theory import Problem, averaged_exponent, rates, simulate

PAIRS = [(1.1, 1.1), (1.1, 2.2), (1.5, 1.5), (1.5, 3.0), (1.9, 3.8), (1.5, 9.0), (2.5, 1.5)]


def test_b_is_2a() -> None:
    """γ* = 1/2: 1/√t is minimax (arXiv:2602.03702, Corollary 1); a constant rate is not."""
    found = rates(capacity=1.5, source=3.0)
    assert found.gamma == 0.5
    assert found.minimax.value == pytest.approx(2 / 3)
    assert found.power.value == pytest.approx(2 / 3)
    assert found.inverse_sqrt.value == pytest.approx(2 / 3)
    assert found.constant.value == pytest.approx(1 / 3)
    assert found.wsd.value == pytest.approx(1 / 3)


def test_the_papers_panels() -> None:
    for a, expected in ((1.1, 0.545), (1.5, 0.667), (1.9, 0.737)):
        assert rates(a, 2 * a).power.value == pytest.approx(expected, abs=5e-4)
        equal = rates(a, a)
        assert equal.gamma == 0.0
        for exponent in (equal.minimax, equal.power, equal.constant, equal.wsd):
            assert exponent.value == pytest.approx(1 - 1 / a)
        assert equal.inverse_sqrt.value == pytest.approx(0.5 * (1 - 1 / a))


def test_b_below_a_is_limited_by_the_bias() -> None:
    found = rates(2.5, 1.5)
    assert found.gamma == 0.0
    assert found.minimax.value == pytest.approx(1 / 3)
    assert found.power.value == found.constant.value == pytest.approx(0.2)  # (b − 1)/a
    assert "b < a, limited by the bias" in found.power.source
    assert "proved for a < 2" in found.wsd.source
    assert rates(1.5, 1.5).power.source == "Corollary 1"
    assert rates(1.5, 1.5).wsd.source == "Theorem 2"


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_gamma_star_is_the_best_gamma_up_to_a_half(a: float, b: float) -> None:
    grid = np.linspace(0, 1, 10_001)
    values = [averaged_exponent(a, b, float(gamma)) for gamma in grid]
    found = rates(a, b)
    assert grid[int(np.argmax(values))] == pytest.approx(min(found.gamma, 0.5), abs=1e-4)
    if b <= 2 * a:
        assert max(values) == pytest.approx(found.power.value, abs=1e-4)
        assert found.power_exact.value == pytest.approx(found.power.value)
    else:
        assert found.power_exact.value < max(values) < found.power.value
    assert found.power.value <= found.minimax.value + 1e-15
    assert (found.power.value == pytest.approx(found.minimax.value)) is (b >= a)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_exponent_is_that_of_the_sums(a: float, b: float, gamma: float) -> None:
    """k of k^(−a)·Σ t^(−γ) = 1, and the slope of three sums at ln N of hundreds:
    Σ_{i>k} i^(−b), k/N, and the noise that directions beyond k keep, Σ_{i>k} i^(−2a) Σ t^(−2γ)."""
    logs = np.array([200.0, 400.0])  # ln N
    k = ((1 - gamma) * logs - np.log(1 - gamma)) / a
    squares = {0.0: logs, 0.25: logs / 2 + np.log(2), 0.5: np.log(logs), 0.8: np.log([2.29, 2.29])}
    left, cost = -(b - 1) * k - np.log(b - 1), k - logs
    kept = -(2 * a - 1) * k - np.log(2 * a - 1) + squares[gamma]
    slope = np.diff(np.logaddexp.reduce([left, cost, kept])) / np.diff(logs)
    assert -slope[0] == pytest.approx(averaged_exponent(a, b, gamma), abs=0.01)


def test_above_a_half_the_exact_risk_is_slower_than_the_corollary() -> None:
    """b = 3a: the first steps' noise stays in what is not learned (experiments/0003-figure3)."""
    problem, steps = Problem(2_000_000, 1.9, 5.7, noise=0.01), [100_000, 400_000]
    schedule = Power(peak=1 / problem.trace, warmup=1, exponent=2 / 3, offset=1)
    risk = simulate(problem, schedule, {"tail": Polynomial(1)}, steps=steps[-1], at=steps)
    slope = np.log(risk["tail"][1] / risk["tail"][0]) / np.log(4)
    found = rates(1.9, 5.7)
    assert -slope == pytest.approx(found.power_exact.value, abs=0.03)
    assert found.power.value > 0.8
    assert "by the exact risk" in str(found)


def test_gamma_is_from_0_to_1() -> None:
    for gamma in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"gamma = {gamma}; 0 to 1 is valid"):
            averaged_exponent(1.5, 3.0, gamma)


def test_the_table() -> None:
    balance = "the balance of bias and variance at η ∝ t^(−γ)"
    assert str(rates(1.5, 3.0)).splitlines() == [
        "capacity a = 1.5, source b = 3",
        "  minimax               N^-0.6667 (lower bound over the source class)",
        "  t^-0.5 + averaging    N^-0.6667 (Corollary 1)",
        f"  1/√t + averaging      N^-0.6667 ({balance}, γ = 1/2)",
        f"  constant + averaging  N^-0.3333 ({balance}, γ = 0)",
        "  WSD                   N^-0.3333 (Theorem 2)",
    ]
