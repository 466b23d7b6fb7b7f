"""Anytime regret: arms tuned for a horizon, families for all, and what is printed is what was run.

The reference is a grid of runs that take every step.
"""

import re
from dataclasses import replace
from itertools import product
from math import log, sqrt

import numpy as np
import pytest

from anytrain import rules, schedules
from anytrain.rules import AnytimeEma, Polynomial, PowerEma, Rule, Uniform
from anytrain.schedules import WSD, Constant, Cosine, InverseSqrt, Power, Schedule
from anytrain.theory import Problem, simulate
from anytrain.theory.baselines import ARMS, baselines, tune
from anytrain.theory.plans import CONSTANT, FREE, INVERSE_SQRT, RULES, Bench, Plan, rounded
from anytrain.theory.regret import Advice, Range, advise, compare, families, horizons

PROBLEM = Problem(400, 1.5, 3.0, noise=0.05)
BENCH = Bench(PROBLEM, 320, warmup=False)


def arm(name: str) -> Plan:
    return next(plan for plan in ARMS if plan.name == name)


def risk(
    schedule: Schedule, rule: Rule | None, at: tuple[int, ...], batch: float = 1
) -> list[float]:
    found = simulate(
        PROBLEM, schedule, {} if rule is None else {"average": rule}, steps=at[-1], at=at,
        batch=batch, method="exact",
    )  # fmt: skip
    return found["last" if rule is None else "average"].tolist()


PEAKS = [0.9 * BENCH.limit / BENCH.trace * 2.0**-k for k in range(6)]


# --- arms ------------------------------------------------------------------------------------


def test_wsd_is_tuned_as_well_as_by_a_grid() -> None:
    tuned = tune(BENCH, arm("wsd"), 320)
    grid = [
        risk(WSD(peak=peak, horizon=320, decay=decay), None, (320,))[0]
        for peak, decay in product(PEAKS, (0.1, 0.3, 0.5, 0.7, 0.9))
    ]
    assert tuned.risk <= 1.0005 * min(grid)
    assert tuned.risk > 0.9 * min(grid)  # it is no other problem
    assert isinstance(tuned.schedule, WSD)
    assert tuned.rule is None


def test_a_constant_rate_is_tuned_as_well_as_by_a_grid() -> None:
    tuned = tune(BENCH, arm("constant + average"), 320)
    grid = [
        risk(Constant(peak), Polynomial(p), (320,))[0]
        for peak, p in product(PEAKS, (0.0, 1.0, 2.0, 4.0, 8.0))
    ]
    assert 0.9 * min(grid) < tuned.risk <= 1.0005 * min(grid)


def test_a_warmup_is_tuned_where_it_may_be() -> None:
    """What may warm up need not, so it is no worse."""
    without = tune(BENCH, arm("cosine"), 320)
    bench = replace(BENCH, warmup=True)
    found = tune(bench, arm("cosine"), 320)
    assert without.schedule == replace(without.schedule, warmup=0.0)  # type: ignore[type-var]
    assert found.risk <= 1.0005 * without.risk
    assert "warmup" in {axis.name for axis in arm("cosine").axes(bench, 320, 320)}


def test_what_is_reported_was_run() -> None:
    """The text of each schedule and rule, read back, gives the risk beside it."""
    (line,) = baselines(BENCH, [200], ARMS)
    assert [one.risk for one in line.arms] == sorted(one.risk for one in line.arms)
    assert {one.name for one in line.arms} == {plan.name for plan in ARMS}
    assert line.best.rule is not None  # averages win where the source is large
    assert line.decayed.rule is None
    assert line.decayed.risk == min(one.risk for one in line.arms if one.rule is None)
    for one in line.arms:
        schedule = schedules.schedule(schedules.spec(one.schedule))
        rule = None if one.rule is None else rules.rule(rules.spec(one.rule))
        assert risk(schedule, rule, (200,))[0] == pytest.approx(one.risk, rel=1e-9)


# --- families --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def advice() -> Advice:
    return advise(PROBLEM, 20, 320, warmup=False, per_decade=2, workers=2)


def test_horizons() -> None:
    assert horizons(1_000, 1_000_000) == (
        *(1000, 1778, 3162, 5623, 10000, 17783, 31623, 56234, 100000, 177828, 316228, 562341),
        1000000,
    )
    assert horizons(100, 500, 2) == (100, 224, 500)
    assert horizons(50, 50) == (50,)
    for low, high in ((9, 100), (100, 99), (100, 10_000_001)):
        sentence = f"budgets from {low:g} to {high:g} steps; 10 <= low <= high <= 10,000,000"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            horizons(low, high)


@pytest.mark.parametrize(
    ("capacity", "source", "gamma"),
    [(1.5, 3.0, None), (1.5, 1.5, None), (1.5, 1.2, None), (1.1, 3.0, 1 - 1.1 / 3.0)],
)
def test_the_papers_exponent_is_a_family_unless_it_is_another(
    capacity: float, source: float, gamma: float | None
) -> None:
    found = {plan.name: plan for plan in families(Problem(9, capacity, source))}
    assert set(found) - {"t^−γ*"} == {"constant", "1/√t, bare", "1/√t"}
    assert ("t^−γ*" in found) == (gamma is not None)
    if gamma is not None:
        assert dict(found["t^−γ*"].fixed) == {"exponent": gamma}


def test_ratios_are_those_of_the_schedules_that_are_printed(advice: Advice) -> None:
    best = [line.best.risk for line in advice.baselines]
    for one in advice.candidates:
        assert one.horizons == (20, 50, 127, 320)
        assert (one.schedule, one.rule) == (rounded(one.schedule), rounded(one.rule))
        schedule = schedules.schedule(schedules.spec(one.schedule))
        exact = risk(schedule, rules.rule(rules.spec(one.rule)), one.horizons)
        assert one.risk == pytest.approx(exact, rel=1e-9)
        assert one.ratios == pytest.approx(np.array(exact) / best, rel=1e-9)
        assert one.regret == max(one.ratios)
        assert one.ratios[one.horizons.index(one.worst)] == one.regret
        peak = schedules.peak(schedule)
        assert peak is not None
        assert one.multiplier == pytest.approx(peak * PROBLEM.trace)


def test_the_family_that_holds_the_others_is_the_best(advice: Advice) -> None:
    regrets = {one.family: one.regret for one in advice.candidates}
    assert [one.regret for one in advice.candidates] == sorted(regrets.values())
    assert regrets["power"] <= 1.001 * min(regrets.values())
    assert regrets["constant"] > 1.02 * regrets["power"]
    assert regrets["1/√t, bare"] > 1.02 * regrets["1/√t"]
    assert min(regrets.values()) > 1.0


def test_a_finer_grid_finds_nothing_better(advice: Advice) -> None:
    """A constant rate and an average: the least of the largest ratio, by hand."""
    best = np.array([line.best.risk for line in advice.baselines])
    at = advice.candidates[0].horizons
    powers = np.linspace(1.0, 5.0, 21)
    named = {f"p{p}": Polynomial(p) for p in powers}
    least = min(
        (np.array([found[name] for name in named]) / best).max(axis=1).min()
        for peak in np.geomspace(0.1, 0.4, 60)
        for found in [simulate(PROBLEM, Constant(peak), named, steps=320, at=at, method="exact")]
    )
    found = next(one for one in advice.candidates if one.family == "constant")
    assert found.rules["polynomial"] == pytest.approx(least, rel=3e-3)
    assert found.rules["power_ema"] < 0.995 * found.rules["polynomial"]  # so short, kinds differ
    assert isinstance(found.rule, PowerEma)
    assert found.regret == pytest.approx(found.rules["power_ema"], rel=1e-3)


def test_against_what_is_decayed(advice: Advice) -> None:
    one = advice.chosen
    decayed = [
        min(arm.risk for arm in line.arms if arm.name in ("wsd", "cosine", "linear"))
        for line in advice.baselines
    ]
    np.testing.assert_allclose(advice.against_decayed(one), np.array(one.risk) / decayed)


def test_one_horizon_has_no_regret() -> None:
    (line,) = baselines(BENCH, [150], ARMS)
    found = compare(BENCH, Range((150,), np.array([line.best.risk])), (CONSTANT, INVERSE_SQRT))
    assert [one.family for one in found] == ["constant", "1/√t", "power"]
    assert found[-1].regret == pytest.approx(1.0, abs=3e-3)


# --- settings --------------------------------------------------------------------------------


def test_the_level_is_the_rate_at_the_reference() -> None:
    values = {"level": 0.3, "warmup": 7.0, "exponent": 0.4, "offset": 12.0}
    schedule = FREE.schedule(values, BENCH, 90.0)
    assert isinstance(schedule, Power)
    assert schedule(90.0) * BENCH.trace == pytest.approx(0.3)
    assert (schedule.warmup, schedule.exponent, schedule.offset) == (7.0, 0.4, 12.0)
    assert CONSTANT.schedule(values, BENCH, 90.0) == Constant(0.3 / BENCH.trace, 7.0)
    half = INVERSE_SQRT.schedule(values, BENCH, 90.0)
    assert isinstance(half, InverseSqrt)
    assert half(90.0) * BENCH.trace == pytest.approx(0.3)


@pytest.mark.parametrize("p", [0.0, 0.5, 3.0, 40.0])
def test_every_kind_of_average_has_weights_as_s_to_the_p(p: float) -> None:
    """The mean of s/T is (p + 1)/(p + 2)."""
    steps = 4_000
    for kind, make in RULES.items():
        weights = rules.weights(make(p), steps)
        mean = float(weights @ np.arange(steps + 1)) / steps
        assert mean == pytest.approx((p + 1) / (p + 2), abs=2e-3), kind


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        (Power(0.123456, 12.7, 0.98765, 12345.6), Power(0.1234, 12.0, 0.9876, 12340.0)),
        (Constant(0.5), Constant(0.5)),
        (Cosine(peak=1.23456e-4, horizon=17_783.0), Cosine(peak=1.234e-4, horizon=17_783.0)),
        (Polynomial(0.29), Polynomial(0.29)),
        (PowerEma(sqrt(1 / 12)), PowerEma(0.2886)),
        (AnytimeEma(3 / log(2)), AnytimeEma(4.328)),
        (Uniform(), Uniform()),
    ],
)
def test_settings_are_cut_to_four_digits(value: object, cut: object) -> None:
    assert rounded(value) == cut
