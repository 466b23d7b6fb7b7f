"""Where a constant rate is stable, and how a divergence is told."""

import numpy as np
import pytest
from textbook import SPECTRA, growth, half, sgd_twin

from anytrain.schedules import WSD, Constant, InverseSqrt
from anytrain.theory import Diverged, Problem, ScheduleFree, Spectrum, simulate, stability_limit
from anytrain.theory.problem import is_stable
from anytrain.theory.risk import GROWTH


@pytest.mark.parametrize("batch", [1.0, 2.0, 7.5, 1e6])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_limit_by_brute_force(name: str, batch: float) -> None:
    """The rate at which the recursion stops shrinking, by bisection over 2^40 steps of it."""
    problem = SPECTRA[name]
    low, high = 0.0, 2.0 / problem.eigenvalues.max()
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(problem, middle, batch) < 1 else (low, middle)
    limit = stability_limit(problem, batch)
    assert limit == pytest.approx(low, rel=1e-9)
    for rate, stable in ((0.0, True), (0.5, True), (0.999, True), (1.001, False), (3.0, False)):
        assert is_stable(problem, rate * limit, batch) is stable


def test_the_limit_in_closed_form() -> None:
    """One dimension: η = 2B/((B + 2)λ); many small ones: 2/tr H; no noise of the batch: 2/λ."""
    one = Spectrum([0.5], [1.0])
    for batch in (1.0, 4.0):
        assert stability_limit(one, batch) == pytest.approx(2 * batch / ((batch + 2) * 0.5))
    many = Spectrum(np.full(100_000, 1e-5), np.ones(100_000))
    assert stability_limit(many) == pytest.approx(2 / many.trace, rel=1e-4)
    assert stability_limit(one, 1e12) == pytest.approx(4.0)
    problem = Problem(1_000, 1.5, 3.0)
    limits = [stability_limit(problem, batch) for batch in (1, 2, 8, 64)]
    assert limits == sorted(limits)
    assert problem.trace == pytest.approx(sum(i**-1.5 for i in range(1, 1001)))
    assert limits[0] < 2 / problem.trace


@pytest.mark.parametrize("method", ["exact", "compressed", "auto"])
def test_a_constant_rate_above_the_limit(method: str) -> None:
    problem = Problem(100, 1.5, 3.0)
    limit = stability_limit(problem)
    with pytest.raises(Diverged) as caught:
        simulate(problem, Constant(1.01 * limit), steps=10, method=method)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.step, caught.value.rate) == (1, 1.01 * limit)
    assert caught.value.limit == limit
    assert str(caught.value) == (
        f"the risk diverges, seen at step 1 with a rate of {1.01 * limit:.4g}; "
        f"rates η < {limit:.4g} are valid (stable at batch 1)"
    )
    assert simulate(problem, Constant(0.99 * limit), steps=10, method=method)["last"] > 0


def test_a_warmup_into_instability() -> None:
    """The step is the first from which on the rate stays outside."""
    problem = Problem(100, 1.5, 3.0)
    limit = stability_limit(problem, 4)
    with pytest.raises(Diverged, match=r"at step 51 with .*stable at batch 4") as caught:
        simulate(problem, Constant(2 * limit, warmup=100.5), steps=80, batch=4)
    assert caught.value.step == 51
    assert Constant(2 * limit, warmup=100.5)(50) < limit <= caught.value.rate


@pytest.mark.parametrize("optimizer", [None, ScheduleFree(0.0)])
@pytest.mark.parametrize("method", ["exact", "compressed"])
def test_an_explosion_before_the_rate_comes_down(
    method: str, optimizer: ScheduleFree | None
) -> None:
    """The step at which Σ λ E[e²] is 10^12 times that of the start, or the noise; never NaN."""
    for noise in (0.0, 1e3):
        problem = Spectrum([1.0, 0.3, 0.3], [1.0, 2.0, 0.1], noise)
        schedule = InverseSqrt(2.5, warmup=0, offset=100)
        eta = [schedule(t) for t in range(1, 3_001)]
        assert eta[-1] < stability_limit(problem) < eta[60]
        twin = sgd_twin(problem, eta[:60], {}, 1.0)
        scale = max(2 * half(problem, problem.target_squared.tolist()), noise)
        first = next(
            t for t, moments in enumerate(twin) if 2 * half(problem, moments.live) >= GROWTH * scale
        )
        with pytest.raises(Diverged, match=f"seen at step {first} with a rate of") as caught:
            simulate(problem, eta, steps=3_000, method=method, optimizer=optimizer)
        assert caught.value.step == first
        assert caught.value.rate == eta[first - 1]


def test_overflow_in_one_step_is_a_divergence() -> None:
    problem = Spectrum([1.0], [1.0])
    for huge in (1e10, 1e160, 1e300):
        with pytest.raises(Diverged, match=r"seen at step 2 with a rate of 1e\+"):
            simulate(problem, [0.1, huge, 0.1], {"a": [0.5] * 3}, steps=3)


def test_nothing_to_learn() -> None:
    """No target and no noise: the risk is 0, unless a rate is such that 0·∞ comes into it."""
    problem = Spectrum([1.0, 0.1], [0.0, 0.0])
    risk = simulate(problem, Constant(0.3), {"a": [0.5] * 9}, steps=9, at=[0, 9])
    assert risk["last"].tolist() == risk["a"].tolist() == [0.0, 0.0]
    with pytest.raises(Diverged, match="seen at step 2"):
        simulate(problem, [0.1, 1e200, 0.1], steps=3)


def test_a_rate_above_the_limit_for_a_while_is_no_divergence() -> None:
    """Warmup, a peak above the limit, and a decay: what counts is the risk."""
    problem = Problem(50, 1.5, 3.0, noise=0.1)
    peak = 1.2 * stability_limit(problem)
    risk = simulate(problem, WSD(horizon=40, peak=peak, warmup=5, decay=0.6), steps=40, at=[0, 40])
    assert np.isfinite(risk["last"]).all()
