"""The simulator is the textbook's recursion, and closed forms where there are any."""

from itertools import combinations as pairs_of

import numpy as np
import pytest
from textbook import SPECTRA, form, half, mean_form, sgd_twin

from anytrain.rules import AnytimeEma, Polynomial, Uniform, weights
from anytrain.schedules import WSD, Constant, InverseSqrt, Power
from anytrain.theory import Problem, Spectrum, simulate, stability_limit
from cases import RULES

STEPS = 40
VARYING = [0.31, 0.5, 0.02, 0.44, 0.0, 0.13, 0.6, 0.27, 0.09, 0.38] * 4  # of the stability limit
PAIRS = {f"{one} and {two}": {one: 0.75, two: 0.5} for one, two in pairs_of(RULES, 2)}
SUMS = {"beyond": {"last": -0.5, "uniform": 1.5}, "three": {"ema": 2, "last": 1, "anytime25": -2}}


@pytest.mark.parametrize("batch", [1, 2.5, 64])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_textbook(name: str, batch: float) -> None:
    """Every rule, pairs of them and signed sums, at every step: the slow twin to 1e-12."""
    problem = SPECTRA[name]
    eta = stability_limit(problem, batch) * np.array(VARYING)
    every = {**PAIRS, **SUMS}
    risk = simulate(
        problem, eta, RULES, steps=STEPS, batch=batch, at=range(STEPS + 1), method="exact",
        combinations=every,
    )  # fmt: skip
    twin = sgd_twin(problem, eta.tolist(), RULES, batch)
    assert set(risk.total) == {"last", *RULES, *every}
    for name, parts in {"last": {"last": 1.0}, **{n: {n: 1.0} for n in RULES}, **every}.items():
        total = [half(problem, form(moments, parts)) for moments in twin]
        bias = [half(problem, mean_form(moments, parts)) for moments in twin]
        largest = 2 * max(total)  # a signed sum cancels
        np.testing.assert_allclose(risk[name], total, rtol=1e-12, atol=1e-14 * largest)
        np.testing.assert_allclose(risk.bias[name], bias, rtol=1e-12, atol=1e-14 * largest)
        np.testing.assert_array_equal(risk.variance[name], risk[name] - risk.bias[name])


def test_a_large_batch_at_a_rate_of_one_over_lambda() -> None:
    """(1 − ηλ)² + η²λ²/B is 1/B there, and is not what is left of 1 − 2 + 1."""
    problem = Spectrum([1.0, 0.999], [1.0, 0.5])
    eta, rules = [1.0] * 12, {"a": Polynomial(4)}
    at = range(13)
    risk = simulate(problem, eta, rules, steps=12, batch=1e9, at=at, method="exact")
    twin = sgd_twin(problem, eta, rules, 1e9)
    for name in ("last", "a"):
        expected = [half(problem, form(moments, {name: 1.0})) for moments in twin]
        np.testing.assert_allclose(risk[name], expected, rtol=1e-12)


def test_many_coordinates() -> None:
    """More coordinates than a tile holds, and not a whole number of tiles: NumPy in one piece."""
    problem, steps, batch = Problem(2_500, 1.2, 1.7, noise=0.3), 150, 2
    schedule, rule = InverseSqrt(0.2, warmup=9, offset=30), AnytimeEma(6.25)
    lam, s = problem.eigenvalues, problem.target_squared.copy()
    a, c = s.copy(), s.copy()
    for t in range(1, steps + 1):
        rate, rho = schedule(t), rule(t)
        s = (1 - rate * lam) ** 2 * s + rate**2 / batch * (
            lam**2 * s + lam * (lam @ s + problem.noise)
        )
        moved = (1 - rate * lam) * c
        a = (1 - rho) ** 2 * a + 2 * rho * (1 - rho) * moved + rho**2 * s
        c = (1 - rho) * moved + rho * s
    for rules in ({}, {"a": rule}, {"u": Uniform(), "a": rule}):
        risk = simulate(problem, schedule, rules, steps=steps, batch=batch, method="exact")
        assert risk["last"] == pytest.approx(0.5 * lam @ s, rel=1e-12)
        if rules:
            assert risk["a"] == pytest.approx(0.5 * lam @ a, rel=1e-12)


@pytest.mark.parametrize("method", ["exact", "compressed"])
def test_bias_in_closed_form(method: str) -> None:
    """μ_T = w*·∏(1 − η_t λ), and an average is its weights applied to that."""
    problem, steps = Problem(300, 1.3, 2.0, noise=0.1), 60
    schedule, rule = Power(0.3, warmup=5, exponent=0.4, offset=7), Polynomial(3, shift=0)
    risk = simulate(problem, schedule, {"a": rule}, steps=steps, at=range(61), method=method)
    eta = np.array([schedule(t) for t in range(1, steps + 1)])
    factors = np.cumprod(1 - np.outer(eta, problem.eigenvalues), axis=0)  # (T, d)
    mean = np.vstack([np.ones_like(problem.eigenvalues), factors])
    mean *= np.sqrt(problem.target_squared)
    live = 0.5 * mean**2 @ problem.eigenvalues
    np.testing.assert_allclose(risk.bias["last"], live, rtol=1e-11)
    for t in (1, 17, 60):
        average = weights(rule, t) @ mean[: t + 1]
        assert risk.bias["a"][t] == pytest.approx(0.5 * average**2 @ problem.eigenvalues, rel=1e-11)
    assert np.all(risk.variance["last"][1:] > 0)


def test_one_step_by_hand() -> None:
    """d = 1, λ = 2, w* = 3, η = ¼, B = 2, σ² = 4: s₁ = 9/4 + (1/32)(4·9 + 2·(18 + 4)) = 4.75."""
    problem = Spectrum([2.0], [3.0], noise=4.0)
    risk = simulate(problem, [0.25], steps=1, batch=2, at=[0, 1])
    assert risk["last"].tolist() == [9.0, 4.75]
    assert risk.bias["last"].tolist() == [9.0, 2.25]
    assert risk.variance["last"].tolist() == [0.0, 2.5]


def test_the_noise_floor_of_a_constant_rate() -> None:
    """q = (q + σ²)·φ(η) at the fixed point; at an infinite batch there is no noise."""
    problem, rate = SPECTRA["unsorted"], 0.2
    phi = np.sum(rate * problem.eigenvalues / (2 - 2 * rate * problem.eigenvalues))
    risk = simulate(problem, Constant(rate), steps=5_000)
    assert risk["last"][0] == pytest.approx(0.5 * problem.noise * phi / (1 - phi), rel=1e-12)
    assert simulate(problem, Constant(rate), steps=5_000, batch=1e12)["last"][0] < 1e-10


def test_a_schedule_a_callable_and_an_array_are_the_same() -> None:
    problem = SPECTRA["unsorted"]
    schedule, rule = WSD(horizon=STEPS, peak=0.3, warmup=3), AnytimeEma(25)
    expected = simulate(problem, schedule, {"a": rule}, steps=STEPS)
    eta = [schedule(t) for t in range(1, STEPS + 1)]
    rho = [rule(t) for t in range(1, STEPS + 1)]

    def of_one(t: int) -> float:
        return eta[t - 1]

    for rates in (of_one, eta, np.array([*eta, 9.0])):  # what lies beyond `steps` is not used
        for averaging in (lambda t: rho[t - 1], np.array(rho), [*rho, 7.0]):
            found = simulate(problem, rates, {"a": averaging}, steps=STEPS)
            assert found["a"] == expected["a"]
            assert found["last"] == expected["last"]


def test_a_horizon_between_two_steps() -> None:
    """The step that reaches it is the last, and has the final rate."""
    problem = SPECTRA["unsorted"]
    cut = WSD(horizon=17.5, peak=0.3, decay=0.4, final=0.1)
    eta = [*(cut(t) for t in range(1, 18)), cut(17.5)]
    assert eta[-1] == pytest.approx(0.03)
    assert simulate(problem, cut, steps=18)["last"] == simulate(problem, eta, steps=18)["last"]
    assert simulate(problem, cut, steps=17)["last"] == simulate(problem, eta, steps=17)["last"]


def test_steps_of_at() -> None:
    """What is reported at a step does not depend on what else is, nor on how the run goes on."""
    problem, schedule = SPECTRA["unsorted"], Constant(0.3)
    every = simulate(problem, schedule, {"a": AnytimeEma(6.25)}, steps=200, at=range(201))
    some = simulate(problem, schedule, {"a": AnytimeEma(6.25)}, steps=100, at=[0, 7, 7, 64, 100])
    assert some.at == (0, 7, 7, 64, 100)
    for name in ("last", "a"):
        np.testing.assert_array_equal(some[name], every[name][[0, 7, 7, 64, 100]])
        assert some[name].dtype == np.float64
    last = simulate(problem, schedule, steps=200)
    assert last.at == (200,)
    assert last["last"] == every["last"][-1:]
    assert simulate(problem, schedule, steps=5, at=[])["last"].shape == (0,)


def test_a_rate_of_zero_changes_nothing() -> None:
    problem = SPECTRA["unsorted"]
    risk = simulate(problem, [0.0] * 9, {"a": Uniform()}, steps=9, at=[0, 9])
    for name in ("last", "a"):
        assert risk[name][1] == pytest.approx(risk[name][0], rel=1e-14)
        np.testing.assert_allclose(risk.variance[name], 0.0, atol=1e-15)


def test_order_and_sign_do_not_matter() -> None:
    """The eigenbasis has neither."""
    one = SPECTRA["unsorted"]
    order = [2, 0, 3, 1]
    target = np.sqrt(one.target_squared)
    two = Spectrum(one.eigenvalues[order], -target[order], noise=one.noise)
    rules = {"a": Polynomial(3)}
    a, b = (simulate(p, Constant(0.3), rules, steps=99, method="exact") for p in (one, two))
    for name in ("last", "a"):
        assert a[name] == pytest.approx(b[name], rel=1e-13)


def test_learned_coordinates_do_not_go_through_denormals() -> None:
    """E[e²] is multiplied by about ¼ a step: at step 512 it would be 1e-308, and then denormal."""
    problem = Spectrum([1.0], [1.0])
    rules = {"a": [1.0] * 700, "b": [0.9] * 700}
    at = [470, 512, 530, 600, 700]
    risk = simulate(problem, [0.5] * 700, rules, steps=700, at=at, batch=1e15)
    for name in ("last", "a", "b"):
        assert 1e-290 < risk[name][0] < 1e-280
        assert risk[name][1:].tolist() == [0.0] * 4  # step 512 is a multiple of 64
    free = Spectrum([1.0, 1e-3], [1.0, 1.0])  # the other coordinates go on as they were
    slow = Spectrum([1e-3], [1.0])
    both = simulate(free, [0.5] * 700, rules, steps=700, at=at, batch=1e15)
    alone = simulate(slow, [0.5] * 700, rules, steps=700, at=at, batch=1e15)
    np.testing.assert_allclose(both["a"][1:], alone["a"][1:], rtol=1e-12)
