"""Capacity and source from four traces: known problems come back, and intervals hold them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from anytrain.theory.exponents import LARGEST, capacity, estimate, harmonic, solve, source

PAIRS = [(1.1, 1.1), (1.5, 3.0), (1.9, 1.9), (1.5, 2.0), (0.8, 1.2), (3.0, 1.5)]


@pytest.mark.parametrize("dim", [1, 10, 1000, 1001, 5000, 200_000])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 3.0, 60.0])
def test_sums_of_powers(dim: int, exponent: float) -> None:
    plain = float(np.sum(np.arange(1, dim + 1, dtype=np.float64) ** -exponent))
    assert harmonic(dim, exponent) == pytest.approx(plain, rel=1e-9)


def spectrum(dim: int, a: float, b: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """λ_i = 5·i^(−a) and w_i² with λ_i w_i² = 3·i^(−b): scales do not matter."""
    i = np.arange(1, dim + 1, dtype=np.float64)
    return 5 * i**-a, 3 / 5 * i ** (a - b)


def exactly(values: NDArray[np.float64], squared: NDArray[np.float64]) -> list[float]:
    """tr G, tr G², θᵀGθ, θᵀG²θ."""
    return [float(x.sum()) for x in (values, values**2, values * squared, values**2 * squared)]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("dim", [50, 100_000])
def test_known_exponents_come_back(a: float, b: float, dim: int) -> None:
    found = solve(dim, exactly(*spectrum(dim, a, b)))
    assert found == pytest.approx((a, b), abs=1e-7)


def test_what_they_advise() -> None:
    rows = np.tile(exactly(*spectrum(1000, 1.5, 3.0)), (8, 1))
    found = estimate(1000, rows)
    assert found.gamma == pytest.approx(0.5, abs=1e-7)
    assert found.gamma_range == pytest.approx((0.5, 0.5), abs=1e-4)
    assert found.capacity_range == pytest.approx((1.5, 1.5), abs=1e-4)
    easy = estimate(1000, np.tile(exactly(*spectrum(1000, 1.5, 1.2)), (8, 1)))
    assert (easy.gamma, easy.gamma_range) == (0.0, (0.0, 0.0))


def probed(dim: int, a: float, b: float, probes: int, seed: int) -> NDArray[np.float64]:
    """Rows as a model gives them: Rademacher probes of a matrix that is not diagonal.

    G is turned in planes of two, so that zᵀGz varies from probe to probe.
    """
    values, squared = spectrum(dim, a, b)
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, dim // 2)
    pairs = random.permutation(dim).reshape(2, -1)
    truth = exactly(values, squared)
    rows = []
    for _ in range(probes):
        z = random.choice([-1.0, 1.0], dim)
        x, y = z[pairs[0]], z[pairs[1]]
        turned = np.empty(dim)
        turned[pairs[0]] = np.cos(angle) * x - np.sin(angle) * y
        turned[pairs[1]] = np.sin(angle) * x + np.cos(angle) * y
        first, second = float(turned**2 @ values), float(turned**2 @ values**2)
        rows.append([first, second, truth[2], truth[3]])
    return np.array(rows)


def test_intervals_hold_what_is_true() -> None:
    """95% of them: of 60, at least 51 (a binomial has fewer with probability 1%), a and b each."""
    held = np.zeros(2, dtype=int)
    for seed in range(60):
        found = estimate(2000, probed(2000, 1.5, 2.0, 40, seed))
        ranges = (found.capacity_range, found.source_range)
        held += [low <= true <= high for (low, high), true in zip(ranges, (1.5, 2.0), strict=True)]
    assert held.min() >= 51, held


def test_more_probes_are_narrower() -> None:
    few, many = (estimate(2000, probed(2000, 1.5, 2.0, n, 0)).capacity_range for n in (16, 256))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


@pytest.mark.parametrize("ratio", [0.0005, 1.0, float("nan")])
def test_no_capacity(ratio: float) -> None:
    with pytest.raises(ValueError, match="above 1/D"):
        capacity(1000, ratio)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_no_source(ratio: float) -> None:
    with pytest.raises(ValueError, match="not a power law"):
        source(1000, 1.5, ratio)


def test_beyond_the_largest() -> None:
    assert capacity(1000, 1 - 1e-12) == LARGEST


@pytest.mark.parametrize("traces", [(1, 1, 1, 0), (-1, 1, 1, 1), (float("nan"), 1, 1, 1)])
def test_traces_that_are_none(traces: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="numbers above 0 are valid"):
        solve(1000, traces)


@pytest.mark.parametrize("shape", [(7, 4), (8, 3), (32,)])
def test_estimates_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(n, 4\) with n of 8 or more"):
        estimate(1000, np.ones(shape))
