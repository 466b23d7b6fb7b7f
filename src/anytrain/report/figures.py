"""The figure: loss against tokens, and how far each average is from the cooldown (or from raw).

Backgrounds are transparent, and an SVG carries a style sheet that turns its colours for a dark
page.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anytrain.compare.frontier import Frontier, Row
from anytrain.errors import UserError, missing_extra
from anytrain.evaluations import RAW, Evaluation
from anytrain.report.axes import (
    AVERAGE,
    BEST,
    DARK,
    DECAYED,
    MARKERS,
    NAMED,
    OTHERS,
    PLAIN,
    STYLE,
    Label,
    digits,
    title,
    token_axis,
    value_range,
    write_labels,
)
from anytrain.words import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
PANELS = ("loss", "difference")


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
    with matplotlib.rc_context(STYLE):
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
            labels.append(Label(name, x[-1], y[-1], color, "bold" if name != RAW else "normal"))
    for number, (name, evaluations) in enumerate(found.others.items()):
        points = [(e.tokens, e.best[1]) for e in evaluations if e.tokens >= first]
        if points:
            x, y = [p[0] for p in points], [p[1] for p in points]
            color = OTHERS[number % len(OTHERS)]
            ax.plot(x, y, color=color, lw=1.6, ls=(0, (4, 2)), zorder=4)
            labels.append(Label(name, x[-1], y[-1], color))
            seen += y
    seen += _branches(ax, found, labels, first)
    value_range(ax, seen)
    token_axis(ax, found, first, max([last, *(e.tokens for e in shown)]))
    title(ax, "Validation loss", "nats/token")
    ax.set_xlabel("tokens, and multiples of the unit", loc="right", labelpad=4, size=8.5)
    if len(found.weights) > 2:
        rest = [e.losses[n] for e in shown[-1:] for n in e.losses if n not in (favourite, RAW)]
        if rest:
            labels.append(Label("others", shown[-1].tokens, max(rest), NAMED))
    write_labels(figure, ax, labels)


def _branches(ax: "Axes", found: Frontier, labels: list[Label], first: float) -> list[float]:
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
        marker = MARKERS.get(branch.kind, "D")
        ax.plot(x[-1:], y[-1:], marker, color=DECAYED, ms=5.2, mew=0, zorder=6)
        seen += y
    for kind in dict.fromkeys(branch.kind for branch in found.branches):
        end = [b for b in found.branches if b.kind == kind][-1]
        labels.append(Label(kind, end.end.tokens, end.loss, DECAYED, "bold"))
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
        labels.append(Label(name, x[-1], y[-1], named, weight))
        seen += y
    color = DECAYED if kind else PLAIN
    ax.axhline(0, color=color, lw=1.0, zorder=2)
    if kind:
        x = [row.tokens for row in rows]
        ax.plot(x, [0.0] * len(x), MARKERS.get(kind, "D"), color=color, ms=4.6, mew=0, zorder=4)
    value_range(ax, seen)
    ax.yaxis.set_major_formatter(lambda value, _: signed(round(value, 9), digits(ax)))
    ends = [row.tokens for row in rows] or [found.unit]
    token_axis(ax, found, min(ends), max(ends))
    if len(set(ends)) == 1:
        ax.set_xlim(ends[0] / 1.5, ends[0] * 1.5)
    title(
        ax,
        f"Difference to the {kind or 'raw weights'}",
        f"nats/token{' at equal total tokens' if kind else ''}; below 0 is better",
    )
    labels.append(Label(kind or RAW, max(ends), 0.0, color, "bold" if kind else "normal"))
    ax.set_xlabel("tokens, and multiples of the unit", loc="right", labelpad=4, size=8.5)
    write_labels(figure, ax, labels)


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
