"""Averaging rules: closed forms, what a change of batch does, and what is refused."""

from math import gamma, log, prod, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytrain.rules import (
    DEFAULTS,
    AnytimeEma,
    Ema,
    Polynomial,
    PowerEma,
    Rule,
    Uniform,
    power_exponent,
    weights,
)
from cases import RULES


def test_anytime_ema_is_the_papers() -> None:
    """d = 2^(−f/(t + 1)), counted from 1 after the first update (arXiv:2602.03702)."""
    for f in (0.5, 25, 100):
        for t in (1, 2, 10, 12_500):
            assert AnytimeEma(f)(t) == 1 - 2 ** (-f / (t + 1))
    assert AnytimeEma(25)(1, 0.5) == 1 - 2 ** (-25 * 0.5 / 2)


def test_what_anytime_ema_keeps_of_the_start() -> None:
    """∏ 2^(−f/(t + 1)) = 2^(−f·(H_{T+1} − 1)): small for f = 25, not for f = 0.5."""
    steps = 50
    harmonic = sum(1 / n for n in range(2, steps + 2))
    for f in (0.5, 6.25):
        kept = weights(AnytimeEma(f), steps)[0]
        assert kept == pytest.approx(2 ** (-f * harmonic), rel=1e-10)


def test_the_half_life_of_anytime_ema_is_a_part_of_the_run() -> None:
    """Half the weight lies in the last T·(1 − 2^(−1/(p + 1))), p + 1 = f·ln 2, so about T/f."""
    for f in (6.25, 25):
        for steps in (4_000, 16_000):
            c = weights(AnytimeEma(f), steps)
            half = steps - np.searchsorted(np.cumsum(c), 0.5)
            assert half / steps == pytest.approx(1 - 2 ** (-1 / (f * log(2))), rel=0.03)
            assert half / steps == pytest.approx(1 / f, rel=0.12)


def test_anytime_ema_is_close_to_a_power() -> None:
    """c_s ∝ s^(f·ln 2 − 1)."""
    c, p = weights(AnytimeEma(25), 8_000), 25 * log(2) - 1
    for early, late in ((4_000, 8_000), (6_000, 7_000)):
        assert log(c[late] / c[early]) / log(late / early) == pytest.approx(p, rel=0.01)


@pytest.mark.parametrize("p", [0, 1])
def test_polynomial_is_exact_for_0_and_1(p: int) -> None:
    steps = 60
    c = weights(Polynomial(p), steps)
    exact = np.array([0.0] + [s**p for s in range(1, steps + 1)])
    np.testing.assert_allclose(c, exact / exact.sum(), rtol=1e-12, atol=0)


def test_polynomial_at_its_default_shift() -> None:
    """c_s ∝ Γ(s + p)/Γ(s)."""
    p, steps = 3.5, 40
    exact = np.array([0.0] + [gamma(s + p) / gamma(s) for s in range(1, steps + 1)])
    np.testing.assert_allclose(weights(Polynomial(p), steps), exact / exact.sum(), rtol=1e-10)


def test_window_of_the_synthetic_experiment() -> None:
    """Shift 0 and p = m − 1: ρ = min(m, t)/t."""
    for m in (1, 2, 4, 16):
        for t in (1, 2, 3, 4, 20, 1000):
            assert Polynomial(m - 1, shift=0)(t) == min(m, t) / t


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2, 0.28])
def test_the_width_of_power_ema_is_measured(sigma: float) -> None:
    """σ_rel is the standard deviation of s/T under the weights, at any T."""
    for steps in (2_000, 20_000):
        c = weights(PowerEma(sigma), steps)
        place = np.arange(steps + 1) / steps
        mean = float(c @ place)
        assert sqrt(float(c @ (place - mean) ** 2)) == pytest.approx(sigma, rel=2e-3)
        assert c[0] == 0  # nothing of the start is left: 1 − ρ(1) = 0


def test_the_exponent_of_power_ema() -> None:
    """The pairs of arXiv:2312.02696: σ_rel 0.05 and 0.10 are γ = 16.97 and 6.94."""
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert power_exponent(sqrt(1 / 12)) == pytest.approx(0, abs=1e-6)


@given(st.floats(1e-3, sqrt(1 / 12)))
def test_any_exponent_gives_back_its_width(sigma: float) -> None:
    p = power_exponent(sigma)
    assert p >= 0
    assert (p + 1) / ((p + 2) ** 2 * (p + 3)) == pytest.approx(sigma**2, rel=1e-9)


def test_ema_in_closed_form() -> None:
    """c_s = (1 − β)β^(T−s)/(1 − β^T): bias-corrected, the start has no weight."""
    beta, steps = 2 ** (-1 / 5), 40
    exact = np.array([0.0] + [(1 - beta) * beta ** (steps - s) for s in range(1, steps + 1)])
    np.testing.assert_allclose(
        weights(Ema(5), steps), exact / (1 - beta**steps), rtol=1e-12, atol=1e-17
    )


def test_a_long_ema_is_no_burden_early() -> None:
    """High decay without correction would keep the start; corrected it is the mean so far."""
    assert weights(Ema(1e6), 10) == pytest.approx([0] + [0.1] * 10, abs=1e-5)
    assert Ema(1e18)(1) == 1.0
    assert Ema(1e18)(4) == pytest.approx(0.25)


def test_uniform() -> None:
    np.testing.assert_allclose(weights(Uniform(), 7), [0] + [1 / 7] * 7, rtol=1e-14, atol=0)
    np.testing.assert_allclose(weights(Uniform(3), 7), [0] * 4 + [1 / 4] * 4, rtol=1e-14, atol=0)
    assert weights(Uniform(7), 7).tolist() == [0.0] * 7 + [1.0]  # until then the weights
    assert [Uniform(3)(t) for t in (1, 3, 3.5, 4, 5)] == [1, 1, 1, 1, 0.5]


@pytest.mark.parametrize("rule", [Uniform(), PowerEma(0.1), Ema(5), Polynomial(0)])
def test_a_change_of_batch_composes_exactly(rule: Rule) -> None:
    """What is kept over a stretch of t is the same in one step or in many."""
    for a, b in ((1.0, 2.0), (10.0, 17.0)):
        for parts in (2, 4, 7):
            dt = (b - a) / parts
            kept = prod(1 - rule(a + dt * (k + 1), dt) for k in range(parts))
            assert kept == pytest.approx(1 - rule(b, b - a), rel=1e-10)


@pytest.mark.parametrize("rule", [AnytimeEma(25), AnytimeEma(2), Polynomial(16)])
def test_a_change_of_batch_composes_nearly(rule: Rule) -> None:
    """For the others up to O(1/t): what late stretches keep is the same within a per cent."""
    steps = 4_000
    whole, halves = weights(rule, steps), weights(rule, [k / 2 for k in range(1, 2 * steps + 1)])
    for share in (0.8, 0.9, 0.95):
        tail = whole[int(share * steps) :].sum()
        assert halves[int(share * 2 * steps) :].sum() == pytest.approx(tail, rel=0.01)


@pytest.mark.parametrize("name", RULES)
@given(t=st.floats(1e-3, 1e12), part=st.floats(1e-6, 1))
def test_rho_is_a_fraction(name: str, t: float, part: float) -> None:
    assert 0 <= RULES[name](t, t * part) <= 1


def test_defaults() -> None:
    assert list(DEFAULTS.values()) == [AnytimeEma(f) for f in (6.25, 12.5, 25, 50, 100)]
    assert all(isinstance(rule, Rule) for rule in DEFAULTS.values())


NAN, INF = float("nan"), float("inf")
REFUSED = [
    (lambda: AnytimeEma(0), r"f = 0; above 0 is valid \(the raw weights are called raw\)"),
    (lambda: AnytimeEma(-25), "f = -25"),
    (lambda: AnytimeEma(NAN), "f = nan"),
    (lambda: AnytimeEma(INF), "f = inf"),
    (lambda: Polynomial(-0.5), "p = -0.5; 0 or more"),
    (lambda: Polynomial(1, shift=-1), "shift = -1; 0 or more steps"),
    (lambda: PowerEma(0), "sigma_rel = 0; above 0 and at most 0.2887"),
    (lambda: PowerEma(0.3), "sigma_rel = 0.3; above 0 and at most 0.2887"),
    (lambda: PowerEma(NAN), "sigma_rel = nan"),
    (lambda: Uniform(-1), "start = -1"),
    (lambda: Uniform(INF), "start = inf"),
    (lambda: Ema(0), "half_life = 0; above 0 steps"),
    (lambda: Ema(NAN), "half_life = nan"),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED, ids=[s[:15] for _, s in REFUSED])
def test_refused(make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        make()
