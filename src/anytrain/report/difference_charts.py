"""Differences to the baseline at every horizon, of the study and of the paper; and the regret."""

from math import sqrt

from anytrain.compare.findings import Findings
from anytrain.compare.readings import Difference, variants
from anytrain.compare.reference import ARMS, BASELINE, reference
from anytrain.report.cast import Part, beside, cast, horizon_axis, units
from anytrain.report.charts import Axis, Bar, BarChart, Chart, Mark, Series, Shape
from anytrain.words import signed, tokens

_ROLES = {"constant": "other1", "inverse_sqrt": "best", "wsd": "other3"}  # where it has no arm


def difference_charts(found: Findings) -> tuple[Chart, ...]:
    """Ours with intervals, then the paper's for every model of its."""
    ours = _ours(found)
    return (*((ours,) if ours else ()), *_papers(found))


def _ours(found: Findings) -> Chart | None:
    results, parts = found.results, cast(found.results, found.anytime)
    shown = [
        (arm, found.differences[arm, variants(results, arm)[0]])
        for arm in results.arms
        if arm != results.baseline and found.differences[arm, variants(results, arm)[0]]
    ]
    if not shown:
        return None
    series = []
    for number, (arm, by_horizon) in enumerate(shown):
        differences = list(by_horizon.values())
        series.append(
            Series(
                arm,
                tuple(beside(d.horizon * results.unit, number, len(shown)) for d in differences),
                tuple(d.seeds.mean for d in differences),
                tuple(d.seeds.low for d in differences),
                tuple(d.seeds.high for d in differences),
                role=parts[arm].role,
                shape=parts[arm].shape,
                width=2.2 if arm == found.anytime else 1.2,
                hover=tuple(_hover(d, results.unit) for d in differences),
            )
        )
    marks = [Mark(0.0, "y", results.baseline, "baseline", dash=False)]
    inside = [t.horizon for t in found.transient if t.inside]
    after = [h for h in results.horizons if inside and h > max(inside)]
    if after:
        at = results.unit * sqrt(max(inside) * after[0])
        marks.append(Mark(at, "x", "past the transient →", end="bottom"))
    return Chart(
        "differences",
        _title(found),
        horizon_axis(results),
        Axis(f"loss minus {results.baseline}'s, nats/token; below 0 is better", signed=True),
        tuple(series),
        tuple(marks),
        notes=_notes(found),
    )


def _title(found: Findings) -> str:
    one = found.one
    base = found.results.baseline
    if not one:
        return f"Differences to a {base} tuned for each horizon"
    ahead = sum(d.seeds.mean < 0 for d in one.values())
    sure = sum(d.seeds.mean < 0 and d.seeds.sure for d in one.values())
    surely = (
        f", beyond the noise at {sure}"
        if any(d.seeds.low is not None for d in one.values())
        else ""
    )
    return f"{found.anytime} is ahead of a tuned {base} at {ahead} of {len(one)} horizons{surely}"


def _notes(found: Findings) -> tuple[str, ...]:
    results = found.results
    notes = [
        f"Bars: 95% paired-t intervals over {len(results.report_seeds)} seeds, for these held-out "
        "sequences. Arms without a horizon: one setting and one average for all."
        if len(results.report_seeds) > 1
        else "One report seed: there are no intervals."
    ]
    inside = [t for t in found.transient if t.inside]
    if inside:
        where = ", ".join(units(t.horizon) for t in inside)
        notes.append(
            f"{where}: inside the transient, {found.branch} alone is "
            f"{max(t.gap for t in inside):.3f} ahead of {results.baseline} there; it says little "
            "of longer runs."
        )
    return tuple(notes)


def _hover(d: Difference, unit: int) -> str:
    text = (
        f"<b>{d.arm}</b> − {d.baseline.arm}, {tokens(d.horizon * unit)} = {units(d.horizon)}<br>"
        f"{signed(d.seeds.mean)}"
    )
    if d.seeds.low is not None:
        text += f"; over seeds {signed(d.seeds.low)} to {signed(d.seeds.high)}"
    if d.sequences is not None and d.sequences.low is not None:
        low, high = signed(d.sequences.low), signed(d.sequences.high)
        text += f"<br>over seeds and sequences {low} to {high}"
    return text


def _papers(found: Findings) -> tuple[Chart, ...]:
    """The paper's own differences on one scale, a chart a model."""
    rows = reference()
    values = [row.minus_baseline(arm) for row in rows for arm in ARMS]
    ends = (min(values) - 0.0015, max(values) + 0.0015)
    known = cast(found.results, found.anytime)
    charts = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        series = []
        for arm in ARMS:
            part = known.get(arm) or known.get(arm.replace("_", "-"))
            part = part or Part(_ROLES[arm], _shape(arm))
            series.append(
                Series(
                    arm,
                    tuple(row.horizon for row in mine),
                    tuple(row.minus_baseline(arm) for row in mine),
                    role=part.role,
                    shape=part.shape,
                    width=1.4,
                )
            )
        ahead = sum(min(row.minus_baseline(a) for a in ARMS[:2]) < 0 for row in mine)
        ticks = tuple((row.horizon, f"{tokens(row.tokens)}\n{units(row.horizon)}") for row in mine)
        charts.append(
            Chart(
                f"reference-{model.lower()}",
                f"The paper, {model}: a horizon-free arm is ahead at {ahead} of {len(mine)}",
                Axis("tokens, and multiples of compute-optimal", log=True, ticks=ticks),
                Axis(
                    f"loss minus {BASELINE}'s, nats/token; below 0 is better",
                    False,
                    (),
                    ends,
                    signed=True,
                ),
                tuple(series),
                (Mark(0.0, "y", BASELINE, "baseline", dash=False),),
                (f"arXiv:{mine[0].source}, figure 2; one seed, no intervals.",),
            )
        )
    return tuple(charts)


def _shape(arm: str) -> Shape:
    shapes: dict[str, Shape] = {"constant": "circle", "inverse_sqrt": "square", "wsd": "diamond"}
    return shapes[arm]


def regret_chart(found: Findings) -> BarChart | None:
    """What not choosing the best arm of each horizon costs at the worst one."""
    results, parts = found.results, cast(found.results, found.anytime)
    rows = [r for r in found.regrets if r.variant == variants(results, r.arm)[0]]
    if not rows:
        return None
    least = rows[0]
    return BarChart(
        "regret",
        f"{least.arm} is never more than {least.nats:.4f} nats/token behind the best arm"
        if least.nats > 0
        else f"{least.arm} is the best arm at every horizon",
        Axis("regret: loss minus the best arm's, at the worst horizon, nats/token"),
        tuple(r.arm for r in rows),
        (
            Bar(
                "regret",
                tuple(r.nats for r in rows),
                tuple(f"{r.nats:.4f} at {units(r.horizon)}" for r in rows),
                roles=tuple(parts[r.arm].role for r in rows),
            ),
        ),
        notes=(
            "Arms without a horizon: at one setting and one average; the others are tuned and "
            "trained for each horizon.",
        ),
    )
