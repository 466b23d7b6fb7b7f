"""A compressed spectrum against the exact one: the error, the bracket, the bound, the choice."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from textbook import tables

from anytrain.rules import AnytimeEma, Ema, Polynomial, Rule, Uniform
from anytrain.schedules import WSD, InverseSqrt, Power
from anytrain.theory import Problem, ScheduleFree, Spectrum, simulate, stability_limit
from anytrain.theory.problem import Regression
from anytrain.theory.quadrature import compressed, exact
from anytrain.theory.risk import _bound

Array = NDArray[np.float64]
STEPS = 1_000
ROUNDING = 1e-13 + STEPS * 2.0**-52  # every step multiplies by a rounded number
RULES = {"uniform": Uniform(), "ema": AnytimeEma(25), "polynomial": Polynomial(3, shift=0)}
BOTH = {"both": {"uniform": -0.5, "polynomial": 1.8, "last": -0.3}}

SHAPES: dict[str, Callable[[int], float]] = {
    "constant": lambda t: 1.0,
    "bare 1/√t": lambda t: t**-0.5,
    "power": Power(1.0, warmup=0, exponent=0.5, offset=1),
    "inverse_sqrt": InverseSqrt(1.0, warmup=20, offset=100),
    "wsd": WSD(horizon=STEPS, peak=1.0, warmup=10, decay=0.4),
}


def along(shape: Callable[[int], float], peak: float, steps: int = STEPS) -> Array:
    return peak * np.array([shape(t) for t in range(1, steps + 1)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponents", [(1.1, 1.1), (1.1, 3.0), (1.5, 3.0), (1.9, 3.8)], ids=str)
def test_power_laws(exponents: tuple[float, float], shape: str) -> None:
    """Within 1e-9 asked for, at every step; the bound says so, and so do both sides of it."""
    at = range(STEPS + 1)
    for noise in (0.0, 0.01):
        problem = Problem(2_000, *exponents, noise)
        for peak in (0.03, 0.9):
            eta = along(SHAPES[shape], peak * stability_limit(problem))
            every = {"steps": STEPS, "at": at, "combinations": BOTH}
            ours = simulate(problem, eta, RULES, method="compressed", **every)
            true = simulate(problem, eta, RULES, method="exact", **every)
            assert (ours.method, true.method, true.bound) == ("compressed", "exact", 0.0)
            assert ours.states < 150 < true.states == 2_000
            assert ours.bound < 2e-10
            for name in true.total:
                for found, expected in ((ours.total, true.total), (ours.bias, true.bias)):
                    off = np.abs(found[name] - expected[name]) / true[name]
                    assert off.max() < ours.bound + 10 * ROUNDING  # signed sums cancel
                    assert off.max() < 5e-11
            low, high = (tables(s, eta, RULES, at, 1.0, noise) for s in compressed(problem, eta))
            mid = tables(exact(problem), eta, RULES, at, 1.0, noise)
            assert np.all(low <= mid * (1 + ROUNDING))
            assert np.all(mid <= high * (1 + ROUNDING))


def spectra() -> dict[str, Regression]:
    """Whatever a covariance may look like: (eigenvalues, target), noise beside."""
    rng = np.random.default_rng(1)

    def any_target(lam: Array, noise: float = 0.0) -> Spectrum:
        return Spectrum(lam, rng.normal(size=lam.size), noise)

    few, several = np.array([1.0, 0.31, 0.3, 0.02]), np.exp(rng.normal(0, 2, 40))
    noisy = rng.choice(few, 600) * (1 + 1e-15 * rng.normal(size=600))
    narrow = rng.choice(few, 600) * (1 + 1e-3 * rng.normal(size=600))
    lognormal = np.exp(rng.normal(0, 3, 800))
    sparse = Spectrum(lognormal, rng.normal(size=800) * (rng.random(800) < 0.02), 0.1)
    wild = Spectrum(lognormal, np.exp(rng.normal(0, 9, 800)), 1e-6)
    two = np.concatenate([rng.uniform(0.97, 1, 90), rng.uniform(0.25, 0.5, 90)])
    return {
        "few atoms": any_target(few, 0.1),
        "repeated atoms": any_target(rng.choice(few, 500), 0.1),
        "many atoms": any_target(rng.choice(several, 900)),
        "atoms with rounding": any_target(noisy, 1e-3),
        "clusters": any_target(narrow),
        "a band": any_target(rng.uniform(1, 1.5, 400)),
        "two bands": any_target(two),
        "uniform": any_target(rng.uniform(0, 1, 700) + 1e-9, 1.0),
        "lognormal": any_target(lognormal, 0.01),
        "sparse target": sparse,
        "wild target": wild,
        "equal": any_target(np.full(300, 0.5), 0.2),
    }


def unsigned(rule: Rule, last: Array) -> Array:
    """(Σ_s c_s √R_s)²: the risk of an average whose iterates could not cancel, which they round in.

    Beyond half the limit iterates alternate in sign, and a late average of them is 1e-38 of these.
    """
    size = [float(np.sqrt(last[0]))]
    for t, risk in enumerate(last[1:].tolist(), start=1):
        rho = rule(float(t), 1.0)
        size.append((1 - rho) * size[-1] + rho * risk**0.5)
    return np.square(size)


@pytest.mark.parametrize("batch", [1.0, 64.0, 1e8])
@pytest.mark.parametrize("name", spectra())
def test_the_bound_holds(name: str, batch: float) -> None:
    """At rates up to the limit, where at large batches ηλ is about 2; also where it is no use."""
    problem, steps = spectra()[name], 400
    rules: dict[str, Rule] = {"ema": Ema(5), "polynomial": Polynomial(16), "uniform": Uniform()}
    signed = {"signed": {"polynomial": 10.0, "ema": -9.0}}
    for peak in (0.2, 0.5, 0.9, 0.999):
        for shape in (SHAPES["constant"], SHAPES["bare 1/√t"]):
            eta = along(shape, peak * stability_limit(problem, batch), steps)
            plain = {"rules": rules, "combinations": signed}
            for extra in (plain, {"optimizer": ScheduleFree(0.9)}):
                every = {"steps": steps, "at": range(steps + 1), "batch": batch, **extra}
                ours = simulate(problem, eta, method="compressed", **every)
                true = simulate(problem, eta, method="exact", **every)
                for part in (ours.total, ours.bias, ours.variance):
                    assert all(np.isfinite(values).all() for values in part.values())
                scale = dict(true.total)
                if extra is plain:
                    scale |= {label: unsigned(rule, true["last"]) for label, rule in rules.items()}
                    scale["signed"] = 100 * scale["polynomial"] + 81 * scale["ema"]
                else:  # y is a difference: it rounds in units of the start
                    scale = {label: risk + 1e-3 * risk[0] for label, risk in scale.items()}
                for label in true.total:
                    seen = true[label] > 1e-250
                    off = np.abs(ours[label] - true[label]) - 1e-12 * scale[label]
                    assert np.all((off <= ours.bound * ours[label])[seen]), (label, peak)


def test_auto_takes_the_compressed_where_its_bound_allows() -> None:
    problem = Problem(20_000, 1.5, 3.0, noise=0.01)
    risk = simulate(problem, InverseSqrt(0.1, warmup=0, offset=10), RULES, steps=300)
    assert risk.method == "compressed"
    assert risk.states < 150
    assert 0 < risk.bound <= 1e-9


def test_auto_is_exact_for_few_dimensions() -> None:
    """Two compressed runs would cost as much."""
    risk = simulate(Problem(40, 1.5, 3.0), [0.1] * 50, steps=50)
    assert (risk.method, risk.states, risk.bound) == ("exact", 40, 0.0)


def test_auto_is_exact_where_the_bound_is_too_large() -> None:
    """Noiseless decay for long in one bin: what is left sits at its lower end, beyond 12 nodes."""
    rng = np.random.default_rng(0)
    problem = Spectrum(rng.uniform(0.3, 1.0, 300), rng.normal(size=300))
    eta = [0.1 * stability_limit(problem)] * 60_000
    forced = simulate(problem, eta, steps=len(eta), method="compressed")
    assert forced.bound > 1e-3
    found = simulate(problem, eta, steps=len(eta))
    true = simulate(problem, eta, steps=len(eta), method="exact")
    assert (found.method, found.states, found.bound) == ("exact", 300, 0.0)
    assert found["last"] == true["last"] > 0
    early = simulate(problem, eta, steps=60)  # the same problem, while it is smooth
    assert early.method == "compressed"


def test_signed_sums_do_not_hide_in_the_bound() -> None:
    """Errors of the terms may add up, though the two runs' distances cancel."""
    lower = np.array([[[2.0, 1.0]], [[0.5, 0.5]]])  # totals and means of two columns
    upper = lower + np.array([[[0.1, 0.2]], [[0.0, 0.4]]])
    assert _bound(lower, upper, {"sum": np.array([1.0, 1.0])}) == pytest.approx(0.4 / 3)
    assert _bound(lower, upper, {"sum": np.array([2.0, -1.0])}) == pytest.approx(0.4 / 3)
    many = {"one": np.array([1.0, 0.0]), "sum": np.array([2.0, -1.0])}
    assert _bound(lower, upper, many) == pytest.approx(0.4 / 3)
    assert _bound(lower, lower, many) == 0.0
