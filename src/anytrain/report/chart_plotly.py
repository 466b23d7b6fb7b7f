"""A chart for the page: a figure of Plotly as plain data, in the light colours.

Names stand at the lines as annotations called `label`; the page's script trades them for a legend
where it is narrow, and maps the colours where it is dark.
"""

from html import escape
from math import isfinite, log10
from typing import Any

from anytrain.report.axes import GRID, INK, MUTED, spread
from anytrain.report.charts import COLOURS, Axis, BarChart, Chart, Drawn, Mark, Series, position
from anytrain.words import signed, tokens

HEIGHT = 380  # pixels
_TOP, _LEFT = 10, 50
_GAP = 16  # pixels between two names
_LETTER = 7.2  # pixels of a letter, about
_FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,sans-serif'
_CLEAR = "#00000000"
_SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "down": "triangle-down",
    "diamond": "diamond",
}
Json = dict[str, Any]


def figure(chart: Drawn) -> Json:
    """{"data", "layout"} as Plotly.react takes them."""
    return _bars(chart) if isinstance(chart, BarChart) else _lines(chart)


def _lines(chart: Chart) -> Json:
    data = [trace for series in chart.series for trace in _traces(series, chart)]
    longest = max((len(name.text) for name in chart.names()), default=0)
    layout = _layout(HEIGHT, right=22 + longest * _LETTER)
    layout["margin"]["b"] = _below(chart)
    layout["xaxis"] |= _axis(chart.x, chart.x_range()) | {
        "showgrid": False,
        "showline": True,
        "title": {"text": chart.x.title, "font": {"color": MUTED, "size": 12}, "standoff": 10},
    }
    layout["yaxis"] |= _axis(chart.y, chart.y_range())
    layout["shapes"] = [_shape(mark) for mark in chart.marks]
    layout["annotations"] = [*_edge_names(chart), *_end_names(chart), *_mark_names(chart)]
    return {"data": data, "layout": layout}


def _below(chart: Chart) -> int:
    """Pixels for ticks of one line or two, and the title."""
    return 62 if any("\n" in text for _, text in chart.x.ticks) else 48


def _traces(series: Series, chart: Chart) -> list[Json]:
    color = COLOURS[series.role]
    trace: Json = {
        "type": "scatter",
        "name": _plain(series.name),
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


def _plain(text: str) -> str:
    """Text in which Plotly finds no tags of its own."""
    return escape(text, quote=False)


def _symbol(series: Series) -> str:
    return _SYMBOLS.get(series.shape, "circle") + ("-open" if series.hollow else "")


def _hover(series: Series, i: int, chart: Chart) -> str:
    """Name, where, value and interval of a point."""
    ticks = dict(chart.x.ticks)
    x = ticks.get(series.x[i])
    where = x.replace("\n", " = ") if x else tokens(series.x[i])
    write = signed if chart.y.signed else "{:.4f}".format
    text = f"<b>{_plain(series.name)}</b><br>{where}: {write(series.y[i])}"
    low, high = (series.low[i], series.high[i]) if series.low else (None, None)
    if low is not None and high is not None:
        text += f" ({write(low)} to {write(high)})"
    return text


def _bars(chart: BarChart) -> Json:
    data = []
    for bar in reversed(chart.bars):  # Plotly stacks groups from below
        roles = bar.roles or (bar.role,) * len(bar.values)
        texts = ["" if v is None else t for v, t in zip(bar.values, bar.texts, strict=True)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": bar.name,
                "y": [_plain(name) for name in chart.categories],
                "x": list(bar.values),
                "text": texts,
                "textposition": "outside",
                "cliponaxis": False,
                "textfont": {"color": INK},
                "marker": {"color": [COLOURS[role] for role in roles]},
                "hovertemplate": f"<b>%{{y}}</b><br>{bar.name}: %{{text}}<extra></extra>",
            }
        )
    groups = len(chart.bars) > 1
    rows = len(chart.categories)
    height = 54 + rows * max(38, 24 * len(chart.bars)) + (30 if groups else 0)
    layout = _layout(height, right=20)
    layout["xaxis"] |= _axis(chart.x, chart.x_range())
    layout["yaxis"] |= {
        "categoryorder": "array",
        "categoryarray": [_plain(name) for name in reversed(chart.categories)],
        "showgrid": False,
        "automargin": True,
        "ticksuffix": "  ",
    }
    layout |= {
        "barmode": "group",
        "bargap": 0.3,
        "bargroupgap": 0.12,
        "showlegend": groups,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    }
    if groups:
        layout["margin"]["t"] = 34
        layout["legend"]["traceorder"] = "reversed"
    return {"data": data, "layout": layout}


def _layout(height: int, right: float) -> Json:
    axis: Json = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "tickfont": {"color": INK},
    }
    return {
        "height": height,
        "margin": {"l": _LEFT, "r": round(right), "t": _TOP, "b": 30},
        "font": {"family": _FONT, "size": 12, "color": INK},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def _axis(axis: Axis, ends: tuple[float, float]) -> Json:
    low, high = (log10(ends[0]), log10(ends[1])) if axis.log else ends
    out: Json = {
        "type": "log" if axis.log else "linear",
        "range": [low, high],
        "tickformat": "+.3~f" if axis.signed else "",
        "nticks": 7,
    }
    if axis.ticks:
        out["tickvals"] = [value for value, _ in axis.ticks]
        out["ticktext"] = [text.replace("\n", "<br>") for _, text in axis.ticks]
    return out


def _shape(mark: Mark) -> Json:
    across, along = ("y", "x") if mark.along == "x" else ("x", "y")
    return {
        "type": "line",
        "layer": "between",
        f"{along}ref": along,
        f"{across}ref": "paper",
        f"{along}0": mark.at,
        f"{along}1": mark.at,
        f"{across}0": 0,
        f"{across}1": 1,
        "line": {
            "color": COLOURS[mark.role],
            "width": 1.2,
            "dash": "dot" if mark.dash else "solid",
        },
    }


def _edge_names(chart: Chart) -> list[Json]:
    """Names right of the plot at the heights of the lines' ends, pushed apart."""
    inner = HEIGHT - _TOP - _below(chart)
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
            "text": f"<b>{_plain(name.text)}</b>" if name.bold else _plain(name.text),
            "font": {"color": COLOURS[name.role]},
            "showarrow": False,
        }
        for name, height, new in zip(names, heights, moved, strict=True)
    ]


def _end_names(chart: Chart) -> list[Json]:
    """Names at the first or the last point itself."""
    out = []
    for s in chart.series:
        if s.label not in ("end", "start") or not s.x:
            continue
        i = -1 if s.label == "end" else 0
        out.append(
            {
                "x": log10(s.x[i]) if chart.x.log else s.x[i],
                "y": log10(s.y[i]) if chart.y.log else s.y[i],
                "text": _plain(s.name),
                "font": {"color": COLOURS[s.role], "size": 11},
                "showarrow": False,
                "yshift": 12,
            }
        )
    return out


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
