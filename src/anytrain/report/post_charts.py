"""Figures of a post-training study: scores against losses, sharpness, rates, and what is lost."""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from anytrain.compare.correlation import Point, against, correlation
from anytrain.compare.paired import Interval
from anytrain.compare.post import (
    Kind,
    PostResults,
    decimals,
    forgetting,
    minus,
)
from anytrain.report.charts import Axis, Bar, BarChart, Chart, Series, Shape
from anytrain.words import chance, signed

ROLES: dict[Kind, str] = {"raw": "best", "decayed": "baseline", "averaged": "other2"}
MARKS: dict[Kind, Shape] = {"raw": "circle", "decayed": "square", "averaged": "triangle"}


def scatter(results: PostResults, what: Literal["loss", "trace"]) -> Chart | None:
    """Mean score against what pre-training left; None with fewer than two bases."""
    points = against(results, what)
    if len(points) < 2:
        return None
    found = correlation(results, what)
    said = ""
    if found is not None:
        said = f": r = {signed(found.r, 2)} over {found.n} bases"
        if found.p is not None:
            said += ", " + chance(found.p).replace(" ", "\N{NO-BREAK SPACE}")
    x = {"loss": "pre-training loss, nats/token", "trace": "trace of the Hessian"}[what]
    return Chart(
        f"score-against-{what}",
        f"Score after fine-tuning against {'loss' if what == 'loss' else 'sharpness'}{said}",
        Axis(x, log=0 < 10 * min(p.x for p in points) < max(p.x for p in points)),
        Axis("mean score after fine-tuning, %"),
        tuple(_dot(results, point) for point in points),
        notes=(
            "Means over seeds; each mark is a base. Bases that are made of one run are not "
            "independent of each other, so p is too small.",
        ),
    )


def _dot(results: PostResults, point: Point) -> Series:
    of = results.bases[point.base]
    y = 100 * point.y
    return Series(
        point.base, (point.x,), (y,),
        role=ROLES[of], line=False, shape=MARKS[of], label="end",
        hover=(f"<b>{point.base}</b><br>{point.x:.4g}, {y:.1f}%",),
    )  # fmt: skip


def differences(results: PostResults, other: str) -> BarChart | None:
    """Score of every base minus the best decayed one's."""
    rows: list[tuple[str, Interval]] = []
    for base in results.bases:
        found = None if base == other else minus(results, base, other)
        if found is not None:
            rows.append((base, found))
    if not rows:
        return None
    return BarChart(
        "score-differences",
        f"Score after fine-tuning, minus {other}'s",
        Axis(f"points of the mean over tasks{_lines(rows)}", signed=True),
        tuple(base for base, _ in rows),
        (
            Bar(
                "difference",
                tuple(100 * found.mean for _, found in rows),
                tuple(found.around(decimals([found]), 100) for _, found in rows),
                roles=tuple(ROLES[results.bases[base]] for base, _ in rows),
                intervals=tuple(_ends(found, 100) for _, found in rows),
            ),
        ),
        notes=(
            f"Paired by pre-training seed. {other} has the highest mean of the decayed on these "
            "rows: differences to it lean below zero.",
        ),
    )


def _lines(rows: Sequence[tuple[str, Interval]]) -> str:
    """What the lines of a chart are, for the title of its axis."""
    seeds = max(found.seeds for _, found in rows)
    return "" if seeds < 2 else f"; lines: 95% over {seeds} seeds"


def _ends(found: Interval, scale: float) -> tuple[float, float] | None:
    if found.low is None or found.high is None:
        return None
    return scale * found.low, scale * found.high


def forgotten(results: PostResults) -> BarChart | None:
    """How much loss on pre-training text fine-tuning added."""
    rows = [(base, found) for base in results.bases
            if (found := forgetting(results, base)) is not None]  # fmt: skip
    if not rows:
        return None
    return BarChart(
        "forgetting",
        "What fine-tuning forgot",
        Axis(f"pre-training loss after minus before, nats/token{_lines(rows)}"),
        tuple(base for base, _ in rows),
        (
            Bar(
                "rise",
                tuple(found.mean for _, found in rows),
                tuple(found.around(3) for _, found in rows),
                roles=tuple(ROLES[results.bases[base]] for base, _ in rows),
                intervals=tuple(_ends(found, 1) for _, found in rows),
            ),
        ),
    )


def rates(results: PostResults, task: str) -> Chart | None:
    """Selection score against the fine-tuning rate, a line a base, means over seeds."""
    series = []
    for base, of in results.bases.items():
        table: dict[float, list[float]] = {}
        for outcome in results.outcomes:
            if (outcome.base, outcome.task) == (base, task):
                for rate, score in outcome.tuned:
                    if score is not None:
                        table.setdefault(rate, []).append(100 * score)
        if table:
            xs = sorted(table)
            series.append(
                Series(base, tuple(xs), tuple(fmean(table[x]) for x in xs), role=ROLES[of],
                       shape=MARKS[of], dash=of == "averaged")
            )  # fmt: skip
    values = sorted({x for s in series for x in s.x})
    if len(values) < 2:
        return None
    return Chart(
        f"rates-{task}",
        f"{task}: which fine-tuning rate each base prefers",
        Axis("fine-tuning peak rate", log=True, ticks=tuple((v, f"{v:g}") for v in values)),
        Axis("selection score, %"),
        tuple(series),
    )
