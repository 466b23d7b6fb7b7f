"""The trace of the Hessian along a run, for raw weights and averages; a bar each without moments.

One chart a data set: traces on two of them are of different losses.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from anytrain.report.charts import Axis, Bar, BarChart, Chart, Drawn, Series
from anytrain.report.sharpness_table import change
from anytrain.words import tokens

Record = Mapping[str, Any]

_UNIT = "trace of the Hessian of the held-out loss on {data}; band: 95% over probes"
_RUNS = ("best", "baseline", "other1", "other2", "other3")
_TICKS = 7
_LINE = tuple[str, str]  # a run and the name of its weights


def sharpness_charts(records: Sequence[Record]) -> dict[str, Drawn]:
    """A chart by data set, in the order in which they were measured."""
    found: dict[str, Drawn] = {}
    for data in dict.fromkeys(record["data"] for record in records):
        mine = [record for record in records if record["data"] == data]
        lines = _lines(mine)
        along = any(len(points) > 1 for points in lines.values())
        found[data] = _along(data, lines) if along else _bars(data, mine)
    return found


def _lines(records: Sequence[Record]) -> dict[_LINE, list[Record]]:
    """Moments of a run in their order, by the run and the name of the weights."""
    lines: dict[_LINE, list[Record]] = {}
    for record in records:
        if record["run"] is not None:
            lines.setdefault((record["run"], record["name"]), []).append(record)
    return {line: sorted(points, key=lambda r: r["tokens"]) for line, points in lines.items()}


def _along(data: str, lines: dict[_LINE, list[Record]]) -> Chart:
    runs = list(dict.fromkeys(run for run, _ in lines))
    several = len(runs) > 1
    averages = [name for _, name in lines if name != "raw"]
    series = []
    for (run, name), points in lines.items():
        if several:
            role = _RUNS[runs.index(run) % len(_RUNS)]
        else:
            role = "plain" if name == "raw" else "best" if name == averages[0] else "average"
        mean = [float(p["trace"]["mean"]) for p in points]
        half = [1.96 * float(p["trace"]["stderr"]) for p in points]
        series.append(
            Series(
                f"{Path(run).name} {name}" if several else name,
                tuple(float(p["tokens"]) for p in points),
                tuple(mean),
                tuple(m - h for m, h in zip(mean, half, strict=True)),
                tuple(m + h for m, h in zip(mean, half, strict=True)),
                role=role,
                band=len(points) > 1,
                dash=several and name == "raw",
                shape="circle",
                width=2.2 if role == "best" and not several else 1.6,
            )
        )
    seen = sorted({x for s in series for x in s.x})
    log = seen[-1] > 4 * seen[0] > 0
    axis = Axis("tokens", log=log, ticks=_ticks(seen, log))
    ends = {line: points[-1] for line, points in lines.items()}
    return Chart(
        "sharpness", _finding(ends, several), axis, Axis(_UNIT.format(data=data)), tuple(series)
    )


def _ticks(seen: list[float], log: bool) -> tuple[tuple[float, str], ...]:
    """Some of the moments, spread over the axis."""
    first, last = seen[0], seen[-1]
    if last == first:
        return ((first, tokens(first)),)
    chosen: list[float] = []
    for k in range(_TICKS):
        share = k / (_TICKS - 1)
        wanted = first * (last / first) ** share if log else first + share * (last - first)
        near = min(seen, key=lambda x: abs(x / wanted - 1) if log else abs(x - wanted))
        least = 1.2 if log else 0.1 * (last - first)
        if not chosen or (near / chosen[-1] if log else near - chosen[-1]) >= least:
            chosen.append(near)
    return tuple((x, tokens(x)) for x in chosen)


def _finding(ends: Mapping[_LINE, Record], several: bool) -> str:
    """Which weights are flattest at one end of all, where that is beyond the probes' error."""

    def name(line: _LINE) -> str:
        return f"{Path(line[0]).name} {line[1]}" if several else line[1]

    def trace(line: _LINE) -> float:
        return float(ends[line]["trace"]["mean"])

    flat, sharp = min(ends, key=trace), max(ends, key=trace)
    if len({end["tokens"] for end in ends.values()}) > 1:
        return "Curvature of the held-out loss along training"
    if len(ends) < 2 or trace(flat) <= 0 or not isfinite(trace(sharp)):
        return "Curvature of the held-out loss along training"
    apart = change(ends[sharp], ends[flat])
    if abs(apart.mean) < 1.96 * apart.stderr:
        return "No weights are flatter than others at the end, beyond the probes' error"
    return f"{name(flat)} ends {1 / apart.ratio:.3g} times flatter than {name(sharp)}"


def _bars(data: str, records: Sequence[Record]) -> BarChart:
    values = tuple(float(record["trace"]["mean"]) for record in records)
    errors = [float(record["trace"]["stderr"]) for record in records]
    texts = tuple(f"{v:.4g} ± {e:.2g}" for v, e in zip(values, errors, strict=True))
    return BarChart(
        "sharpness",
        "Curvature of the held-out loss",
        Axis(f"trace of the Hessian of the held-out loss on {data}; ± its standard error"),
        tuple(_short(record) for record in records),
        (Bar("trace", values, texts, "best"),),
    )


def _short(record: Record) -> str:
    """The last part of a path, with its moment and its weights."""
    return Path(record["weights"]).name
