"""The forecast with the last doubling hidden, and the laws' scores, on studies made by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anytrain.compare.calibration import best_points, calibration
from anytrain.compare.law_scores import NO_DROP, SAME_DROP, errors, learning_rates, measured, scores
from anytrain.compare.laws import Annealing, Fitted
from anytrain.compare.results import Curve, Results
from anytrain.report.prediction_sections import sections
from anytrain.report.sections import Section
from studies import BEST, KINDS, UNIT, study

STEP = 4096  # tokens
TRUTH = Fitted(Annealing(), 2.2, 0.9, 0.9, 0.5, (1.6,), 0.0)
RECIPE = (
    'name = "made-up"\nunit = "1000-steps"\nschedule = "{}"\n[train]\nbatch = 16\ncontext = 256\n'
    "[model]\nlayers = 1\nwidth = 16\nheads = 2\n[averages]\n"
    "[optimizer]\nkind = 'adamw'\nbeta1 = 0.9\nweight_decay = 0.1\n"
)


def schedule(arm: str, horizon: float | None) -> str:
    end = round((horizon or 0) * UNIT / STEP)
    peak = BEST["linear" if arm == "linear" else "constant"]  # linear's is another one
    trunk = f"constant:peak={peak},warmup=100-steps"
    return {
        "constant": trunk,
        "inverse_sqrt": f"inverse_sqrt:peak={peak},warmup=100-steps,offset=500-steps",
        "wsd": f"cooldown:trunk=({trunk}),start={end * 9 // 10}-steps,horizon={end}-steps",
    }.get(arm, f"{arm}:peak={peak},warmup=100-steps,horizon={end}-steps")


def lawful(curve: Curve, recipe: dict[str, object]) -> Curve:
    """The curve with the raw losses that the true law has at its rates."""
    steps = np.rint(np.array(curve.tokens) / STEP).astype(np.int64)
    losses = TRUTH.predict(learning_rates(recipe, int(steps[-1])), steps)
    return replace(curve, losses={**curve.losses, "raw": tuple(losses.tolist())})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the made-up study: a recipe for each run."""
    folder = tmp_path_factory.mktemp("study")
    for curve in study().curves:
        run = folder / "runs" / curve.run
        run.mkdir(parents=True)
        (run / "recipe.toml").write_text(RECIPE.format(schedule(curve.arm, curve.horizon)))
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    """The made-up study, its raw losses by the annealing law; two seeds, to be quick."""
    from anytrain.rundir import RunDir

    made = study()
    curves = [c for c in made.curves if c.seed in (11, 12)]
    curves = [lawful(c, RunDir(out / "runs" / c.run).recipe) for c in curves]
    return replace(made, curves=tuple(curves), report_seeds=(11, 12))


# --- the forecast ----------------------------------------------------------------------------


def test_every_run_without_a_horizon_is_forecast_once() -> None:
    made = study()
    shared = replace(made, curves=(*made.curves, replace(made.curves[0], arm="inverse_sqrt")))
    found = calibration(shared)
    free = [c.run for c in made.curves if KINDS[c.arm] == "free"]
    assert [h.run for h in found.hindsights] == free
    assert not found.too_early


def test_what_is_hidden_is_the_last_doubling() -> None:
    made = study()
    (h, *_) = calibration(made).hindsights
    curve = made.curves[0]
    points = dict(best_points(curve))
    assert h.tokens == pytest.approx(curve.tokens[-1], rel=1e-6)
    assert h.measured == pytest.approx(points[curve.tokens[-1] / 2] - points[curve.tokens[-1]])
    changed = tuple(v + 9.0 if d > curve.tokens[-1] / 2 else v for d, v in points.items())
    later = replace(curve, losses={"raw": changed})
    (other,) = calibration(replace(made, curves=(later,))).hindsights
    assert other.ahead == h.ahead  # what came later had no say
    assert not other.held


def test_coverage_and_errors() -> None:
    """A smooth made-up law with noise: the intervals hold, the sentence counts them."""
    found = calibration(study())
    assert found.covered >= 8
    assert found.median_error is not None
    assert found.median_error < 0.01
    assert f"covered {found.covered} of 10 measured gains" in found.sentence()


def test_between_evaluations_the_gain_is_interpolated() -> None:
    made = study()
    curve = made.curves[0]
    keep = [i for i, d in enumerate(curve.tokens) if d != curve.tokens[-1] // 2]
    thinner = replace(
        curve,
        tokens=tuple(curve.tokens[i] for i in keep),
        losses={n: tuple(v[i] for i in keep) for n, v in curve.losses.items()},
    )
    (whole,) = calibration(replace(made, curves=(curve,))).hindsights
    (h,) = calibration(replace(made, curves=(thinner,))).hindsights
    assert h.tokens < thinner.tokens[-1]
    assert h.measured == pytest.approx(whole.measured, abs=0.02)


def test_the_step_that_reaches_half_the_tokens_counts() -> None:
    """1000 tokens past half of the end: still the last doubling, not the one before."""
    made = study()
    curve = made.curves[0]
    half = curve.tokens[-1] // 2
    tokens = tuple(d + 1000 if abs(d - half) < 2 else d for d in curve.tokens)
    (h,) = calibration(replace(made, curves=(replace(curve, tokens=tokens),))).hindsights
    (exact,) = calibration(replace(made, curves=(curve,))).hindsights
    assert h.tokens == 2 * (half + 1000)
    assert h.measured == pytest.approx(exact.measured, abs=1e-3)


def test_an_average_that_came_later_bends_no_curve() -> None:
    """It is known at the last moment alone, far below the others."""
    made = study()
    curve = made.curves[0]
    late = (*([float("nan")] * (len(curve.tokens) - 1)), 1.0)
    both = replace(curve, losses={"late": late, **curve.losses})
    assert best_points(both) == best_points(curve)


def test_a_short_run_is_too_early() -> None:
    made = study()
    curve = made.curves[0]
    short = replace(
        curve, tokens=curve.tokens[:3], losses={n: v[:3] for n, v in curve.losses.items()}
    )
    found = calibration(replace(made, curves=(short,)))
    assert found.hindsights == ()
    assert found.too_early[0][0] == curve.run
    assert found.sentence() == "No run is long enough to hide its last doubling."
    assert calibration(replace(made, curves=())).median_error is None


# --- the laws --------------------------------------------------------------------------------


def test_rates_of_a_branch_include_its_trunk() -> None:
    recipe = {"schedule": schedule("wsd", 1), "train": {"batch": 16, "context": 256}}
    lr = learning_rates(recipe, 1000)
    assert lr[:100] == pytest.approx(2e-3 * np.arange(1, 101) / 100)
    assert set(lr[100:900].tolist()) == {2e-3}
    assert lr[-1] == 0
    curve = Curve("wsd", "report", 1, "", "", 1.0, 1, (STEP * 50, UNIT), {"raw": (9.0, 3.0)})
    assert measured(curve, recipe).steps.tolist() == [1000]  # not in the warmup


def test_the_law_that_made_the_losses_wins(results: Results, out: Path) -> None:
    found = scores(results, out)
    arms = {(s.arm, s.horizon) for s in found}
    assert ("wsd", 1.0) not in arms  # it was fitted
    # linear has another peak than any constant run
    assert arms == {("wsd", h) for h in (2, 4, 8)} | {("cosine", h) for h in (1, 2, 4, 8)}
    assert {s.seed for s in found} == {11, 12}
    table = errors(found)
    for arm in ("wsd", "cosine"):
        assert table["annealing", arm][1] < 0.25 * table[NO_DROP, arm][1]
    assert table["annealing", "wsd"][1] < 4e-3
    assert table[SAME_DROP, "wsd"][0] == 6


def test_two_branches_are_fitted_where_only_their_ends_are_known(
    results: Results, out: Path
) -> None:
    def end(curve: Curve) -> Curve:
        losses = {n: v[-1:] for n, v in curve.losses.items()}
        return replace(curve, tokens=curve.tokens[-1:], losses=losses)

    curves = tuple(c if c.horizon is None else end(c) for c in results.curves)
    found = scores(replace(results, curves=curves), out)
    assert {s.horizon for s in found if s.arm == "wsd"} == {4.0, 8.0}
    table = errors(found)
    for arm in ("wsd", "cosine"):
        assert table["annealing", arm][1] < 0.25 * table[NO_DROP, arm][1]
    branches = tuple(c for c in curves if c.arm in ("constant", "wsd") and (c.horizon or 0) <= 2)
    assert scores(replace(results, curves=branches), out) == ()  # nothing is left to predict


def test_without_recipes_there_are_no_scores(results: Results, tmp_path: Path) -> None:
    assert scores(results, tmp_path) == ()


# --- the page --------------------------------------------------------------------------------


def texts(part: Section) -> str:
    cells = [c.text for table in part.tables for row in table.rows for c in row]
    return " ".join([part.title, *part.paragraphs, *cells])


def test_sections(results: Results, out: Path) -> None:
    from anytrain.report import chart_plotly

    ahead, laws = sections(results, out)
    assert "interval covered" in texts(ahead)
    assert "annealing" in texts(laws)
    assert NO_DROP in texts(laws)
    for part in (ahead, laws):
        for chart in part.charts:
            assert chart_plotly.figure(chart)["data"]


def test_sections_of_a_study_that_has_begun(
    out: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sections(replace(results, curves=()), out) == []
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    _, laws = sections(results, out)
    assert "pip install 'anytrain[report]'" in laws.paragraphs[0]
