"""The figure: loss against tokens, and how far each average is from the cooldown (or from raw).

One hue for averages, one for runs with a horizon, grey for raw weights (Okabe and Ito's blue and
vermilion, told apart with any colour vision); names stand at the lines. Backgrounds are
transparent, and an SVG carries a style sheet that turns its colours for a dark page.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import TYPE_CHECKING, Any

from anytrain.errors import UserError, missing_extra
from anytrain.study.frontier import RAW, Evaluation, Frontier, Row
from anytrain.study.words import signed, tokens

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
_MARKERS = {"cooldown": "D", "cosine": "s", "wsd": "^", "linear": "v"}
_GAP = 11.5  # points between two labels
PANELS = ("loss", "difference")

_STYLE: Any = {
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


def require() -> None:
    """Raise the sentence with the pip command where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "a picture of the frontier") from error


def png(found: Frontier) -> bytes:
    """Both panels on white, 200 dots an inch."""
    out = io.BytesIO()
    _render(found, PANELS, out, "png", dpi=200, facecolor="white")
    return out.getvalue()


def svg(found: Frontier, panels: Sequence[str] = PANELS) -> str:
    """A file of its own, transparent, with colours for a light and a dark page."""
    out = io.StringIO()
    _render(found, panels, out, "svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.S)
    style = f"<style>@media (prefers-color-scheme: dark) {{{dark_css()}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda m: f"{m[1]}\n {style}", text, count=1, flags=re.S)


def inline(found: Frontier, panel: str, label: str) -> str:
    """One panel as an <svg> element inside a page: its names prefixed, the page's own fonts."""
    out = io.StringIO()
    _render(found, (panel,), out, "svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.S)
    text = re.sub(r'\b(id|xlink:href)="(#?)', rf'\1="\2{panel}-', text)
    text = text.replace("url(#", f"url(#{panel}-")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = f'<svg role="img" aria-label="{label}" {box[0]}>'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1, flags=re.S)


def dark_css() -> str:
    """Rules that turn the light colours into the dark ones, by what matplotlib writes."""
    return " ".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )


# --- drawing ---------------------------------------------------------------------------------


def _render(found: Frontier, panels: Sequence[str], out: Any, format: str, **more: Any) -> None:
    require()
    import matplotlib
    from matplotlib.figure import Figure

    if not found.evaluations:
        raise UserError(f"{found.run.path} has no evaluation yet: there is nothing to draw")
    with matplotlib.rc_context(_STYLE):
        both = len(panels) > 1
        figure = Figure(figsize=(10.6, 4.3) if both else (4.8, 4.1))
        if both:
            figure.subplots_adjust(0.045, 0.155, 0.915, 0.875, wspace=0.36)
        else:
            figure.subplots_adjust(0.12, 0.165, 0.785, 0.87)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, ax in zip(panels, axes, strict=True):
            (_loss if panel == "loss" else _difference)(figure, ax, found)
        figure.savefig(out, format=format, **more)


@dataclass(frozen=True)
class _Label:
    """A name at the right end of a line."""

    text: str
    x: float
    y: float
    color: str
    weight: str = "normal"


def _favourite(found: Frontier) -> str:
    """The average that is best at the last row that has one: drawn in full strength."""
    rows = [row for row in found.rows if any(name != RAW for name in row.losses)]
    if not rows:
        return RAW
    last = {name: loss for name, loss in rows[-1].losses.items() if name != RAW}
    return min(last, key=lambda name: last[name])


def _strength(name: str, favourite: str) -> tuple[str, float, int]:
    """Colour, width and height of a line of the trunk."""
    if name == favourite:
        return BEST, 2.2, 5
    return (PLAIN, 1.4, 4) if name == RAW else (AVERAGE, 1.0, 3)


def _loss(figure: "Figure", ax: "Axes", found: Frontier) -> None:
    """Validation loss against tokens, from half a unit on where the run is that long."""
    last = max(row.tokens for row in found.rows)
    first = found.unit / 2 if last >= found.unit else found.evaluations[0].tokens
    shown = [e for e in found.evaluations if e.tokens >= first] or list(found.evaluations[-1:])
    favourite, labels, seen = _favourite(found), [], []
    for name in found.weights:
        x, y = _series(shown, name)
        if not x:
            continue
        color, width, height = _strength(name, favourite)
        dot = "o" if len(x) == 1 else ""
        ax.plot(x, y, color=color, lw=width, zorder=height, marker=dot, ms=width + 2.6, mew=0)
        seen += y
        if name in (favourite, RAW):
            labels.append(_Label(name, x[-1], y[-1], color, "bold" if name != RAW else "normal"))
    for number, (name, evaluations) in enumerate(found.others.items()):
        points = [(e.tokens, e.best[1]) for e in evaluations if e.tokens >= first]
        if points:
            x, y = [p[0] for p in points], [p[1] for p in points]
            color = OTHERS[number % len(OTHERS)]
            ax.plot(x, y, color=color, lw=1.6, ls=(0, (4, 2)), zorder=4)
            labels.append(_Label(name, x[-1], y[-1], color))
            seen += y
    seen += _branches(ax, found, labels, first)
    _range(ax, seen)
    _token_axis(ax, found, first, max([last, *(e.tokens for e in shown)]))
    _title(ax, "Validation loss", "nats/token")
    ax.set_xlabel("tokens, and multiples of the unit", loc="right", labelpad=4, size=8.5)
    if len(found.weights) > 2:
        rest = [e.losses[n] for e in shown[-1:] for n in e.losses if n not in (favourite, RAW)]
        if rest:
            labels.append(_Label("others", shown[-1].tokens, max(rest), NAMED))
    _write(figure, ax, labels)


def _branches(ax: "Axes", found: Frontier, labels: list[_Label], first: float) -> list[float]:
    """Decayed runs: a mark where each ended, a thin line from where it left the trunk."""
    seen = []
    raw_x, raw_y = _series(found.evaluations, RAW)
    for branch in found.branches:
        if branch.end.tokens < first:
            continue
        x = [float(e.tokens) for e in branch.path]
        y = [e.losses[RAW] for e in branch.path]
        if branch.forked_at is not None and raw_x:
            start = _interpolate(raw_x, raw_y, branch.forked_at)
            if start is not None:
                x, y = [branch.forked_at, *x], [start, *y]
        ax.plot(x, y, color=DECAYED, lw=0.9, zorder=4)
        marker = _MARKERS.get(branch.kind, "D")
        ax.plot(x[-1:], y[-1:], marker, color=DECAYED, ms=5.2, mew=0, zorder=6)
        seen += y
    for kind in dict.fromkeys(branch.kind for branch in found.branches):
        end = [b for b in found.branches if b.kind == kind][-1]
        labels.append(_Label(kind, end.end.tokens, end.loss, DECAYED, "bold"))
    return seen


def _difference(figure: "Figure", ax: "Axes", found: Frontier) -> None:
    """Every weights' loss minus the decayed run's (without one: minus raw's) at each unit."""
    kind = found.kinds[0] if found.kinds else None
    rows = [row for row in found.rows if row.losses and _reference(row, kind) is not None]
    favourite, labels, seen = _favourite(found), [], [0.0]
    for name in found.weights:
        if kind is None and name == RAW:
            continue
        points = [(r.tokens, r.losses[name] - _need(r, kind)) for r in rows if name in r.losses]
        if not points:
            continue
        x, y = [p[0] for p in points], [p[1] for p in points]
        color, width, height = _strength(name, favourite)
        ax.plot(x, y, color=color, lw=width, zorder=height, marker="o", ms=width + 2.6, mew=0)
        weight = "bold" if name == favourite else "normal"
        named = NAMED if color == AVERAGE else color
        labels.append(_Label(name, x[-1], y[-1], named, weight))
        seen += y
    color = DECAYED if kind else PLAIN
    ax.axhline(0, color=color, lw=1.0, zorder=2)
    if kind:
        x = [row.tokens for row in rows]
        ax.plot(x, [0.0] * len(x), _MARKERS.get(kind, "D"), color=color, ms=4.6, mew=0, zorder=4)
    _range(ax, seen)
    ax.yaxis.set_major_formatter(lambda value, _: signed(round(value, 9), _digits(ax)))
    ends = [row.tokens for row in rows] or [found.unit]
    _token_axis(ax, found, min(ends), max(ends))
    if len(set(ends)) == 1:
        ax.set_xlim(ends[0] / 1.5, ends[0] * 1.5)
    _title(
        ax,
        f"Difference to the {kind or 'raw weights'}",
        f"nats/token{' at equal total tokens' if kind else ''}; below 0 is better",
    )
    labels.append(_Label(kind or RAW, max(ends), 0.0, color, "bold" if kind else "normal"))
    ax.set_xlabel("tokens, and multiples of the unit", loc="right", labelpad=4, size=8.5)
    _write(figure, ax, labels)


def _reference(row: Row, kind: str | None) -> float | None:
    if kind is None:
        return row.losses.get(RAW)
    return row.decayed[kind].loss if kind in row.decayed else None


def _need(row: Row, kind: str | None) -> float:
    value = _reference(row, kind)
    assert value is not None
    return value


def _series(found: Sequence[Evaluation], name: str) -> tuple[list[float], list[float]]:
    points = [(float(e.tokens), e.losses[name]) for e in found if name in e.losses]
    return [p[0] for p in points], [p[1] for p in points]


def _interpolate(x: list[float], y: list[float], at: float) -> float | None:
    for i in range(1, len(x)):
        if x[i - 1] <= at <= x[i]:
            return y[i - 1] + (y[i] - y[i - 1]) * (at - x[i - 1]) / (x[i] - x[i - 1])
    return None


# --- axes and type ---------------------------------------------------------------------------


def _range(ax: "Axes", seen: list[float]) -> None:
    low, high = min(seen), max(seen)
    pad = 0.06 * (high - low) or 0.05
    ax.set_ylim(low - pad, high + pad)
    ax.locator_params(axis="y", nbins=6)
    ax.grid(axis="y", color=GRID, lw=0.8)


def _digits(ax: "Axes") -> int:
    """Decimals that tell the ticks apart."""
    ticks = ax.get_yticks()
    return max(2, -floor(log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 3


def _token_axis(ax: "Axes", found: Frontier, first: float, last: float) -> None:
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


def _title(ax: "Axes", title: str, unit: str) -> None:
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


def _write(figure: "Figure", ax: "Axes", labels: list[_Label]) -> None:
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
