"""Two parts of a study's page: what one more doubling buys, and laws of decayed runs."""

from pathlib import Path
from statistics import median

from anytrain.compare.calibration import Calibration, Hindsight, calibration
from anytrain.compare.law_scores import NO_DROP, SAME_DROP, Score, errors, scores
from anytrain.compare.results import Results
from anytrain.errors import UserError
from anytrain.report.charts import SHAPES, Axis, Chart, Series
from anytrain.report.sections import Cell, Section, Table, gap, number
from anytrain.words import signed, tokens

_ROLES = ("best", "other1", "other2", "other3", "baseline")


def sections(results: Results, out: Path) -> list[Section]:
    """Those of the two that have something to show; `out` is the study's directory."""
    known = calibration(results, out)
    found = [doublings(known)] if known.hindsights else []
    try:
        predicted = scores(results, out)
    except UserError as why:  # scipy is not installed
        return [*found, Section("Laws that predict a decayed run", (f"Not shown: {why}.",))]
    return [*found, *([laws(predicted)] if predicted else [])]


# --- the next doubling -----------------------------------------------------------------------


def doublings(known: Calibration) -> Section:
    """Forecast against measured gain, and every run in a table."""
    arms = list(dict.fromkeys(h.arm for h in known.hindsights))
    rows = [("all", known.hindsights)]
    rows += [(arm, tuple(h for h in known.hindsights if h.arm == arm)) for arm in arms]
    table = Table(
        ("arm", "runs", "covered", "median error", "median bias", "median gain"),
        tuple(_coverage(name, part) for name, part in rows),
        "The last doubling, forecast from what was known at half the tokens",
        ("Errors in nats/token; a bias above 0 promised more than there was.",),
    )
    paragraphs = [
        "Every run without a horizon, tuning included, with its last doubling hidden: the "
        f"forecast is what anytrain status says. {known.sentence()}"
    ]
    if known.too_early:
        paragraphs.append(
            f"{len(known.too_early)} runs had too few evaluations by then to be forecast."
        )
    return Section(
        "What one more doubling buys", tuple(paragraphs), (_calibration_chart(known),), (table,)
    )


def _coverage(name: str, part: tuple[Hindsight, ...]) -> tuple[Cell, ...]:
    whole = Calibration(part)
    return (
        Cell(name),
        Cell(str(len(part)), len(part)),
        Cell(f"{whole.covered} of {len(part)}", whole.covered / len(part)),
        number(whole.median_error),
        gap(whole.bias),
        number(median(h.measured for h in part)),
    )


def _calibration_chart(known: Calibration) -> Chart:
    """Measured gains along, forecast ones up; on the diagonal a forecast was right."""
    shown = _shown(known)
    series = [Series("right", shown, shown, role="plain", dash=True, width=1.0, label="")]
    arms = dict.fromkeys(h.arm for h in known.hindsights)
    for number_, arm in enumerate(arms):
        part = sorted(
            (h for h in known.hindsights if h.arm == arm), key=lambda hindsight: hindsight.measured
        )
        series.append(
            Series(
                arm,
                tuple(h.measured for h in part),
                tuple(h.ahead.gain for h in part),
                tuple(max(h.ahead.low, shown[0]) for h in part),
                tuple(min(h.ahead.high, shown[1]) for h in part),
                role=_ROLES[number_ % len(_ROLES)],
                line=False,
                shape=SHAPES[number_ % len(SHAPES)],
                hover=tuple(_hindsight_text(h) for h in part),
            )
        )
    return Chart(
        "calibration",
        f"The forecast of the next doubling covered {known.covered} of {len(known.hindsights)}",
        Axis("measured gain, nats/token", range=shown),
        Axis("forecast gain with its 80% interval, nats/token", range=shown),
        tuple(series),
        notes=("On the dashed line a forecast was right. Bars end at the edge of the picture.",),
    )


def _shown(known: Calibration) -> tuple[float, float]:
    """Ends of both axes: the points, and as much of their bars as leaves the points apart."""
    points = [v for h in known.hindsights for v in (h.measured, h.ahead.gain)]
    low, high = min(points), max(points)
    room = max(high - low, median(h.ahead.high - h.ahead.low for h in known.hindsights))
    bars = [v for h in known.hindsights for v in (h.ahead.low, h.ahead.high)]
    low, high = max(min(bars), low - room), min(max(bars), high + room)
    pad = 0.04 * (high - low)
    return low - pad, high + pad


def _hindsight_text(h: Hindsight) -> str:
    return (
        f"{h.arm}, seed {h.seed}, {h.setting}<br>to {tokens(h.tokens)} tokens: measured "
        f"{signed(h.measured)}, forecast {signed(h.ahead.gain)} "
        f"({signed(h.ahead.low)} to {signed(h.ahead.high)})"
    )


# --- laws ------------------------------------------------------------------------------------


def laws(found: tuple[Score, ...]) -> Section:
    """Errors of every law and of two predictors that need none."""
    summary = errors(found)
    names = list(dict.fromkeys(score.law for score in found))
    best = {
        arm: min(summary[n, arm][1] for n in names if (n, arm) in summary)
        for arm in dict.fromkeys(score.arm for score in found)
    }
    rows = tuple(
        (
            Cell(law),
            Cell(arm),
            Cell(str(count), count),
            Cell(f"{middle:.4f}", middle, "best" if middle == best[arm] else ""),
            number(largest),
        )
        for (law, arm), (count, middle, largest) in sorted(
            summary.items(), key=lambda item: (item[0][1], names.index(item[0][0]))
        )
    )
    table = Table(
        ("predictor", "arm", "ends", "median error", "largest error"),
        rows,
        "Predicted ends of decayed runs, nats/token",
    )
    paragraphs = (
        "The annealing law (Tissue 2024, arXiv:2408.11029) and the multi-power law (Luo 2025, "
        "arXiv:2503.12811) predict a loss curve from the learning rates alone. Here each is "
        "fitted, for each seed and peak rate, to the raw losses of the constant run and of the "
        "shortest decayed run (the two shortest, where that was evaluated fewer than three times), "
        "and predicts "
        "where the others ended. So little decay does not determine all of a law: how fast it "
        "works (λ; C, β and γ) has a weak prior of ours around the values of its authors.",
        f"“{NO_DROP}” takes the constant run's own loss at the same tokens; “{SAME_DROP}” takes "
        "off what the last fitted decay brought.",
    )
    return Section("Laws that predict a decayed run", paragraphs, (_law_chart(found),), (table,))


def _law_chart(found: tuple[Score, ...]) -> Chart:
    """Errors against the horizon, the predictors side by side."""
    names = list(dict.fromkeys(score.law for score in found))
    horizons = sorted({score.horizon for score in found})
    series = []
    for index, law in enumerate(names):
        part = sorted((s for s in found if s.law == law), key=lambda score: score.horizon)
        shift = 2.0 ** ((index - (len(names) - 1) / 2) * 0.12)
        role = "plain" if law == NO_DROP else "average" if law == SAME_DROP else _ROLES[index % 2]
        series.append(
            Series(
                law,
                tuple(score.horizon * shift for score in part),
                tuple(score.error for score in part),
                role=role,
                line=False,
                shape=SHAPES[index % len(SHAPES)],
                hover=tuple(
                    f"{score.law}: {score.arm}, seed {score.seed}, {score.horizon:g}×<br>predicted "
                    f"{score.predicted:.4f}, measured {score.measured:.4f}"
                    for score in part
                ),
            )
        )
    return Chart(
        "laws",
        "Predicted minus measured loss at the end of decayed runs",
        Axis("units", log=True, ticks=tuple((h, f"{h:g}×") for h in horizons)),
        Axis("predicted − measured, nats/token", signed=True),
        tuple(series),
        notes=(
            "Every point is one run of one seed; above 0 the decay brought more than predicted.",
        ),
    )
