"""What figures of Plotly share: the layout of a plot, an axis, a line across it."""

from html import escape
from math import log10
from typing import Any

from anytrain.report.axes import GRID, INK, MUTED
from anytrain.report.charts import COLOURS, Axis, Mark

TOP, _LEFT = 10, 50  # pixels
_FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,sans-serif'
_CLEAR = "#00000000"
Json = dict[str, Any]


def layout(height: int, right: float) -> Json:
    """A plot without a frame; `right` is the room beside it. Pixels."""
    axis: Json = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "tickfont": {"color": INK},
    }
    return {
        "height": height,
        "margin": {"l": _LEFT, "r": round(right), "t": TOP, "b": 30},
        "font": {"family": _FONT, "size": 12, "color": INK},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def axis(axis: Axis, ends: tuple[float, float]) -> Json:
    """Its scale, ends and ticks."""
    low, high = (log10(ends[0]), log10(ends[1])) if axis.log else ends
    out: Json = {
        "type": "log" if axis.log else "linear",
        "range": [low, high],
        "tickformat": "+.6~f" if axis.signed else "",
        "nticks": 7,
    }
    if axis.ticks:
        out["tickvals"] = [value for value, _ in axis.ticks]
        out["ticktext"] = [text.replace("\n", "<br>") for _, text in axis.ticks]
    return out


def shape(mark: Mark) -> Json:
    """A line across the plot."""
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


def plain(text: str) -> str:
    """Text in which Plotly finds no tags of its own."""
    return escape(text, quote=False)
