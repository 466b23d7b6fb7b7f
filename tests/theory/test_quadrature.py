"""Gauss and Gauss–Radau rules of a spectrum's measures, and the systems made of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from anytrain.theory import Problem, Spectrum
from anytrain.theory.problem import Regression
from anytrain.theory.quadrature import Mesh, Nodes, System, _rules, compressed, exact

Array = NDArray[np.float64]


def measures() -> dict[str, tuple[Array, Array]]:
    """Places, rising, and masses."""
    rng = np.random.default_rng(0)
    power = np.arange(400, 100, -1.0) ** -1.5
    scattered = np.sort(rng.uniform(0.3, 1.2, 60))
    steps = np.sort(rng.integers(1, 40, 200) / 7)
    return {
        "power law": (power, power**2),
        "scattered": (scattered, np.exp(rng.normal(0, 3, 60))),
        "repeated": (steps, rng.uniform(size=200)),
        "with holes": (scattered, rng.uniform(size=60) * (rng.random(60) < 0.6)),
    }


def moment(nodes: Nodes, degree: int, x: Array) -> float:
    """Σ mass·y^degree, y from −1 to 1 over the measure's own range."""
    y = 2 * (nodes.places - x[0]) / (x[-1] - x[0]) - 1
    return float(nodes.masses @ y**degree)


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("name", measures())
def test_polynomials_are_integrated_exactly(name: str, count: int) -> None:
    """Gauss up to degree 2n − 1; Radau, with a node at the lower end, up to 2n − 2."""
    x, masses = measures()[name]
    x, masses = x[masses > 0], masses[masses > 0]
    gauss, radau = _rules(x, masses, count)
    whole = masses.sum()
    for nodes, degree in ((gauss, 2 * count - 1), (radau, 2 * count - 2)):
        assert nodes.places.size == count
        assert np.all(nodes.masses > 0)
        assert x[0] - 1e-13 <= nodes.places[0] <= nodes.places[-1] <= x[-1] + 1e-13
        for power in range(degree + 1):
            expected = moment(Nodes(x, masses), power, x)
            assert moment(nodes, power, x) == pytest.approx(expected, abs=1e-13 * whole)
        beyond = moment(nodes, degree + 1, x) - moment(Nodes(x, masses), degree + 1, x)
        assert beyond < -1e-13 * whole or count == 12  # of every next power something is missing
    assert radau.places[0] == pytest.approx(x[0], abs=1e-13)
    assert gauss.places[0] > x[0]


@pytest.mark.parametrize("name", measures())
def test_a_decay_is_bracketed(name: str) -> None:
    """Σ masses·exp(−τx): Gauss from below, Radau from above, for any τ."""
    x, masses = measures()[name]
    for count in (1, 2, 4, 7):
        gauss, radau = _rules(x, masses, count)
        for tau in (0.5, 3.0, 20.0, 100.0):
            low, true, high = (
                float(m @ np.exp(-tau * p / x[-1])) for p, m in (gauss, (x, masses), radau)
            )
            assert low <= true * (1 + 1e-13)
            assert true <= high * (1 + 1e-13)
    assert low < 0.999 * high  # and at τ = 100 seven nodes do not hide it


def test_few_places_stay() -> None:
    """No more places than nodes: they are the rule, with the masses of equal places together."""
    x, masses = np.array([1.0, 1.0, 2.0, 2.0, 5.0]), np.array([1.0, 2.0, 0.0, 4.0, 0.0])
    for nodes in _rules(x, masses, 2):
        assert nodes.places.tolist() == [1.0, 2.0]
        assert nodes.masses.tolist() == [3.0, 4.0]
    for nodes in _rules(x, 0 * masses, 2):
        assert nodes.places.size == nodes.masses.size == 0


@pytest.mark.parametrize("spread", [1e-16, 1e-15, 1e-12, 1e-8])
@pytest.mark.parametrize("clusters", [1, 2, 5, 11])
def test_a_measure_of_fewer_places_than_nodes_to_rounding(clusters: int, spread: float) -> None:
    """Equal eigenvalues that a solver returned with its rounding: nodes lie where places do."""
    rng = np.random.default_rng(clusters)
    centres = np.sort(rng.uniform(1, 4, clusters))
    x = np.sort(rng.choice(centres, 500) * (1 + spread * rng.normal(size=500)))
    masses = rng.uniform(size=500)
    for nodes in _rules(x, masses, 12):
        assert np.all((nodes.places > x[0] - 1e-10) & (nodes.places < x[-1] + 1e-10))
        for tau in (0.0, 1.0, 10.0):
            expected = masses @ np.exp(-tau * x)
            assert nodes.masses @ np.exp(-tau * nodes.places) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("places", [13, 15, 18, 24])
def test_a_measure_that_is_all_but_exhausted(places: int) -> None:
    """Radau's last entry is lost in rounding; nodes stay where the measure is, and a bracket."""
    rng = np.random.default_rng(places)
    for _ in range(100):
        x = np.sort(rng.uniform(1, 4, places))
        masses = 10 ** rng.uniform(-rng.choice([0, 5, 30]), 0, places)
        gauss, radau = _rules(x, masses, 12)
        for nodes in (gauss, radau):
            inside = (nodes.places > x[0] - 1e-9) & (nodes.places < x[-1] + 1e-9)
            assert np.all(inside)
        assert radau.places[0] == pytest.approx(x[0], abs=1e-9)
        for tau in (1.0, 5.0):
            true = masses @ np.exp(-tau * x)
            assert gauss.masses @ np.exp(-tau * gauss.places) <= true * (1 + 1e-12)
            assert radau.masses @ np.exp(-tau * radau.places) >= true * (1 - 1e-12)


def test_bins() -> None:
    """12 nodes, two measures, a factor of 4: what a million eigenvalues become."""
    problem, eta = Problem(100_000, 1.5, 3.0), np.full(10_000, 0.1)
    systems = compressed(problem, eta)
    for system in systems:
        x = np.sort(system.eigenvalues)
        assert x.size < 110
        # Σ r h = Σ λ² and Σ r s₀ = Σ λ w*²: the noise that comes in, and the risk at the start
        assert system.risk @ system.source == pytest.approx(sum_of(problem, "source"), rel=1e-13)
        assert system.risk @ system.start == pytest.approx(sum_of(problem, "start"), rel=1e-13)
        assert x[-1] == 1.0
        assert np.all(x[-8:] == np.arange(8, 0, -1.0) ** -1.5)  # bins of few eigenvalues stay
    # the last bin is flat, and reaches down to the smallest eigenvalue
    flat = 4.0 / (2 * eta.sum())
    smallest = problem.eigenvalues[-1]
    assert np.count_nonzero(systems[0].eigenvalues < flat / 4) <= 24
    assert systems[1].eigenvalues.min() == pytest.approx(smallest, abs=1e-12 * flat)
    longer = compressed(problem, np.full(160_000, 0.1))[0]  # two bins more
    assert longer.eigenvalues.size - systems[0].eigenvalues.size in (24, 48)
    assert compressed(problem, eta) is systems  # kept


def sum_of(problem: Regression, of: str) -> float:
    system: System = exact(problem)
    return float(system.risk @ getattr(system, of))


def test_steep_eigenvalues_stay() -> None:
    """Where ηλ > ½ at some step, P_t need not fall in λ: no rule brackets it."""
    rng = np.random.default_rng(0)
    problem = Spectrum(rng.uniform(0.2, 1.0, 400), rng.normal(size=400))
    eta = np.array([0.1, 1.0, 0.1])
    steep = np.sort(problem.eigenvalues[problem.eigenvalues > 0.5])
    for system in compressed(problem, eta):
        kept = system.eigenvalues[system.source == system.eigenvalues]
        assert np.array_equal(np.sort(kept), steep)
        assert system.eigenvalues.size == steep.size + 24
    assert compressed(problem, 0.4 * eta)[0].eigenvalues.size == 24


def test_equal_eigenvalues_become_one() -> None:
    """However steep they are, and without any loss."""
    rng = np.random.default_rng(0)
    problem = Spectrum(rng.choice([0.2, 0.5, 1.0], 3_000), rng.normal(size=3_000))
    low, high = compressed(problem, np.array([1.0]))
    assert low.eigenvalues.size == 6
    for one, two in zip(low, high, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_mesh_of_ones_own() -> None:
    problem, eta = Problem(5_000, 1.5, 3.0), np.full(1_000, 0.1)
    coarse = compressed(problem, eta, Mesh(nodes=4, ratio=10.0))[0]
    fine = compressed(problem, eta, Mesh(nodes=16))[0]
    assert coarse.eigenvalues.size < compressed(problem, eta)[0].eigenvalues.size
    assert fine.eigenvalues.size > compressed(problem, eta)[0].eigenvalues.size
