"""A chart on white for paper, as PNG and PDF, in the manner of the other figures (`axes`)."""

import io
import textwrap
from typing import TYPE_CHECKING, Any, Literal

from anytrain.report.axes import GRID, INK, MUTED, STYLE, Label, digits, write_labels
from anytrain.report.charts import COLOURS, Axis, BarChart, Chart, Drawn, Series
from anytrain.report.figures import require
from anytrain.report.point_names import PAPER, point_names
from anytrain.words import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
_WIDTH = 6.4  # inches
_LETTERS = 64  # of a title in one line
_PIXELS = 107  # of the page an inch
_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "down": "v", "diamond": "D", "": ""}


def drawn(chart: Drawn, format: Literal["png", "pdf"]) -> bytes:
    """The picture as a file; the same chart, the same bytes."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    out = io.BytesIO()
    undated: Any = {"CreationDate": None} if format == "pdf" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):
        title = textwrap.wrap(chart.title, _LETTERS)
        head = 0.2 + 0.19 * len(title) + 0.3  # inches above the plot
        inner = 2.9 if isinstance(chart, Chart) else _rows(chart)
        figure = Figure(figsize=(_WIDTH, head + inner + 0.68))
        height = figure.get_figheight()
        ax = figure.add_axes((0.11, 0.68 / height, 0.84, inner / height))
        if isinstance(chart, BarChart):
            _bars(figure, ax, chart)
        else:
            _lines(figure, ax, chart)
        _head(figure, title, chart)
        figure.savefig(out, format=format, dpi=200, facecolor="white", metadata=undated)
    return out.getvalue()


def _head(figure: "Figure", title: list[str], chart: Drawn) -> None:
    """The finding in bold, below it what is measured and its unit."""
    height = figure.get_figheight()
    kwargs: Any = {"va": "top", "ha": "left"}
    at = 1 - 0.12 / height
    figure.text(0.02, at, "\n".join(title), weight="bold", size=10.5, **kwargs)
    unit = chart.y.title if isinstance(chart, Chart) else chart.x.title
    figure.text(
        0.02, at - (0.06 + 0.18 * len(title)) / height, unit, color=MUTED, size=8.5, **kwargs
    )


def _lines(figure: "Figure", ax: "Axes", chart: Chart) -> None:
    names = chart.names()
    longest = max((min(len(name.text), 15) for name in names), default=0)
    box = ax.get_position()
    room = (0.32 + 0.078 * longest if names else 0.1) / _WIDTH
    ax.set_position((box.x0, box.y0, 1 - box.x0 - room, box.height))
    _ticks(ax, chart.x, "x")
    ax.set_xlim(*chart.x_range())
    if chart.y.log:
        ax.set_yscale("log")
    ax.set_ylim(*chart.y_range())
    ax.locator_params(axis="y", nbins=6) if not chart.y.log else None
    ax.grid(axis="y", color=GRID, lw=0.8)
    if chart.y.signed:
        ax.yaxis.set_major_formatter(lambda value, _: signed(round(value, 9), digits(ax)))
    ax.set_xlabel(chart.x.title, loc="right", labelpad=4, size=8.5)
    for mark in chart.marks:
        line = ax.axvline if mark.along == "x" else ax.axhline
        line(mark.at, color=COLOURS[mark.role], lw=0.9, ls=":" if mark.dash else "-", zorder=1.5)
        if mark.text and mark.along == "x":
            top = mark.end == "top"
            ax.annotate(
                mark.text,
                (mark.at, 1.0 if top else 0.0),
                (3, -2 if top else 3),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                va=mark.end,
                color=MUTED,
                size=8,
            )
    for series in chart.series:
        _draw(ax, series)
    place: Any = {"textcoords": "offset points", "ha": "center", "va": "center", "size": 8}
    for name, x, y, right, up, role in point_names(chart, PAPER):
        points = 72 / _PIXELS
        ax.annotate(name, (x, y), (right * points, up * points), color=COLOURS[role], **place)
    write_labels(
        figure,
        ax,
        [Label(n.text, n.x, n.y, COLOURS[n.role], "bold" if n.bold else "normal") for n in names],
    )


def _draw(ax: "Axes", s: Series) -> None:
    color, style = COLOURS[s.role], ((0, (4, 2)) if s.dash else "-")
    marker: Any = {"marker": _MARKERS[s.shape], "ms": 5.0, "mew": 0}
    if s.hollow:
        marker |= {"mfc": "none", "mew": 1.2, "ms": 6.0}
    ends = zip(s.y, s.low, s.high, strict=True) if s.low else []
    known = [(y, y if a is None else a, y if b is None else b) for y, a, b in ends]
    if known and s.band:
        low, high = [a for _, a, _ in known], [b for _, _, b in known]
        ax.fill_between(s.x, low, high, color=color, alpha=0.2, lw=0, zorder=2)
    elif known:
        around: Any = [[y - a for y, a, _ in known], [b - y for y, _, b in known]]
        ax.errorbar(s.x, s.y, around, color=color, lw=0, elinewidth=1.1, capsize=2.2, zorder=3)
    line: Any = style if s.line else ""
    ax.plot(
        s.x, s.y, color=color, lw=s.width, ls=line, zorder=3 + s.width / 10 + (not s.line), **marker
    )


def _rows(chart: BarChart) -> float:
    return 0.25 + len(chart.categories) * (0.12 + 0.19 * len(chart.bars))  # inches


def _bars(figure: "Figure", ax: "Axes", chart: BarChart) -> None:
    longest = max(len(name) for name in chart.categories)
    box = ax.get_position()
    left = (0.25 + 0.08 * longest) / _WIDTH
    ax.set_position((left, box.y0, 0.96 - left, box.height))
    thick = 0.8 / len(chart.bars)
    for number, bar in enumerate(chart.bars):
        for row, value in enumerate(bar.values):
            if value is None:
                continue
            y = row + (number - (len(chart.bars) - 1) / 2) * thick
            color = COLOURS[bar.roles[row] if bar.roles else bar.role]
            name = bar.name if row == 0 else f"_{bar.name}"  # _: not in the legend
            low, high = bar.ends(row)
            if bar.intervals:
                ax.plot([low, high], [y, y], color=color, lw=1.6)
                ax.plot(value, y, "o", color=color, ms=6, label=name)
            else:
                ax.barh(y, value, 0.86 * thick, color=color, label=name)
            end: Any = {"textcoords": "offset points", "va": "center"}
            ax.annotate(bar.texts[row], (max(high, 0.0), y), (4, 0), size=8.5, color=INK, **end)
    if any(bar.intervals for bar in chart.bars):
        ax.axvline(0.0, color=MUTED, lw=0.9, zorder=1.5)
    ax.set_yticks(range(len(chart.categories)), chart.categories)
    ax.set_ylim(len(chart.categories) - 0.45, -0.55)
    _ticks(ax, chart.x, "x")
    ax.set_xlim(*chart.x_range())
    ax.grid(axis="x", color=GRID, lw=0.8)
    if len(chart.bars) > 1:
        corner: Any = {"loc": "lower right", "frameon": False, "fontsize": 8.5}
        ax.legend(bbox_to_anchor=(1.0, 1.0), ncols=len(chart.bars), **corner)


def _ticks(ax: "Axes", axis: Axis, which: Literal["x"]) -> None:
    """A logarithmic scale, and ticks where the chart says so."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if axis.log:
        ax.set_xscale("log")
    if axis.signed:
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−")
                                     if abs(value) > 1e-9 else "0")  # fmt: skip
    if axis.ticks:
        ax.xaxis.set_major_locator(FixedLocator([value for value, _ in axis.ticks]))
        ax.xaxis.set_major_formatter(FixedFormatter([text for _, text in axis.ticks]))
        ax.xaxis.set_minor_locator(NullLocator())
