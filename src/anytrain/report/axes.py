"""Palette, axes and names at the lines: how the figures look.

One hue for averages, one for runs with a horizon, grey for raw weights (Okabe and Ito's blue and
vermilion, told apart with any colour vision); names stand at the lines.
"""

from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING, Any

from anytrain.compare.frontier import Frontier
from anytrain.words import tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# light -> dark; no two light colours are equal, as a style sheet maps one to the other
INK, MUTED, GRID = "#1b1f24", "#626a73", "#dfe2e6"
BEST, AVERAGE, PLAIN, DECAYED = "#0072b2", "#8fb1cd", "#7b828a", "#d55e00"
NAMED = "#4d7395"  # the name of an average: a thin line may be paler than a word
OTHERS = ("#8a4f9e", "#00805e", "#a06a00")
DARK = {
    INK: "#e8eaed",
    MUTED: "#9aa3ad",
    GRID: "#31373e",
    BEST: "#4db2ee",
    AVERAGE: "#42698a",
    NAMED: "#86acca",
    PLAIN: "#98a0a9",
    DECAYED: "#ff8a3d",
    OTHERS[0]: "#c792d9",
    OTHERS[1]: "#3fc79a",
    OTHERS[2]: "#e0ad3f",
}
MARKERS = {"cooldown": "D", "cosine": "s", "wsd": "^", "linear": "v"}
_GAP = 11.5  # points between two labels

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.major.pad": 5,
    "xtick.minor.size": 0,
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "anytrain",  # the same run, the same file
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Label:
    """A name at the right end of a line."""

    text: str
    x: float
    y: float
    color: str
    weight: str = "normal"


# --- axes and type ---------------------------------------------------------------------------


def value_range(ax: "Axes", seen: list[float]) -> None:
    low, high = min(seen), max(seen)
    pad = 0.06 * (high - low) or 0.05
    ax.set_ylim(low - pad, high + pad)
    ax.locator_params(axis="y", nbins=6)
    ax.grid(axis="y", color=GRID, lw=0.8)


def digits(ax: "Axes") -> int:
    """Decimals that the ticks are written with, none of them rounded: 3 for steps of 0.025."""
    ticks = ax.get_yticks()
    return decimals(float(ticks[1] - ticks[0])) if len(ticks) > 1 else 3


def decimals(step: float) -> int:
    """The fewest, from 2 on, that write a step of an axis as it is."""
    return next((d for d in range(2, 9) if isclose(step, round(step, d), rel_tol=1e-6)), 9)


def token_axis(ax: "Axes", found: Frontier, first: float, last: float) -> None:
    """Log base 2, a tick at every power-of-two multiple of the unit: tokens above, units below."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ax.set_xscale("log", base=2)
    edge = (last / first) ** 0.03 if last > first else 1.5
    ax.set_xlim(first / edge, last * edge)
    ticks = [found.unit * 2.0**k for k in range(-40, 41)]
    ticks = [tick for tick in ticks if first / edge <= tick <= last * edge]
    if not ticks:  # the run is shorter than one doubling around no multiple of its unit
        ticks = [last]
    ticks = ticks[:: -(-len(ticks) // 8)] if len(ticks) > 8 else ticks
    names = [f"{tokens(tick)}\n{_units(tick / found.unit)}" for tick in ticks]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter(names))
    ax.xaxis.set_minor_locator(NullLocator())


def _units(value: float) -> str:
    if value >= 1:
        return f"{value:.3g}×"
    inverse = 1 / value
    fractions = {2: "½×", 4: "¼×", 8: "⅛×"}
    whole = round(inverse)
    if abs(inverse - whole) < 1e-9:
        return fractions.get(whole, f"1/{whole}×")
    return f"{value:.2g}×"


def title(ax: "Axes", title: str, unit: str) -> None:
    ax.annotate(
        title,
        (0, 1),
        (-2, 22),
        xycoords="axes fraction",
        textcoords="offset points",
        weight="bold",
        size=10.5,
    )
    ax.annotate(
        unit,
        (0, 1),
        (-2, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
        size=8.5,
    )


def write_labels(figure: "Figure", ax: "Axes", labels: list[Label]) -> None:
    """Names right of the plot at the heights of their lines, pushed apart where they collide."""
    if not labels:
        return
    points = 72.0 / figure.dpi
    right = ax.get_position().x1 * figure.get_figwidth() * 72.0
    labels = sorted(labels, key=lambda label: label.y)
    ends = [ax.transData.transform((label.x, label.y)) * points for label in labels]
    heights = spread([float(end[1]) for end in ends], _GAP)
    for label, end, height in zip(labels, ends, heights, strict=True):
        ax.annotate(
            label.text if len(label.text) <= 15 else f"{label.text[:14]}…",
            (label.x, label.y),
            (right - end[0] + 14, height - end[1]),
            textcoords="offset points",
            va="center",
            color=label.color,
            weight=label.weight,
            size=8.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "lw": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved as little as possible so that neighbours are `gap` apart.

    Groups that touch are merged and centred on the mean of what they hold (pool adjacent
    violators of y_i − i·gap, isotonic regression by least squares).
    """
    groups: list[tuple[float, int]] = []  # (mean of y_i − i·gap, members)
    for i, height in enumerate(heights):
        mean, count = height - i * gap, 1
        while groups and groups[-1][0] > mean:
            before, members = groups.pop()
            mean = (mean * count + before * members) / (count + members)
            count += members
        groups.append((mean, count))
    flat = [mean for mean, count in groups for _ in range(count)]
    return [mean + i * gap for i, mean in enumerate(flat)]
