"""The figures of `anytrain theory advise`: ratios against budget, and regret against the range."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from anytrain.report.axes import BEST as BLUE
from anytrain.report.axes import (
    DECAYED,
    GRID,
    INK,
    MUTED,
    OTHERS,
    PLAIN,
    STYLE,
    Label,
    title,
    write_labels,
)
from anytrain.report.figures import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

    from anytrain.theory.regret import Advice

BEST = "power"
COLORS = {
    BEST: INK,
    "constant": BLUE,
    "1/√t, bare": OTHERS[0],
    "1/√t": OTHERS[1],
    "t^−γ*": OTHERS[2],
}
NAMES = {BEST: "best t^−γ", "1/√t, bare": "bare 1/√t"}
DECAYS = {"wsd": "WSD", "cosine": "cosine", "linear": "linear"}
Dash = str | tuple[int, tuple[float, ...]]
DASHES: dict[str, Dash] = {"wsd": "-", "cosine": (0, (5.0, 2.0)), "linear": (0, (1.0, 1.6))}
COLUMNS = 3


@dataclass
class Line:
    """What is drawn, and the name at its end."""

    x: Sequence[float]
    y: Sequence[float]
    name: str
    color: str
    width: float = 1.6
    dash: Dash = "-"
    marker: str = ""


@dataclass
class Panel:
    heading: str
    below: str
    lines: list[Line]
    top: float | None = None  # of the axis; lines may leave it


def by_budget(*found: "Advice") -> bytes:
    """Risk over that of the best that is tuned for the budget, against the budget; PNG."""
    return _png([_budgets(advice) for advice in found], "budget, steps", "")


def _budgets(advice: "Advice") -> Panel:
    problem, lines = advice.problem, []
    for one in advice.candidates:
        name = NAMES.get(one.family, one.family)
        width = 2.4 if one is advice.chosen else 1.6
        x = [float(n) for n in one.horizons]
        lines.append(Line(x, one.ratios, name, COLORS[one.family], width))
    x = [float(line.horizon) for line in advice.baselines]
    for arm, name in DECAYS.items():
        y = [
            next(tuned.risk for tuned in line.arms if tuned.name == arm) / line.best.risk
            for line in advice.baselines
        ]
        lines.append(Line(x, y, f"{name}, tuned", DECAYED, 1.0, DASHES[arm]))
    heading = f"a = {problem.capacity:g}, b = {problem.source:g}"
    below = "risk over the best that is tuned for each budget"
    return Panel(heading, below, lines, _top(advice))


def _top(advice: "Advice") -> float:
    """Room for what is near the best; a family that is far from it leaves the picture."""
    limit = 3 * advice.chosen.regret
    near = [one.regret for one in advice.candidates if one.regret < limit]
    decayed = [line.decayed.risk / line.best.risk for line in advice.baselines]
    return 1 + 1.08 * (max(*near, *decayed) - 1)


def by_width(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], below: str, note: str
) -> bytes:
    """Regret against the last over the first budget; heading -> family -> (width, regret); PNG."""
    drawn = []
    for heading, families in panels.items():
        lines = [
            Line(
                [width for width, _ in points],
                [regret for _, regret in points],
                NAMES.get(name, name),
                COLORS.get(name, PLAIN),
                2.4 if name == BEST else 1.6,
                marker="o",
            )
            for name, points in families.items()
        ]
        drawn.append(Panel(heading, below, lines))
    return _png(drawn, "last budget over the first", note)


# --- paper and ink ---------------------------------------------------------------------------


def _png(panels: Sequence[Panel], xlabel: str, note: str) -> bytes:
    require()
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    width, height = (4.6 if len(panels) > 1 else 6.4) * columns, 3.6 * rows + 0.4  # inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        above = 0.95 if note else 0.7
        edges = (0.5 / width, 0.5 / height, 1 - 1.25 / width, 1 - above / height)
        figure.subplots_adjust(*edges, wspace=0.55, hspace=0.45)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(panels) :]:
            ax.remove()
        for ax, panel in zip(axes, panels, strict=False):
            _draw(figure, ax, panel, xlabel)
        figure.text(0.45 / width, 1 - 0.22 / height, note, color=MUTED, size=8.5)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=140, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _draw(figure: "Figure", ax: "Axes", panel: Panel, xlabel: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    top = panel.top or 1.06 * max(max(line.y) for line in panel.lines)
    labels = []
    for line in sorted(panel.lines, key=lambda line: line.width):
        ax.plot(
            line.x, line.y, color=line.color, lw=line.width, ls=line.dash, marker=line.marker,
            ms=line.width + 1.8, mew=0, zorder=3 + line.width,
        )  # fmt: skip
        weight = "bold" if line.width > 2 else "normal"
        name = line.name if line.y[-1] <= top else f"{line.name} ↑{line.y[-1]:.1f}"
        labels.append(Label(name, line.x[-1], min(line.y[-1], top), line.color, weight))
    x = [value for line in panel.lines for value in line.x]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(min(x) / 1.08, max(x) * 1.08)
    ax.set_ylim(1 - 0.04 * (top - 1), top)
    ax.axhline(1.0, color=MUTED, lw=0.8, zorder=2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if max(x) > 300 * min(x) else (1, 3)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.yaxis.set_major_locator(_ticks(top))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=GRID, lw=0.8)
    title(ax, panel.heading, panel.below)
    ax.set_xlabel(xlabel, loc="right", labelpad=2, size=8.5)
    write_labels(figure, ax, labels)


def _ticks(top: float) -> "Locator":
    """About five round values from 1 on."""
    from matplotlib.ticker import FixedLocator

    if top > 3:
        return FixedLocator([value for value in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if value <= top])
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if top - 1 <= 6 * step)
    return FixedLocator([1 + k * step for k in range(7) if 1 + k * step <= top])


def _count(value: float) -> str:
    """1000 -> 1k."""
    for suffix, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:g}{suffix}"
    return f"{value:g}"
