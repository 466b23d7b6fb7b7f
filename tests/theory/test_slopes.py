"""Slopes: theory's at full size, what finite sizes do to them, and the page that says so."""

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from anytrain.theory import Problem, rates
from anytrain.theory.slopes import PER_DECADE, REACH, last_decade, local, local_slopes, slope
from anytrain.theory.sweep import MULTIPLIERS, WINDOWS, Arm, Panel, Setting, Setup, run, run_panel

PAPER = Setup()
SMALL = Setup(dim=60, steps=200)


@lru_cache
def panel() -> Panel:
    """At b = 3a, γ* = 2/3: t^(−γ*) is no other arm."""
    return run_panel(SMALL, 1.5, 4.5, workers=2)


def test_slopes_of_a_power_law() -> None:
    at = PAPER.checkpoints
    law = 3.0 * np.array(at, dtype=float) ** -0.7
    assert slope(at, law) == pytest.approx(-0.7)
    bent = law * np.where(np.array(at) < 5000, 7.0, 1.0)  # before the last decade
    assert slope(at, bent) == pytest.approx(-0.7)
    assert np.isnan(slope(at, np.zeros(8)))
    steps = tuple(round(100 * 10 ** (k / PER_DECADE)) for k in range(20))
    two = np.array([n**-0.5 if n < 1000 else 1000**0.5 / n for n in map(float, steps)])
    middle, risk, found = local(steps, two)
    assert middle == steps[REACH:-REACH]
    np.testing.assert_array_equal(risk, two[REACH:-REACH])
    assert found[:3] == pytest.approx(-0.5)
    assert found[-3:] == pytest.approx(-1.0)


def full_size(arm: Arm, capacity: float, source: float, window: int) -> float:
    """The slope of an average at multiplier 1, the paper's dimension and checkpoints."""
    problem = PAPER.problem(capacity, source)
    gamma = rates(capacity, source).gamma
    found = run(problem, arm, Setting(1.0, window), PAPER.checkpoints, gamma)
    return slope(PAPER.checkpoints, found.risk)


@pytest.mark.parametrize("window", [1, 2, 16])
@pytest.mark.parametrize("capacity", [1.1, 1.5, 1.9])
def test_the_anytime_power_has_the_minimax_slope(capacity: float, window: int) -> None:
    """Whatever the window, at multiplier 1: nothing is searched."""
    found = full_size("power", capacity, 2 * capacity, window)
    assert found == pytest.approx(-(1 - 1 / (2 * capacity)), abs=0.03)
    assert found != pytest.approx(-(1 - 1 / capacity), abs=0.2)


@pytest.mark.parametrize(
    ("capacity", "ratio", "window"),
    [*((a, 2, m) for a in (1.5, 1.9) for m in (2, 4, 16)), (1.5, 1, 1), (1.9, 1, 1)],
)
def test_the_constant_has_its_slope(capacity: float, ratio: int, window: int) -> None:
    """Where it is there by N = 50,000: see the next test for where it is not."""
    found = full_size("constant", capacity, ratio * capacity, window)
    assert found == pytest.approx(-(1 - 1 / capacity), abs=0.03)


def far_slope(capacity: float, source: float, dim: int, steps: int) -> float:
    """At multiplier 1, window 2."""
    problem = Problem(dim, capacity, source, PAPER.noise)
    at = (round(steps / 10**0.4), steps)
    found = run(problem, "constant", Setting(1.0, 2), at, 0.0)
    return slope(at, found.risk)


@pytest.mark.parametrize(("capacity", "source"), [(1.5, 1.5), (1.9, 1.9), (1.1, 2.2)])
def test_finite_sizes_keep_the_constant_from_its_slope(capacity: float, source: float) -> None:
    """Larger N or d, and it comes nearer; with few dimensions all are learned, and it is steep."""
    limit = -(1 - 1 / capacity)
    near, far = (far_slope(capacity, source, 2_000_000, n) for n in (5000, 200_000))
    assert abs(far - limit) < 0.03
    assert abs(far - limit) < abs(near - limit)
    assert far_slope(capacity, source, 2000, 200_000) < far - 0.03


def test_last_decades_and_local_slopes_of_a_panel() -> None:
    rows = list(last_decade(panel()))
    assert len(rows) == len(panel().curves) + 2 * len(WINDOWS)
    for row in rows:
        grid = panel().grid(row.arm, row.weights)
        if row.chosen != "horizon":
            risk = grid.risk[grid.settings.index(row.setting)]
            assert row.value == pytest.approx(slope(SMALL.checkpoints, risk), abs=1e-6)
            assert row.risk == pytest.approx(risk[-1], rel=1e-7)
    assert {row.setting.window for row in rows if row.chosen == "fixed"} == set(WINDOWS)

    lines = local_slopes(panel(), (20, 60), 2000)
    assert [(line.dim, line.arm, line.chosen) for line in lines] == [
        *((20, "constant", "fixed"), (60, "constant", "fixed")),
        *((20, "power", "fixed"), (60, "power", "fixed")),
        *((60, "constant", "mean"), (60, "inverse_sqrt_offset", "mean")),
    ]
    chosen = lines[-1]
    assert chosen.setting == panel().curve("inverse_sqrt_offset").settings[0]
    assert chosen.steps[0] > SMALL.checkpoints[0]
    assert 1000 < chosen.steps[-1] < 2000
    assert (chosen.slope < 0).all()


def test_local_slopes_leave_out_what_diverges() -> None:
    """λ₁ is most of the trace at a = 3: a rate of 1/tr H is not stable there."""
    found = run_panel(SMALL, 3.0, 6.0)
    assert np.isinf(found.grid("constant").risk[MULTIPLIERS.index(1.0)]).all()
    assert all(row.arm != "constant" for row in last_decade(found) if row.chosen == "fixed")
    lines = local_slopes(found, (60,), 2000)
    assert {line.arm for line in lines if line.chosen == "fixed"} == {"power"}


@pytest.mark.slow
def test_the_slopes_of_figure_3() -> None:
    """d = 500,000, N = 50,000 and every grid: t^(−γ*) with averaging as the paper chooses it."""
    for capacity in (1.1, 1.5, 1.9):
        found = run_panel(PAPER, capacity, 2 * capacity, workers=2)
        power = found.curve("power")
        assert slope(PAPER.checkpoints, power.risk) == pytest.approx(
            -(1 - 1 / (2 * capacity)), abs=0.03
        )
        # its bad constant: at the same slope several times the risk of what starts later to fall
        assert power.risk[-1] > 2.5 * found.curve("inverse_sqrt_offset").risk[-1]
        assert all(curve.bound < 1e-9 for curve in found.curves)


# --- experiments/0003-figure3 ----------------------------------------------------------------

FIGURE3 = Path(__file__).parents[2] / "experiments" / "0003-figure3"


def test_the_page_says_what_its_files_say() -> None:
    spec = importlib.util.spec_from_file_location("figure3", FIGURE3 / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (FIGURE3 / "README.md").read_text(encoding="utf-8")
    for name, table in module.tables().items():
        assert table in text, f"{name}: run python experiments/0003-figure3/run.py tables"


def test_its_files_are_what_the_code_gives() -> None:
    """At full size, the rows for which nothing has to be searched."""
    with (FIGURE3 / "slopes.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["chosen"] == "fixed"]
    assert len(rows) == 45
    for row in rows[::7]:
        a, b, window = float(row["capacity"]), float(row["source"]), int(row["window"])
        found = full_size("power" if row["arm"] == "power" else "constant", a, b, window)
        assert found == pytest.approx(float(row["slope"]), abs=1e-5)
