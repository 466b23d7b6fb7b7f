"""The figures of `anytrain theory sweep`: risk against N, and local slopes against N and d."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING

from anytrain.report.axes import (
    BEST,
    DECAYED,
    GRID,
    MARKERS,
    MUTED,
    OTHERS,
    STYLE,
    Label,
    title,
    write_labels,
)
from anytrain.report.figures import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from anytrain.theory.slopes import Local
    from anytrain.theory.sweep import Arm, Curve, Panel, Setup

Dash = str | tuple[int, tuple[float, ...]]
SOLID, DASHED, SHORT, DOTTED = "-", (0, (5.0, 2.0)), (0, (3.0, 2.0)), (0, (1.0, 1.6))

COLUMNS = 3
COLORS: dict["Arm", str] = {
    "constant": BEST,
    "inverse_sqrt": OTHERS[0],
    "inverse_sqrt_offset": OTHERS[1],
    "power": OTHERS[2],
    "wsd": DECAYED,
    "cosine": DECAYED,
}
NAMES: dict["Arm", str] = {
    "constant": "constant",
    "inverse_sqrt": "bare 1/√t",
    "inverse_sqrt_offset": "offset 1/√t",
    "power": "t^−γ*",
    "wsd": "WSD",
    "cosine": "cosine",
}
RISK_NOTE = (
    "Thick: averages along one run a schedule; dotted: last iterates, chosen for themselves. "
    "Marks: runs with a horizon, tuned for each N; dashed with marks: one choice for every N."
)
SLOPE_NOTE = (
    "−d log R / d log N of averages of window 2 at η = 1/tr H, paler for a smaller dimension. "
    "Dotted: what the sweep chose at its own dimension. Dashed: theory's limit."
)


@dataclass
class Line:
    """What is drawn, and the name at its end."""

    x: Sequence[float]
    y: Sequence[float]
    color: str
    name: str = ""
    width: float = 1.8
    dash: Dash = SOLID
    marker: str = ""
    alpha: float = 1.0
    height: int = 3


@dataclass
class Drawing:
    """One panel: what stands above it, its lines, levels to compare with, and the height of it."""

    heading: str
    below: str
    lines: list[Line]
    levels: Sequence[tuple[float, str]] = ()  # (height, colour)
    limits: tuple[float, float] | None = None  # log, from the lines, if absent


# --- risk ------------------------------------------------------------------------------------


def risk_figure(setup: "Setup", panels: Sequence["Panel"]) -> bytes:
    """Risk against N, a panel an (a, b), on log axes; PNG."""
    return _png(setup, [_risk(panel) for panel in panels], RISK_NOTE)


def _risk(panel: "Panel") -> Drawing:
    x = [float(n) for n in panel.checkpoints]
    lines, twin = [], panel.twin
    if panel.minimax is not None:
        lines.append(Line(x, panel.minimax.tolist(), MUTED, "minimax", 1.2, DASHED, height=2))
    lines += [_risk_line(x, c) for c in panel.curves if not (c.arm == "power" and twin)]
    return Drawing(_heading(panel), _theory(panel), lines)


def _theory(panel: "Panel") -> str:
    """The exponents, with one number for those that are equal."""
    found = panel.rates
    named = {"minimax": found.minimax.value, "t^−γ*": found.power.value}
    named |= {"constant": found.constant.value, "WSD": found.wsd.value}
    named |= {"1/√t": found.inverse_sqrt.value}
    groups: dict[str, list[str]] = {}
    for name, value in named.items():
        if not (name == "t^−γ*" and panel.twin):
            groups.setdefault(f"{value:.3f}", []).append(name)
    return "theory: " + "; ".join(f"{', '.join(n)} −{value}" for value, n in groups.items())


def _risk_line(x: list[float], curve: "Curve") -> Line:
    y, color, name = curve.risk.tolist(), COLORS[curve.arm], NAMES[curve.arm]
    if curve.arm in ("wsd", "cosine"):
        tuned = curve.chosen == "horizon"
        name += ", tuned" if tuned else ", one choice"
        return Line(x, y, color, name, 1.0, SOLID if tuned else SHORT, MARKERS[curve.arm], height=4)
    if curve.weights == "last":
        return Line(x, y, color, "", 1.0, DOTTED, alpha=0.8)
    return Line(x, y, color, name, 2.0, height=5)


def _heading(panel: "Panel") -> str:
    problem, twin = panel.problem, panel.twin
    text = f"a = {problem.capacity:g}, b = {problem.source:g}"
    gamma = f"γ* = {panel.rates.gamma:.3g}"
    return f"{text}; t^−γ* is the {NAMES[twin]}" if twin else f"{text}; {gamma}"


# --- local slopes ----------------------------------------------------------------------------


def slope_figure(
    setup: "Setup", panels: Sequence["Panel"], lines: Sequence[Sequence["Local"]]
) -> bytes:
    """−d log R / d log N against N, a panel an (a, b); PNG."""
    drawn = [_slopes(panel, some) for panel, some in zip(panels, lines, strict=True)]
    return _png(setup, drawn, SLOPE_NOTE)


def _slopes(panel: "Panel", some: Sequence["Local"]) -> Drawing:
    dims, limits = sorted({line.dim for line in some}), _slope_limits(panel, some)
    levels = {line.arm: -line.theory for line in some}
    colors = COLORS | {"power": COLORS[panel.twin or "power"]}
    lines = []
    for line in some:
        x, y = [float(n) for n in line.steps], (-line.slope).tolist()
        if line.chosen == "fixed":
            strength = (1 + dims.index(line.dim)) / len(dims)
            lines.append(Line(x, y, colors[line.arm], "", 0.9 + strength, alpha=strength))
        else:
            name = "chosen " + NAMES[line.arm].split()[0]
            lines.append(Line(x, y, colors[line.arm], name, 1.2, DOTTED))
    for arm in levels:
        fixed = [line for line in some if line.arm == arm and line.chosen == "fixed"]
        for name, x_end, y_end in _ends(fixed, limits):
            lines.append(Line([x_end], [y_end], colors[arm], f"{NAMES[arm]}{name}"))
    exponents = ", ".join(f"{NAMES[arm]} {value:.3f}" for arm, value in levels.items())
    heights = {value: colors[arm] for arm, value in reversed(levels.items())}
    return Drawing(_heading(panel), f"theory: {exponents}", lines, [*heights.items()], limits)


def _slope_limits(panel: "Panel", some: Sequence["Local"]) -> tuple[float, float]:
    """Room for theory and every line from the sweep's d on; a smaller d may leave it."""
    seen = [-line.theory for line in some]
    for line in some:
        if line.dim >= panel.problem.dim:
            seen += [-float(line.slope.min()), -float(line.slope.max())]
    pad = 0.12 * (max(seen) - min(seen)) or 0.05
    return min(seen) - pad, max(seen) + pad


def _ends(
    fixed: Sequence["Local"], limits: tuple[float, float]
) -> Iterator[tuple[str, float, float]]:
    """Where lines end, with one name for neighbouring dimensions that end together."""
    groups: list[list[Local]] = []
    for line in sorted(fixed, key=lambda line: -line.dim):
        apart = abs(groups[-1][0].slope[-1] - line.slope[-1]) if groups else inf
        if apart < 0.03 * (limits[1] - limits[0]):
            groups[-1].append(line)
        else:
            groups.append([line])
    for number, group in enumerate(groups):
        first, least = group[0], _count(group[-1].dim)
        if len(groups) == 1:
            name = ", any d"
        elif len(group) == 1:
            name = f", {least}"
        else:
            name = f" ≥ {least}" if number == 0 else f" ≤ {_count(first.dim)}"
        yield name, float(first.steps[-1]), min(-float(first.slope[-1]), limits[1])


def _count(value: float) -> str:
    for suffix, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:g}"


# --- paper and ink ---------------------------------------------------------------------------


def _png(setup: "Setup", drawings: Sequence[Drawing], note: str) -> bytes:
    require()
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(drawings))
    rows = ceil(len(drawings) / columns)
    width, height = 4.9 * columns, 3.7 * rows + 0.4  # inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        edges = (0.55 / width, 0.5 / height, 1 - 1.4 / width, 1 - 0.95 / height)
        figure.subplots_adjust(*edges, wspace=0.58, hspace=0.42)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(drawings) :]:
            ax.remove()
        for ax, drawing in zip(axes, drawings, strict=False):
            _draw(figure, ax, drawing)
        head = f"d = {setup.dim:,}, σ² = {setup.noise:g}, batch 1. "
        figure.text(0.5 / width, 1 - 0.22 / height, head + note, color=MUTED, size=8.5)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=120, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _draw(figure: "Figure", ax: "Axes", drawing: Drawing) -> None:
    labels = []
    for height, color in drawing.levels:
        ax.axhline(height, color=color, lw=1.0, ls=DASHED, zorder=2)
    for line in drawing.lines:
        ax.plot(
            line.x, line.y, color=line.color, lw=line.width, ls=line.dash, alpha=line.alpha,
            zorder=line.height, marker=line.marker, ms=4.2, mew=0,
        )  # fmt: skip
        if line.name:
            weight = "bold" if line.width >= 2.0 else "normal"
            labels.append(Label(line.name, line.x[-1], line.y[-1], line.color, weight))
    _step_axis(ax, [x for line in drawing.lines for x in line.x])
    if drawing.limits:
        ax.set_ylim(*drawing.limits)
        ax.locator_params(axis="y", nbins=7)
    else:
        _log_axis(ax, [y for line in drawing.lines for y in line.y if 0 < y < inf])
    ax.grid(axis="y", color=GRID, lw=0.8)
    title(ax, drawing.heading, drawing.below)
    ax.set_xlabel("N, samples", loc="right", labelpad=2, size=8.5)
    write_labels(figure, ax, [label for label in labels if isfinite(label.y)])


def _step_axis(ax: "Axes", seen: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(seen), max(seen)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.06, high * 1.06)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high <= 100 * low else (1, 3)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))


def _log_axis(ax: "Axes", seen: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = min(seen), max(seen)
    edge = (high / low) ** 0.05 if high > low else 2.0
    ax.set_yscale("log")
    ax.set_ylim(low / edge, high * edge)
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 5 * low else (1, 2, 5)
    ax.yaxis.set_major_locator(LogLocator(subs=steps if high < 200 * low else (1,)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: f"{value:g}" if value >= 0.01 else f"{value:.0e}".replace("e-0", "e-")
        )
    )
