"""Horizontal bars, or dots with their intervals, as a figure of Plotly."""

from collections.abc import Sequence

from anytrain.report.axes import INK
from anytrain.report.charts import COLOURS, Bar, BarChart, Mark
from anytrain.report.plotly_parts import Json, axis, layout, plain, shape


def bars(chart: BarChart) -> Json:
    """{"data", "layout"} of a bar chart."""
    data = []
    for bar in reversed(chart.bars):  # Plotly stacks groups from below
        roles = bar.roles or (bar.role,) * len(bar.values)
        texts = ["" if v is None else t for v, t in zip(bar.values, bar.texts, strict=True)]
        drawn: Json = {
            "name": bar.name,
            "y": [plain(name) for name in chart.categories],
            "x": list(bar.values),
            "text": texts,
            "marker": {"color": [COLOURS[role] for role in roles]},
            "hovertemplate": f"<b>%{{y}}</b><br>{bar.name}: %{{text}}<extra></extra>",
        }
        if bar.intervals:
            data += _whiskers(chart, bar, roles)
            data.append(drawn | {"type": "scatter", "mode": "markers", "showlegend": False})
            data[-1]["marker"] |= {"size": 9}
            continue
        beside = {"textposition": "outside", "cliponaxis": False, "textfont": {"color": INK}}
        data.append(drawn | beside | {"type": "bar", "orientation": "h"})
    groups = len(chart.bars) > 1
    rows = len(chart.categories)
    height = 54 + rows * max(38, 24 * len(chart.bars)) + (30 if groups else 0)
    made = layout(height, right=20)
    made["xaxis"] |= axis(chart.x, chart.x_range())
    made["yaxis"] |= {
        "categoryorder": "array",
        "categoryarray": [plain(name) for name in reversed(chart.categories)],
        "showgrid": False,
        "automargin": True,
        "ticksuffix": "  ",
    }
    if any(bar.intervals for bar in chart.bars):
        made["shapes"] = [shape(Mark(0.0, "x", role="plain", dash=False))]
        made["annotations"] = _row_texts(chart)
    made |= {
        "barmode": "group",
        "bargap": 0.3,
        "bargroupgap": 0.12,
        "showlegend": groups,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    }
    if groups:
        made["margin"]["t"] = 34
        made["legend"]["traceorder"] = "reversed"
    return {"data": data, "layout": made}


def _whiskers(chart: BarChart, bar: Bar, roles: Sequence[str]) -> list[Json]:
    """A line for each interval."""
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(bar.ends(row)),
            "y": [plain(chart.categories[row])] * 2,
            "line": {"color": COLOURS[role], "width": 2},
            "hoverinfo": "skip",
            "showlegend": False,
        }
        for row, role in enumerate(roles)
        if bar.values[row] is not None
    ]


def _row_texts(chart: BarChart) -> list[Json]:
    """What stands at the end of each row that has an interval."""
    return [
        {
            "x": max(bar.ends(row)[1], 0.0),
            "y": plain(chart.categories[row]),
            "text": text,
            "font": {"color": INK, "size": 11},
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
        }
        for bar in chart.bars
        if bar.intervals
        for row, text in enumerate(bar.texts)
        if bar.values[row] is not None
    ]
