"""Learning rates: values at the edges, exact ends, and what is refused."""

from itertools import pairwise
from math import cos, nextafter, pi, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytrain import schedules
from anytrain.schedules import (
    WSD,
    BeyondHorizon,
    Constant,
    Cooldown,
    Cosine,
    HorizonBound,
    InverseSqrt,
    Linear,
    Power,
    Schedule,
)
from cases import HORIZON_BOUND, SCHEDULES


def test_constant() -> None:
    lr = Constant(3e-3, warmup=10, initial=0.1)
    assert [lr(0), lr(10), lr(1e12)] == [pytest.approx(3e-4), 3e-3, 3e-3]
    assert lr(5) == pytest.approx(3e-3 * 0.55)
    assert Constant(3e-3)(0) == 3e-3  # without a warmup the first step has the peak


def test_inverse_sqrt() -> None:
    lr = InverseSqrt(3e-3, warmup=5000, offset=51200)
    assert lr(0) == 0
    assert lr(2500) == pytest.approx(1.5e-3)
    assert lr(5000) == 3e-3
    assert lr(5000 + 51200) == pytest.approx(3e-3 / sqrt(2))
    assert lr(5000 + 3 * 51200) == pytest.approx(1.5e-3)
    slope = lr(4e12) / lr(1e12)
    assert slope == pytest.approx(0.5, rel=1e-6)  # far out it is t^(-1/2)


def test_the_timescale_of_inverse_sqrt_matters() -> None:
    rates = [InverseSqrt(1.0, 0, offset)(1000) for offset in (10, 100, 1000)]
    assert rates == sorted(set(rates))


def test_power_has_the_others_as_cases() -> None:
    for t in (0, 3, 4, 5, 17.5, 1e6):
        root = InverseSqrt(1e-2, 4, 16)(t)
        assert Power(1e-2, 4, 0.5, 16)(t) == pytest.approx(root, rel=1e-14)
        assert Power(1e-2, 4, 0, 16)(t) == Constant(1e-2, 4)(t)
        assert Power(1e-2, 4, 1, 16)(t) == pytest.approx(
            1e-2 * (t / 4 if t < 4 else 16 / (t - 4 + 16)), rel=1e-14
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_joins_the_rest(name: str) -> None:
    """No jump at the end of the warmup; rising before it, never rising after."""
    lr = SCHEDULES[name]
    warmup, peak = lr.warmup, lr.peak  # type: ignore[attr-defined]
    assert lr(warmup) == peak
    if warmup:
        assert lr(nextafter(warmup, 0)) == pytest.approx(peak, rel=1e-12)
        assert lr(0) == pytest.approx(peak * lr.initial)  # type: ignore[attr-defined]
    before = [lr(warmup * k / 10) for k in range(11)]
    after = [lr(warmup + k) for k in range(100)]
    assert before == sorted(before)
    assert after == sorted(after, reverse=True)


# --- with a horizon --------------------------------------------------------------------------


def test_cosine() -> None:
    lr = Cosine(horizon=110, peak=2.0, warmup=10, final=0.1)
    assert lr(10) == 2.0
    assert lr(60) == pytest.approx(2.0 * 0.55)
    assert lr(35) == pytest.approx(2.0 * (0.1 + 0.45 * (1 + cos(pi / 4))))
    assert lr(110) == 0.2


def test_linear() -> None:
    lr = Linear(horizon=110, peak=2.0, warmup=10, final=0.1)
    assert [lr(10), lr(60), lr(110)] == [2.0, pytest.approx(1.1), 0.2]
    assert Linear(horizon=100, peak=1.0)(75) == pytest.approx(0.25)  # (T − t)/T


def test_wsd() -> None:
    """Stable up to (1 − decay)·T, then down over the rest: the fraction is of the horizon."""
    lr = WSD(horizon=200, peak=1.0, warmup=20, decay=0.25, shape="linear")
    assert [lr(20), lr(100), lr(150)] == [1.0, 1.0, 1.0]
    assert [lr(175), lr(200)] == [pytest.approx(0.5), 0.0]
    root = WSD(horizon=200, peak=1.0, decay=0.25, shape="sqrt")
    assert root(175) == pytest.approx(1 - sqrt(0.5))
    assert WSD(horizon=200, peak=1.0, decay=0.25, shape="square")(175) == pytest.approx(0.75)
    assert WSD(horizon=200, peak=1.0, decay=0.25, shape="cosine")(175) == pytest.approx(0.5)


def test_cooldown() -> None:
    """Its trunk up to its start, to the bit; from there the trunk's rate, decayed."""
    trunk = InverseSqrt(1e-2, 4, 16)
    lr = Cooldown(horizon=100, trunk=trunk, start=90, shape="sqrt", final=0.1)
    assert [lr(t) for t in range(91)] == [trunk(t) for t in range(91)]
    assert lr(95) == pytest.approx(trunk(90) * (0.1 + 0.9 * (1 - sqrt(0.5))))
    assert lr(100) == 0.1 * trunk(90)
    assert Cooldown(horizon=100, trunk=trunk, start=90)(100) == 0.0


@pytest.mark.parametrize("name", HORIZON_BOUND)
def test_the_end_is_exact_and_final(name: str) -> None:
    lr = HORIZON_BOUND[name]
    top = lr.trunk(lr.start) if isinstance(lr, Cooldown) else lr.peak  # type: ignore[attr-defined]
    assert lr(lr.horizon) == lr.final * top  # type: ignore[attr-defined]
    for t in (nextafter(lr.horizon, 1e9), lr.horizon + 1, 10 * lr.horizon):
        with pytest.raises(BeyondHorizon, match=f"horizon of {lr.horizon:g} steps"):
            lr(t)
    begin = lr.start if isinstance(lr, Cooldown) else lr.warmup  # type: ignore[attr-defined]
    falling = [lr(begin + (lr.horizon - begin) * k / 50) for k in range(51)]
    assert falling == sorted(falling, reverse=True)
    assert schedules.horizon(lr) == lr.horizon


@given(
    horizon=st.floats(2, 1e9),
    peak=st.floats(1e-9, 10),
    part=st.floats(0, 0.9),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "sqrt", "cosine", "square"]),
)
def test_any_end_is_exact(
    horizon: float, peak: float, part: float, final: float, shape: schedules.Shape
) -> None:
    warmup = horizon * part
    for lr in (
        Cosine(horizon=horizon, peak=peak, warmup=warmup, final=final),
        Linear(horizon=horizon, peak=peak, warmup=warmup, final=final),
        WSD(horizon=horizon, peak=peak, warmup=warmup, final=final, decay=0.05, shape=shape),
    ):
        assert lr(horizon) == peak * final
        assert all(0 <= lr(horizon * k / 8) <= peak for k in range(9))


def test_what_has_no_horizon_is_another_type() -> None:
    for lr in SCHEDULES.values():
        assert not isinstance(lr, HorizonBound)
        assert schedules.horizon(lr) is None
        assert isinstance(lr, Schedule)


def test_peak() -> None:
    assert schedules.peak(Constant(3e-3)) == 3e-3
    assert schedules.peak(HORIZON_BOUND["cooldown"]) == 1e-2
    assert schedules.peak(lambda t: 1.0) is None


# --- refused at construction -----------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
TRUNK = Constant(1.0)
REFUSED = [
    (lambda: Constant(0), "peak = 0; a learning rate above 0"),
    (lambda: Constant(NAN), "peak = nan"),
    (lambda: Constant(INF), "peak = inf"),
    (lambda: Constant(1, warmup=-1), "warmup = -1; a number of steps, 0 or more"),
    (lambda: Constant(1, initial=1.5), "initial = 1.5; a fraction of the peak"),
    (lambda: InverseSqrt(1, 0, 0), "offset = 0; a number of steps above 0"),
    (lambda: InverseSqrt(-1, 0, 1), "peak = -1"),
    (lambda: InverseSqrt(1, NAN, 1), "warmup = nan"),
    (lambda: Power(1, 0, -0.1, 1), "exponent = -0.1; 0 to 1"),
    (lambda: Power(1, 0, 1.1, 1), "exponent = 1.1; 0 to 1"),
    (lambda: Power(1, 0, 0.5, INF), "offset = inf"),
    (lambda: Cosine(horizon=10, peak=1, warmup=10), "does not exceed warmup = 10"),
    (lambda: Linear(horizon=10, peak=1, warmup=11), "does not exceed warmup = 11"),
    (lambda: WSD(horizon=10, peak=1, warmup=20), "does not exceed warmup = 20"),
    (lambda: Cosine(horizon=0, peak=1), "does not exceed warmup = 0"),
    (lambda: Cosine(horizon=NAN, peak=1), "horizon = nan"),
    (lambda: Cosine(horizon=INF, peak=1), "horizon = inf steps .* finite"),
    (lambda: Cosine(horizon=10, peak=1, final=-0.1), "final = -0.1; a fraction of the peak"),
    (lambda: Linear(horizon=10, peak=1, final=2), "final = 2"),
    (lambda: WSD(horizon=10, peak=1, decay=0), "decay = 0; a fraction above 0"),
    (lambda: WSD(horizon=10, peak=1, warmup=5, decay=0.6), "at most 0.5, is valid"),
    (lambda: WSD(horizon=10, peak=1, shape="cubic"), "linear, sqrt, cosine, square are valid"),
    (lambda: Cooldown(horizon=10, trunk=TRUNK, start=10), "a step from 0 to below horizon = 10"),
    (lambda: Cooldown(horizon=10, trunk=TRUNK, start=-1), "start = -1"),
    (lambda: Cooldown(horizon=INF, trunk=TRUNK, start=1), "horizon = inf"),
    (lambda: Cooldown(horizon=10, trunk=TRUNK, start=9, shape="x"), "shape = 'x'"),
    (lambda: Cooldown(horizon=10, trunk=TRUNK, start=9, final=9), "final = 9"),
    (
        lambda: Cooldown(horizon=10, trunk=Cosine(horizon=9, peak=1), start=5),
        "branches from a schedule without one",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED, ids=[s[:25] for _, s in REFUSED])
def test_refused(make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_rate_does_not_jump_when_the_plan_changes() -> None:
    """Two cooldowns of one trunk agree with it, and each other, up to the earlier start."""
    trunk = InverseSqrt(1e-2, 4, 16)
    early = Cooldown(horizon=50, trunk=trunk, start=45)
    late = Cooldown(horizon=100, trunk=trunk, start=90)
    assert all(early(t) == late(t) == trunk(t) for t in range(46))
    for a, b in pairwise(range(90, 101)):
        assert late(b) < late(a)
