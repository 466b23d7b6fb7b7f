"""A chart as plain data, drawn twice: for the page by Plotly, for paper by matplotlib.

A role names a colour; every light colour has its dark twin and no two light ones are equal, so
that a drawing is turned for a dark page by a mapping of colours.
"""

from dataclasses import dataclass
from math import isfinite, log10
from typing import Literal

from anytrain.report import axes

Shape = Literal["", "circle", "square", "triangle", "down", "diamond"]

COLOURS = {
    "best": axes.BEST,
    "baseline": axes.DECAYED,
    "other1": axes.OTHERS[0],
    "other2": axes.OTHERS[1],
    "other3": axes.OTHERS[2],
    "plain": axes.PLAIN,
    "average": axes.AVERAGE,
    "ink": axes.INK,
    # from the shortest horizon to the longest
    "ramp1": "#a3c5dd",
    "ramp2": "#6ea6ce",
    "ramp3": "#3a85bb",
    "ramp4": "#135f98",
    "ramp5": "#0a4674",
    "ramp6": "#062c4c",
}
DARK = {
    **axes.DARK,
    "#a3c5dd": "#33546e",
    "#6ea6ce": "#44769c",
    "#3a85bb": "#5a9bcb",
    "#135f98": "#84bbe6",
    "#0a4674": "#b2d6f3",
    "#062c4c": "#e0effb",
}
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "down", "diamond")


@dataclass(frozen=True)
class Series:
    """Points with or without a line through them, a band or bars around them."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...] = ()  # empty: nothing around the points; None: not at this one
    high: tuple[float | None, ...] = ()
    role: str = "plain"
    line: bool = True
    band: bool = False  # low to high as an area; else as bars
    dash: bool = False
    shape: Shape = ""
    hollow: bool = False  # lets a mark below it be seen
    width: float = 1.6  # points
    label: Literal["edge", "end", ""] = "edge"  # where the name stands: beside the plot, or a point
    hover: tuple[str, ...] = ()  # of each point; empty: made of x and y

    def __post_init__(self) -> None:
        if self.role not in COLOURS:
            raise ValueError(f"role {self.role!r} is none of {', '.join(COLOURS)}")
        if len(self.x) != len(self.y) or len(self.low) not in (0, len(self.x)):
            raise ValueError(f"{self.name}: x, y, low and high have one value a point")
        if len(self.high) != len(self.low) or len(self.hover) not in (0, len(self.x)):
            raise ValueError(f"{self.name}: low and high, or hover, of different lengths")


@dataclass(frozen=True)
class Axis:
    """What is along an axis, its unit, and where its ticks are (empty: round numbers)."""

    title: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    range: tuple[float, float] | None = None  # None: what the series need
    signed: bool = False


@dataclass(frozen=True)
class Mark:
    """A line across the plot at x or at y."""

    at: float
    along: Literal["x", "y"] = "x"
    text: str = ""
    role: str = "plain"
    dash: bool = True
    end: Literal["top", "bottom"] = "top"  # of a line at x: where its text stands


@dataclass(frozen=True)
class Name:
    """What stands right of the plot, at a height."""

    text: str
    x: float
    y: float
    role: str
    bold: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines and points over two axes."""

    name: str  # of its files and its place in the page
    title: str  # the finding, a short sentence
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = ()

    def names(self) -> list[Name]:
        """Names at the right edge: of series at their last points, and of lines across."""
        (low, high), right = self.y_range(), self.x_range()[1]
        of_series = [
            Name(s.name, s.x[-1], min(max(s.y[-1], low), high), s.role, s.width > 2)
            for s in self.series
            if s.label == "edge" and s.x
        ]
        across = [m for m in self.marks if m.along == "y" and m.text]
        return [*of_series, *(Name(m.text, right, m.at, m.role) for m in across)]

    def x_range(self) -> tuple[float, float]:
        """Ends of the x axis, with room at both."""
        if self.x.range:
            return self.x.range
        values = [v for s in self.series for v in s.x]
        values += [mark.at for mark in self.marks if mark.along == "x"]
        if not values:
            return (1.0, 2.0)
        low, high = min(values), max(values)
        if self.x.log:
            edge = (high / low) ** 0.04 if high > low else 1.5
            return low / edge, high * edge
        pad = 0.04 * (high - low) or 0.5
        return low - pad, high + pad

    def y_range(self) -> tuple[float, float]:
        """Ends of the y axis: what is drawn between the ends of x, and room."""
        if self.y.range:
            return self.y.range
        left, right = self.x_range()
        values = [
            v
            for s in self.series
            for row in (s.y, s.low, s.high)
            for x, v in zip(s.x, row, strict=False)
            if v is not None and isfinite(v) and left <= x <= right
        ]
        values += [mark.at for mark in self.marks if mark.along == "y"]
        if not values:
            return (0.0, 1.0)
        low, high = min(values), max(values)
        pad = 0.07 * (high - low) or 0.05
        return low - pad, high + pad


@dataclass(frozen=True)
class Bar:
    """Bars of one kind, one for each category; None: none.

    With intervals, dots and whiskers instead: what zero lies in is no length.
    """

    name: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]  # beside them
    role: str = "plain"
    roles: tuple[str, ...] = ()  # of each bar, instead of `role`
    intervals: tuple[tuple[float, float] | None, ...] = ()  # of each value, or of none

    def ends(self, row: int) -> tuple[float, float]:
        """From where to where a row is drawn beside zero."""
        value = self.values[row] or 0.0
        return (self.intervals[row] if self.intervals else None) or (value, value)


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from zero, in groups, or one row of dots with their intervals."""

    name: str
    title: str
    x: Axis
    categories: tuple[str, ...]  # from top to bottom
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()

    def x_range(self) -> tuple[float, float]:
        """All that is drawn, and zero, with room for the numbers."""
        values = [v for bar in self.bars for row in range(len(bar.values)) for v in bar.ends(row)]
        low, high = min([0.0, *values]), max([0.0, *values])
        left = 0.0 if low == 0 else 0.1 if any(bar.intervals for bar in self.bars) else 0.3
        return low - left * (high - low), high + 0.22 * (high - low) or 1.0


Drawn = Chart | BarChart


def position(value: float, ends: tuple[float, float], log: bool = False) -> float:
    """Where a value is between the ends of an axis, 0 to 1."""
    if log:
        value, ends = log10(value), (log10(ends[0]), log10(ends[1]))
    return (value - ends[0]) / (ends[1] - ends[0])
