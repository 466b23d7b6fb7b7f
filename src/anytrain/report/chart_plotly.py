"""A chart for the page: a figure of Plotly as plain data, in the light colours.

Names stand at the lines as annotations called `label`; the page's script trades them for a legend
where it is narrow, and maps the colours where it is dark.
"""

from math import isfinite, log10

from anytrain.report.axes import MUTED, spread
from anytrain.report.charts import COLOURS, BarChart, Chart, Drawn, Series, position
from anytrain.report.plotly_bars import bars
from anytrain.report.plotly_parts import TOP, Json, axis, layout, plain, shape
from anytrain.report.point_names import COLUMN, point_names
from anytrain.words import signed, tokens

HEIGHT = 380  # pixels
_GAP = 16  # pixels between two names
_LETTER = 7.2  # pixels of a letter, about
_SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "down": "triangle-down",
    "diamond": "diamond",
}


def figure(chart: Drawn) -> Json:
    """{"data", "layout"} as Plotly.react takes them."""
    return bars(chart) if isinstance(chart, BarChart) else _lines(chart)


def _lines(chart: Chart) -> Json:
    data = [trace for series in chart.series for trace in _traces(series, chart)]
    longest = max((len(name.text) for name in chart.names()), default=0)
    made = layout(HEIGHT, right=22 + longest * _LETTER)
    made["margin"]["b"] = _below(chart)
    made["xaxis"] |= axis(chart.x, chart.x_range()) | {
        "showgrid": False,
        "showline": True,
        "title": {"text": chart.x.title, "font": {"color": MUTED, "size": 12}, "standoff": 10},
    }
    made["yaxis"] |= axis(chart.y, chart.y_range())
    made["shapes"] = [shape(mark) for mark in chart.marks]
    made["annotations"] = [*_edge_names(chart), *_point_names(chart), *_mark_names(chart)]
    return {"data": data, "layout": made}


def _below(chart: Chart) -> int:
    """Pixels for ticks of one line or two, and the title."""
    return 62 if any("\n" in text for _, text in chart.x.ticks) else 48


def _traces(series: Series, chart: Chart) -> list[Json]:
    color = COLOURS[series.role]
    trace: Json = {
        "type": "scatter",
        "name": plain(series.name),
        "x": list(series.x),
        "y": [v if isfinite(v) else None for v in series.y],
        "mode": "+".join(["lines"] * series.line + ["markers"] * bool(series.shape)) or "markers",
        "line": {"color": color, "width": series.width, "dash": "dash" if series.dash else "solid"},
        "marker": {"color": color, "size": 9 if series.hollow else 8, "symbol": _symbol(series)},
        "showlegend": series.label == "edge",
        "text": list(series.hover) or [_hover(series, i, chart) for i in range(len(series.x))],
        "hovertemplate": "%{text}<extra></extra>",
    }
    if not series.low:
        return [trace]
    if not series.band:
        ends = list(zip(series.y, series.low, series.high, strict=True))
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [0 if high is None else high - y for y, _, high in ends],
            "arrayminus": [0 if low is None else y - low for y, low, _ in ends],
            "color": color,
            "thickness": 1.4,
            "width": 3,
        }
        return [trace]
    inside = [
        (x, low, high)
        for x, low, high in zip(series.x, series.low, series.high, strict=True)
        if low is not None and high is not None
    ]
    area = {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _, _ in inside] + [x for x, _, _ in reversed(inside)],
        "y": [low for _, low, _ in inside] + [high for _, _, high in reversed(inside)],
        "fill": "toself",
        "fillcolor": f"{color}33",
        "line": {"width": 0, "color": color},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [area, trace]


def _symbol(series: Series) -> str:
    return _SYMBOLS.get(series.shape, "circle") + ("-open" if series.hollow else "")


def _hover(series: Series, i: int, chart: Chart) -> str:
    """Name, where, value and interval of a point."""
    ticks = dict(chart.x.ticks)
    x = ticks.get(series.x[i])
    where = x.replace("\n", " = ") if x else tokens(series.x[i])
    write = signed if chart.y.signed else "{:.4f}".format
    text = f"<b>{plain(series.name)}</b><br>{where}: {write(series.y[i])}"
    low, high = (series.low[i], series.high[i]) if series.low else (None, None)
    if low is not None and high is not None:
        text += f" ({write(low)} to {write(high)})"
    return text


def _edge_names(chart: Chart) -> list[Json]:
    """Names right of the plot at the heights of the lines' ends, pushed apart."""
    inner = HEIGHT - TOP - _below(chart)
    ends, log = chart.y_range(), chart.y.log
    names = sorted(chart.names(), key=lambda name: name.y)
    heights = [inner * position(name.y, ends, log) for name in names]
    moved = spread(heights, _GAP)
    moved = [min(h, inner - _GAP * (len(moved) - 1 - i)) for i, h in enumerate(moved)]
    return [
        {
            "name": "label",
            "xref": "paper",
            "x": 1,
            "xanchor": "left",
            "xshift": 6,
            "yref": "y",
            "y": log10(name.y) if log else name.y,
            "yanchor": "middle",
            "yshift": round(new - height),
            "text": f"<b>{plain(name.text)}</b>" if name.bold else plain(name.text),
            "font": {"color": COLOURS[name.role]},
            "showarrow": False,
        }
        for name, height, new in zip(names, heights, moved, strict=True)
    ]


def _point_names(chart: Chart) -> list[Json]:
    """Names beside the first or the last points themselves."""
    return [
        {
            "x": log10(x) if chart.x.log else x,
            "y": log10(y) if chart.y.log else y,
            "text": plain(name),
            "font": {"color": COLOURS[role], "size": 11},
            "showarrow": False,
            "xshift": round(right),
            "yshift": round(up),
        }
        for name, x, y, right, up, role in point_names(chart, COLUMN)
    ]


def _mark_names(chart: Chart) -> list[Json]:
    return [
        {
            "xref": "x",
            "x": log10(mark.at) if chart.x.log else mark.at,
            "yref": "paper",
            "y": 1 if mark.end == "top" else 0,
            "yanchor": mark.end,
            "xanchor": "left",
            "xshift": 3,
            "text": mark.text,
            "font": {"color": MUTED, "size": 11},
            "showarrow": False,
        }
        for mark in chart.marks
        if mark.text and mark.along == "x"
    ]
