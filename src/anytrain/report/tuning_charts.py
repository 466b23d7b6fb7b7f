"""What tuning saw: how sharp the choice of a setting is, and which average wins when."""

from collections.abc import Sequence
from statistics import median

from anytrain.compare.findings import Findings
from anytrain.compare.sensitivity import Sensitivity, sensitivity
from anytrain.compare.winners import Winners, winners
from anytrain.report.cast import horizon_axis, ramp, units
from anytrain.report.charts import Axis, Chart, Mark, Series

# What is this many times the median above the best is cut off.
_TALL_RATE, _TALL_AVERAGE = 15.0, 6.0


def rate_charts(found: Findings) -> tuple[Chart, ...]:
    """A chart an arm on one scale: loss above the best of its horizon against what was tuned."""
    results = found.results
    tuned = {choice.arm: None for choice in results.choices}
    all_of = [s for arm in tuned if (s := sensitivity(results, arm)) is not None]
    if not all_of:
        return ()
    above = [v for s in all_of for row in s.above.values() for v in row.values()]
    highest = _highest(above, above, _TALL_RATE)
    return tuple(_rate(found, s, (-0.04 * highest, 1.12 * highest)) for s in all_of)


def _rate(found: Findings, s: Sensitivity, ends: tuple[float, float]) -> Chart:
    series = []
    for number, h in enumerate(s.above):
        row = s.above[h]
        series.append(
            Series(
                units(h),
                tuple(row),
                tuple(row.values()),
                role=ramp(number, len(s.above)),
                shape="circle",
                width=1.6,
                hover=tuple(
                    f"<b>{s.arm}</b>, {units(h)}<br>{v:g}: +{y:.4f}" for v, y in row.items()
                ),
            )
        )
    cut = any(v > ends[1] for row in s.above.values() for v in row.values())
    return Chart(
        f"rate-{s.arm}",
        _rate_title(s),
        Axis(
            "peak learning rate" if s.what == "rate" else s.what,
            log=s.tried[0] > 0,
            ticks=tuple((v, f"{v:g}") for v in s.tried),
        ),
        Axis("tuning loss above the best, nats/token", range=ends),
        tuple(series),
        notes=("Lines that leave at the top go on.",) if cut else (),
    )


def _rate_title(s: Sensitivity) -> str:
    """Where the best value is from the shortest horizon to the longest."""
    shortest, longest = min(s.best), max(s.best)
    first, last = s.best[shortest], s.best[longest]
    values = sorted(set(s.best.values()))
    if len(values) == 1:
        said = f"one {s.what} at every horizon, {first:g}"
    elif first == last:
        said = f"the best {s.what} is {values[0]:g} to {values[-1]:g}"
    else:
        way = "falls" if last < first else "rises"
        said = (
            f"the best {s.what} {way} from {first:g} at {units(shortest)} to {last:g} at "
            f"{units(longest)}"
        )
    ends = [f"{v:g}" for v in values if v in (s.tried[0], s.tried[-1])]
    return f"{s.arm}: {said}" + (f"; the grid ends at {' and '.join(ends)}" if ends else "")


def average_charts(found: Findings) -> tuple[Chart, ...]:
    """A chart a free arm: loss of every weights above the best, at its one setting."""
    results = found.results
    out = []
    for arm in results.arms:
        if results.arms[arm].kind == "free" and (w := winners(results, arm)) is not None:
            out.append(_averages(found, w))
    return tuple(out)


def _averages(found: Findings, w: Winners) -> Chart:
    results = found.results
    chosen = w.choice.weights
    names = list(dict.fromkeys(name for row in w.above.values() for name in row))
    others = ["other1", "other2", "other3", "ink", "average"]
    series: list[Series] = []
    above = [v for row in w.above.values() for v in row.values()]
    averaged = [v for row in w.above.values() for name, v in row.items() if name != "raw"]
    highest = 1.12 * _highest(above, averaged, _TALL_AVERAGE)
    for name in names:
        points = [(h, row[name]) for h, row in w.above.items() if name in row]
        if min(y for _, y in points) > highest:
            continue
        role = "best" if name == chosen else "plain" if name == "raw" else others.pop(0)
        others = others or ["average"]
        series.append(
            Series(
                name,
                tuple(h * results.unit for h, _ in points),
                tuple(y for _, y in points),
                role=role,
                shape="circle",
                width=2.4 if name == chosen else 1.4,
                dash=name == "raw",
            )
        )
    out = [
        f"{name}, {min(row[name] for row in w.above.values() if name in row):.3f} or more above"
        for name in names
        if name not in {s.name for s in series}
    ]
    best = list(dict.fromkeys(w.best.values()))
    said = f"{best[0]} wins at every horizon" if len(best) == 1 else f"{', then '.join(best)} win"
    return Chart(
        f"averages-{w.choice.arm}",
        f"{w.choice.arm}: {said}; {chosen} is on average {w.gain():.4f} below raw"
        if w.raw
        else f"{w.choice.arm}: {said}",
        horizon_axis(results),
        Axis("loss above the best weights', nats/token", range=(-0.05 * highest, highest)),
        tuple(series),
        (Mark(0.0, "y"),),
        notes=(
            f"Mean over the report seeds, at the one setting ({w.choice.setting}); "
            f"in full strength: {chosen}, the one average for all horizons."
            + (f" Not drawn: {'; '.join(out)}." if out else ""),
        ),
    )


def _highest(values: Sequence[float], typical: Sequence[float], tall: float) -> float:
    """The largest that is no more than `tall` times the median of the typical ones above zero.

    What diverged, or has not forgotten its start, would flatten the rest.
    """
    above = [value for value in typical if value > 0] or [0.01]
    cut = tall * median(above)
    return max([value for value in values if 0 < value <= cut] or [cut])
