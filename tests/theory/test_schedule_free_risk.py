"""Schedule-Free SGD in the simulator: its twin, and SGD with an average where they are the same."""

import numpy as np
import pytest
from textbook import SPECTRA, schedule_free_twin

from anytrain.rules import AnytimeEma, Polynomial, Rule, Uniform
from anytrain.schedules import Constant
from anytrain.theory import Problem, ScheduleFree, Spectrum, simulate, stability_limit

STEPS = 60
VARYING = [0.3, 0.5, 0.02, 0.44, 0.0, 0.13, 0.6, 0.27, 0.09, 0.38] * 6


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("beta", [0.5, 0.9])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_textbook(name: str, beta: float, batch: float) -> None:
    problem, rule = SPECTRA[name], Polynomial(2)
    eta = stability_limit(problem, batch) * np.array(VARYING)
    risk = simulate(
        problem, eta, steps=STEPS, batch=batch, at=range(STEPS + 1), method="exact",
        optimizer=ScheduleFree(beta, rule),
    )  # fmt: skip
    twin = schedule_free_twin(problem, eta.tolist(), rule, beta, batch)
    assert set(risk.total) == set(twin[0]) == {"last", "fast", "schedule_free"}
    for name in twin[0]:
        total, bias = np.array([row[name] for row in twin]).T
        floor = 1e-14 * max(total)
        np.testing.assert_allclose(risk[name], total, rtol=1e-12, atol=floor)
        np.testing.assert_allclose(risk.bias[name], bias, rtol=1e-12, atol=floor)


@pytest.mark.parametrize("method", ["exact", "compressed"])
@pytest.mark.parametrize("rule", [Uniform(), AnytimeEma(6.25), Polynomial(3, shift=0)])
def test_beta_0_is_sgd_with_the_same_average(rule: Rule, method: str) -> None:
    problem, schedule = Problem(200, 1.4, 2.1, noise=0.2), Constant(0.2, warmup=6)
    at = [0, 1, 2, 10, 128, 300]
    free = simulate(
        problem, schedule, steps=300, at=at, method=method, optimizer=ScheduleFree(0.0, rule)
    )
    sgd = simulate(problem, schedule, {"a": rule}, steps=300, at=at, method=method)
    for ours, theirs in (("last", "last"), ("fast", "last"), ("schedule_free", "a")):
        np.testing.assert_allclose(free[ours], sgd[theirs], rtol=1e-12)
        np.testing.assert_allclose(free.bias[ours], sgd.bias[theirs], rtol=1e-12)


def test_beta_1_is_the_gradient_at_the_average() -> None:
    """y = x, and it does not go where β = 0 goes."""
    problem = SPECTRA["unsorted"]
    risks = [
        simulate(problem, Constant(0.2), steps=50, optimizer=ScheduleFree(beta)).total
        for beta in (0.0, 1.0)
    ]
    assert risks[1]["last"] == pytest.approx(risks[1]["schedule_free"], rel=1e-14)
    assert risks[0]["last"] == pytest.approx(risks[0]["fast"], rel=1e-14)
    assert abs(risks[1]["last"] / risks[0]["schedule_free"] - 1) > 0.05


def test_its_rules_are_its_own() -> None:
    problem = Spectrum([1.0], [1.0])
    for extra in ({"rules": {"a": Uniform()}}, {"combinations": {"a": {"last": 1.0}}}):
        with pytest.raises(ValueError, match="beside Schedule-Free SGD, which has an average"):
            simulate(problem, Constant(0.1), steps=3, optimizer=ScheduleFree(), **extra)
    with pytest.raises(ValueError, match=r"beta = 1.01; 0 to 1 is valid"):
        ScheduleFree(1.01)
    with pytest.raises(ValueError, match=r"ρ of 'averaging' is 2.0 at step 1; 0 to 1 is valid"):
        simulate(problem, [0.1], steps=1, optimizer=ScheduleFree(0.9, lambda t: 2.0))
