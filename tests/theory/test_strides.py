"""Long strides against `simulate`, which takes every step."""

import numpy as np
import pytest

from anytrain.rules import AnytimeEma, Polynomial, PowerEma, Rule, Uniform
from anytrain.schedules import WSD, Constant, Cosine, HorizonBound, InverseSqrt, Power, Schedule
from anytrain.theory import Problem, Spectrum, simulate, stability_limit
from anytrain.theory.strides import Strides

STEPS = 20_000
AT = (30, 300, 2_000, STEPS)
PROBLEM = Problem(3_000, 1.5, 3.0, noise=0.01)
LIMIT = stability_limit(PROBLEM)
SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(0.2 * LIMIT),
    "warmup": Power(0.5 * LIMIT, 120.0, 0.4, 90.0),
    "steep": Power(0.9 * LIMIT, 0.0, 1.0, 400.0),
    "inverse_sqrt": InverseSqrt(0.5 * LIMIT, 0.0, 1.0),
    "wsd": WSD(peak=0.5 * LIMIT, horizon=STEPS, decay=0.3, warmup=50.0),
    "cosine": Cosine(peak=0.5 * LIMIT, horizon=STEPS),
}
RULES: dict[str, Rule | None] = {
    "last": None,
    "uniform": Uniform(),
    "tail": Uniform(500.0),
    "polynomial": Polynomial(3.0),
    "short": Polynomial(30.0),
    "anytime_ema": AnytimeEma(12.5),
    "power_ema": PowerEma(0.1),
}


def error(
    schedule: Schedule, rule: Rule | None, *, fraction: float = 0.02, batch: float = 1.0
) -> float:
    """The largest relative difference to `simulate`."""
    at = (STEPS,) if isinstance(schedule, HorizonBound) else AT
    name = "last" if rule is None else "average"
    exact = simulate(
        PROBLEM, schedule, {} if rule is None else {name: rule}, steps=STEPS, at=at, batch=batch
    )
    found = Strides.of(PROBLEM, STEPS, batch, fraction=fraction).risk(schedule, rule, at)
    return float(np.max(np.abs(found / exact[name] - 1.0)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_strides_are_close_to_steps(schedule: str, rule: str) -> None:
    coarse = 4 if rule == "tail" else 1  # it begins within a stride
    assert error(SCHEDULES[schedule], RULES[rule]) < coarse * 1e-3


@pytest.mark.parametrize("rule", ["last", "polynomial"])
def test_a_larger_batch(rule: str) -> None:
    assert error(SCHEDULES["warmup"], RULES[rule], batch=64.0) < 1e-3


@pytest.mark.parametrize("rule", ["short", "uniform"])
def test_the_error_falls_with_the_square_of_the_stride(rule: str) -> None:
    schedule = SCHEDULES["warmup"]
    coarse, fine = (error(schedule, RULES[rule], fraction=part) for part in (0.08, 0.02))
    assert fine < coarse / 6


FEW = Spectrum([1.0, 0.6, 0.2, 0.05, 0.01], [1.0, 0.5, -0.3, 2.0, 1.0], noise=0.1)


def strides_of_one(batch: float = 1.0) -> Strides:
    return Strides.of(FEW, 200, batch, fraction=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_a_stride_of_one_step_is_exact(rule: str) -> None:
    """And so is a spectrum that is too small to compress."""
    schedule, name = Power(0.3, 20.0, 0.5, 30.0), "last" if rule == "last" else "average"
    rules = {} if RULES[rule] is None else {name: RULES[rule]}
    exact = simulate(FEW, schedule, rules, steps=200, at=(1, 7, 200), method="exact")[name]
    found = strides_of_one().risk(schedule, RULES[rule], (1, 7, 200))
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_rates_at_which_a_coordinate_changes_sign() -> None:
    """ηλ = 1.9 at a large batch: 1 − ηλ is below 0, and its powers alternate."""
    schedule, at = Constant(1.9), (100, 125, 2_000)
    exact = simulate(FEW, schedule, steps=2_000, at=at, batch=1_000.0, method="exact")
    found = Strides.of(FEW, 2_000, 1_000).risk(schedule, None, at)
    np.testing.assert_allclose(found, exact["last"], rtol=1e-3)


def test_cross_moments_give_the_risk_of_a_combination() -> None:
    rules: dict[str, Rule] = {"a": Polynomial(1.0), "b": Polynomial(5.0), "c": Polynomial(25.0)}
    c = np.array([-0.4, 1.7, -0.3])
    exact = simulate(
        PROBLEM, SCHEDULES["warmup"], rules, steps=STEPS, at=AT,
        combinations={"sum": dict(zip(rules, c.tolist(), strict=True))},
    )  # fmt: skip
    strides = Strides.of(PROBLEM, STEPS)
    table = strides.moments(SCHEDULES["warmup"], list(rules.values()), AT)
    assert table.shape == (4, 3, 3)
    np.testing.assert_array_equal(table, table.transpose(0, 2, 1))
    np.testing.assert_allclose(np.einsum("i,nij,j->n", c, table, c), exact["sum"], rtol=2e-3)
    single = strides.risk(SCHEDULES["warmup"], rules["b"], AT)
    np.testing.assert_allclose(table[:, 1, 1], single, rtol=1e-12)


def test_what_explodes_is_infinite_from_there_on() -> None:
    strides = Strides.of(PROBLEM, STEPS, fastest=3.0)
    risk = strides.risk(Constant(3.0 * LIMIT), Polynomial(1.0), (1, STEPS))
    assert np.isfinite(risk[0])
    assert np.isinf(risk[1])


def test_what_explodes_on_the_way_is_infinite_too() -> None:
    """A risk that comes down again after growing more than tenfold."""
    schedule, rule = InverseSqrt(1.6 * LIMIT, 0.0, 20.0), Polynomial(30.0)
    there = simulate(PROBLEM, schedule, {"average": rule}, steps=STEPS, at=(0, 20, STEPS))
    assert there["last"][1] > 10 * there["last"][0] > there["average"][2]
    assert np.isinf(Strides.of(PROBLEM, STEPS).risk(schedule, rule, (STEPS,))).all()
