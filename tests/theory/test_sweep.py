"""The sweep: its grids are what they say, its choices the best of them."""

from functools import lru_cache

import numpy as np
import pytest

from anytrain.rules import Polynomial
from anytrain.schedules import WSD, Cosine, InverseSqrt, Schedule
from anytrain.theory import rates, simulate
from anytrain.theory.slopes import slope, unsearched
from anytrain.theory.sweep import (
    FREE,
    HOLDS,
    MULTIPLIERS,
    WINDOWS,
    Arm,
    Grid,
    Panel,
    Setting,
    Setup,
    expected,
    run_panel,
)

SMALL = Setup(dim=60, steps=200)
PAPER = Setup()


@lru_cache
def panel(source: float = 4.5) -> Panel:
    """At b = 3a, γ* = 2/3: t^(−γ*) is no other arm."""
    return run_panel(SMALL, 1.5, source, workers=2)


def test_the_papers_grids() -> None:
    assert PAPER.checkpoints == (1000, 2000, 3000, 5000, 8000, 10_000, 20_000, 50_000)
    assert PAPER.offsets == (400, 800, 1600, 3200, 6400, 12_800, 25_600)
    assert [round(b / a, 9) for a, b in PAPER.panels] == [1, 1, 1, 2, 2, 2]
    assert len(MULTIPLIERS) == 22
    assert list(MULTIPLIERS) == sorted(MULTIPLIERS)
    sizes = {(g.arm, g.weights): g.risk.shape for g in panel().grids}
    assert sizes == {
        ("constant", "average"): (22 * 5, 8),
        ("constant", "last"): (22, 8),
        ("inverse_sqrt", "average"): (22 * 5, 8),
        ("inverse_sqrt", "last"): (22, 8),
        ("inverse_sqrt_offset", "average"): (22 * 5 * 7, 8),
        ("inverse_sqrt_offset", "last"): (22 * 7, 8),
        ("power", "average"): (22 * 5, 8),
        ("power", "last"): (22, 8),
        ("wsd", "last"): (22 * 7, 8),
        ("cosine", "last"): (22, 8),
    }


def plain(arm: Arm, setting: Setting, horizon: int) -> Schedule:
    """The arm as the page writes it."""
    problem = SMALL.problem(1.5, 4.5)
    peak = setting.multiplier / float(np.sum(problem.eigenvalues))
    if arm == "inverse_sqrt_offset":
        assert setting.offset is not None
        return InverseSqrt(peak, 0, setting.offset)  # (1 + t/α)^(−1/2)
    if arm == "wsd":
        assert setting.hold is not None
        return WSD(horizon=horizon, peak=peak, decay=1 - setting.hold)
    if arm == "cosine":
        return Cosine(horizon=horizon, peak=peak)
    gamma = {"constant": 0.0, "inverse_sqrt": 0.5, "power": 2 / 3}[arm]
    return lambda t: peak / t**gamma


@pytest.mark.parametrize("arm", [*FREE, "wsd", "cosine"])
def test_a_grid_holds_the_risk_of_its_settings(arm: Arm) -> None:
    """Run one by one, every eigenvalue by itself, from the equations of the page."""
    problem, rng = SMALL.problem(1.5, 4.5), np.random.default_rng(0)
    for grid in (g for g in panel().grids if g.arm == arm):
        finite = np.flatnonzero(np.isfinite(grid.risk).all(axis=1))
        for k in rng.choice(finite, 6):
            setting = grid.settings[k]
            m = setting.window
            rules = {} if m is None else {"average": Polynomial(m - 1, shift=0)}
            for row in rng.choice(8, 2):
                n = SMALL.checkpoints[row]
                found = simulate(
                    problem, plain(arm, setting, n), rules, method="exact",
                    steps=SMALL.steps if arm in FREE else n, at=[n],
                )  # fmt: skip
                assert found[grid.weights][-1] == pytest.approx(grid.risk[k, row], rel=1e-7)


def test_what_diverges_is_never_chosen() -> None:
    grid = panel().grid("constant")
    assert np.isinf(grid.risk).any(axis=1).sum() >= 5  # a multiplier of 10, at least
    assert all(np.isfinite(curve.risk).all() for curve in panel().curves)


def test_one_setting_by_the_mean_or_one_a_horizon() -> None:
    for curve in panel().curves:
        grid = panel().grid(curve.arm, curve.weights)
        rows = [grid.settings.index(setting) for setting in curve.settings]
        np.testing.assert_allclose(grid.risk[rows, range(8)], curve.risk, rtol=1e-7)
        if curve.chosen == "horizon":
            np.testing.assert_allclose(curve.risk, grid.risk.min(axis=0), rtol=1e-7)
            assert len(set(curve.settings)) > 1
        else:
            assert len(set(curve.settings)) == 1
            assert curve.risk.mean() == pytest.approx(grid.risk.mean(axis=1).min(), rel=1e-7)
        assert (curve.bias < curve.risk).all()
        assert (curve.bias > 0).all()
        assert curve.bound < 1e-6
    tuned, one = panel().curve("wsd", "last", "horizon"), panel().curve("wsd", "last", "mean")
    assert (tuned.risk <= one.risk * (1 + 1e-9)).all()
    assert tuned.risk.mean() < one.risk.mean()


def test_the_ends_of_a_grid_are_flagged() -> None:
    settings = tuple(Setting(m, window=w) for m in (0.1, 1.0, 2.0) for w in (1, 2, 4))
    grid = Grid("constant", "average", settings, np.ones((9, 8)))
    assert grid.edges(Setting(1.0, window=2)) == ()
    assert grid.edges(Setting(0.1, window=2)) == ("multiplier",)
    assert grid.edges(Setting(2.0, window=4)) == ("multiplier", "window")
    for curve in panel().curves:
        for setting, edges in zip(curve.settings, curve.edges, strict=True):
            ends = {
                "multiplier": setting.multiplier in (MULTIPLIERS[0], MULTIPLIERS[-1]),
                "window": setting.window in (WINDOWS[0], WINDOWS[-1]),
                "offset": setting.offset in (SMALL.offsets[0], SMALL.offsets[-1]),
                "hold": setting.hold in (HOLDS[0], HOLDS[-1]),
            }
            assert set(edges) == {name for name, at_end in ends.items() if at_end}


@pytest.mark.parametrize(
    ("source", "twin"), [(1.2, "constant"), (1.5, "constant"), (3.0, "inverse_sqrt"), (4.5, None)]
)
def test_where_t_to_the_minus_gamma_is_another_arm(source: float, twin: Arm | None) -> None:
    found = panel(source)
    assert found.twin == twin
    power = found.grid("power").risk
    for arm in ("constant", "inverse_sqrt"):
        assert np.array_equal(power, found.grid(arm).risk) == (arm == twin)
    assert unsearched(found) == (("constant",) if source <= 1.5 else ("constant", "power"))


def test_the_minimax_line_touches_the_lowest_curve() -> None:
    found = panel()
    line = found.minimax
    assert line is not None
    ratios = [curve.risk / line for curve in found.curves]
    assert np.min(ratios) == pytest.approx(1)
    assert slope(found.checkpoints, line) == pytest.approx(-(1 - 1 / 4.5))
    silent = run_panel(Setup(dim=10, steps=50, noise=0.0), 1.5, 3.0)
    assert silent.minimax is None


def test_workers_change_nothing() -> None:
    alone = run_panel(SMALL, 1.5, 3.0, workers=1)
    for one, two in zip(alone.grids, panel(3.0).grids, strict=True):
        assert one.settings == two.settings
        np.testing.assert_array_equal(one.risk, two.risk)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dim": 0}, "dim = 0; a whole number from 1 on"),
        ({"steps": 49}, "steps = 49; a whole number from 50 on"),
        ({"noise": -0.1}, "noise = -0.1; a variance"),
        ({"panels": ((1.5, 3.0), (1.0, 2.0))}, "capacity = 1.0; above 1"),
        ({"panels": ()}, "one .capacity, source. or more"),
    ],
)
def test_a_setup_says_what_is_wrong(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Setup(**change)  # type: ignore[arg-type]
    assert len(set(Setup(steps=50).checkpoints)) == 8


def test_theory_of_the_arms() -> None:
    found = rates(1.5, 3.0)
    values = {
        (arm, weights, chosen): getattr(expected(found, arm, weights, chosen), "value", None)
        for arm, weights, chosen in [
            ("constant", "average", "mean"),
            ("power", "average", "mean"),
            ("inverse_sqrt", "average", "mean"),
            ("wsd", "last", "mean"),
            ("wsd", "last", "horizon"),
            ("cosine", "last", "horizon"),
            ("constant", "last", "mean"),
        ]
    }
    third, two_thirds = pytest.approx(1 / 3), pytest.approx(2 / 3)
    assert list(values.values()) == [
        *(third, two_thirds, two_thirds),
        *(third, two_thirds, two_thirds, None),
    ]
