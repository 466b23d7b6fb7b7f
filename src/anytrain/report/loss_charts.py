"""Loss against tokens: one anytime run beside runs that were planned for each horizon."""

from collections.abc import Iterable
from math import isfinite

import numpy as np

from anytrain.compare.findings import Findings
from anytrain.compare.readings import reading
from anytrain.compare.results import Choice, Curve
from anytrain.report.cast import cast, token_axis, units
from anytrain.report.charts import Axis, Chart, Series
from anytrain.words import signed

LOSS = Axis("validation loss, nats/token")
_BEFORE = 0.5  # of the smallest horizon: where the axis begins


def loss_charts(found: Findings) -> tuple[Chart, ...]:
    """The curve against the ends, and the curves that lie above it on the way to theirs."""
    charts = (_ends(found), _on_the_way(found))
    return tuple(chart for chart in charts if chart is not None)


def anytime_curve(found: Findings) -> Series | None:
    """The anytime arm at its one choice: mean over report seeds, smallest to largest as a band."""
    choice = found.results.choice(found.anytime) if found.anytime else None
    if choice is None:
        return None
    curve = mean_curve(_report(found, choice), choice.weights)
    if not curve:
        return None
    x, y, low, high = zip(*curve, strict=True)
    return Series(choice.arm, x, y, low, high, role="best", band=True, width=2.4)


def _report(found: Findings, choice: Choice) -> list[Curve]:
    return [
        curve
        for curve in found.results.curves
        if (curve.arm, curve.phase, curve.setting) == (choice.arm, "report", choice.setting)
        and choice.horizon in (None, curve.horizon)
    ]


def mean_curve(curves: Iterable[Curve], weights: str) -> list[tuple[float, float, float, float]]:
    """(tokens, mean, smallest, largest) wherever every one of the curves was evaluated."""
    tables = [
        {t: v for t, v in zip(curve.tokens, curve.losses[weights], strict=True) if isfinite(v)}
        for curve in curves
        if weights in curve.losses
    ]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    out = []
    for at in shared:
        values = [table[at] for table in tables]
        out.append((float(at), sum(values) / len(values), min(values), max(values)))
    return out


def _ends(found: Findings) -> Chart | None:
    """The anytime curve against the ends of tuned runs and of branches."""
    results = found.results
    curve, ends = anytime_curve(found), _tuned(found, results.baseline, line=True)
    if curve is None or ends is None:
        return None
    series = [ends, curve]
    branch = _tuned(found, found.branch, line=False) if found.branch else None
    if branch is not None:
        series.append(branch)
    gaps = [d.seeds.mean for d in found.one.values()]
    title = f"One {found.anytime} run and the runs tuned for each horizon"
    if gaps:
        title = (
            f"One {found.anytime} run is {signed(min(gaps))} to {signed(max(gaps))} from "
            f"a {results.baseline} tuned for each horizon"
        )
    return Chart(
        "loss",
        title,
        token_axis(results, _BEFORE * results.horizons[0] * results.unit),
        LOSS,
        tuple(series),
        notes=(
            f"{_named(found)}: one run at one setting, the mean of {len(results.report_seeds)} "
            "seeds; the band is from the smallest to the largest.",
            f"{results.baseline}: a tuned run for each horizon, where it ended"
            + (f"; {found.branch}: a branch for each." if branch else "."),
        ),
    )


def _named(found: Findings) -> str:
    choice = found.results.choice(found.anytime) if found.anytime else None
    return f"{choice.arm} read from {choice.weights}" if choice else ""


def _tuned(found: Findings, arm: str, line: bool) -> Series | None:
    """Where the runs of an arm ended: mean over seeds, smallest to largest as bars."""
    results, part = found.results, cast(found.results, found.anytime)[arm]
    readings = [r for h in results.horizons if (r := reading(results, arm, h))]
    if not readings:
        return None
    return Series(
        arm,
        tuple(r.horizon * results.unit for r in readings),
        tuple(r.loss for r in readings),
        tuple(min(r.losses) for r in readings),
        tuple(max(r.losses) for r in readings),
        role=part.role,
        line=line,
        dash=True,
        shape=part.shape,
        hollow=not line,
        width=1.3,
    )


def _on_the_way(found: Findings) -> Chart | None:
    """Every tuned run with a horizon read before it, against the anytime curve (figure 1)."""
    results, base = found.results, found.results.baseline
    curve = anytime_curve(found)
    lines = []
    for h in results.horizons:
        choice = results.choice(base, h)
        path = mean_curve(_report(found, choice), choice.weights) if choice else []
        if path:
            x, y, _, _ = zip(*path, strict=True)
            name = f"{base} for {units(h)}"
            lines.append(Series(name, x, y, role="baseline", width=1.3, label="", dash=False))
    if curve is None or not lines:
        return None
    ends = Series(
        base,
        tuple(line.x[-1] for line in lines),
        tuple(line.y[-1] for line in lines),
        role="baseline",
        line=False,
        shape=cast(results, found.anytime)[base].shape,
    )
    first = _BEFORE * results.horizons[0] * results.unit
    longest = lines[-1]
    shared = [x for x in longest.x if max(curve.x[0], results.horizons[0] * results.unit) <= x]
    then = np.interp(np.log(shared), np.log(curve.x), curve.y)
    early = [y - other for y, other in zip(longest.y[-len(shared) :], then, strict=False)]
    cost = f": up to {max(early):.2f} nats/token above" if early and max(early) > 0.005 else ""
    return Chart(
        "figure1",
        f"A {base} is good only where it ends{cost} the anytime curve on its way"
        if cost
        else f"A {base} read before its horizon, and the anytime curve",
        token_axis(results, first),
        LOSS,
        (*lines, ends, curve),
        notes=(
            f"Thin lines: the {base} runs tuned for each horizon, evaluated all the way, mean "
            f"over seeds; marks: where they end. After arXiv:2602.03702, figure 1.",
        ),
    )
