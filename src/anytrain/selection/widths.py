"""The width of the average that minimises validation loss at a step, found afterwards.

Every width is rebuilt from a run's snapshots and evaluated: a grid evenly spaced in log σ_rel, then
a golden-section search around its best. The selection half of the held-out sequences chooses, the
other half reports.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from anytrain.merging import write
from anytrain.merging.rebuild import History, Rebuilt
from anytrain.rules import PowerEma
from anytrain.selection.scoring import Scorer
from anytrain.training.evaluate import Loss

NARROWEST, WIDEST = 0.03, 0.28  # σ_rel
GRID = 8
REFINED = 5  # evaluations of the golden-section search


@dataclass(frozen=True)
class Width:
    """One rebuilt average and its loss."""

    sigma_rel: float
    error: float  # of its profile, relative L2
    selection: Loss
    report: Loss


def search(
    past: History, scorer: Scorer, most: float, say: Callable[[str], Any] = lambda _: None
) -> list[Width]:
    """Widths in rising order; a profile further than `most` from the asked one is an error."""
    found: dict[float, Width] = {}

    def at(log_sigma: float) -> float:
        sigma = round(exp(log_sigma), 5)
        if sigma not in found:
            found[sigma] = _evaluate(past, scorer, sigma, most)
            width = found[sigma]
            say(
                f"σ_rel {sigma:.4f}: {width.selection.mean:.4f} selection, "
                f"{width.report.mean:.4f} report (profile error {width.error:.2%})"
            )
        return found[sigma].selection.mean

    low, high = log(NARROWEST), log(WIDEST)
    grid = [low + (high - low) * i / (GRID - 1) for i in range(GRID)]
    best = min(range(GRID), key=lambda i: at(grid[i]))
    for point in _golden(at, grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]):
        at(point)
    return [found[sigma] for sigma in sorted(found)]


def best_of(widths: list[Width]) -> Width:
    """The lowest loss on the selection half."""
    return min(widths, key=lambda width: width.selection.mean)


def _golden(value: Callable[[float], float], low: float, high: float) -> Iterator[float]:
    """The points of a golden-section search for the minimum between two ends."""
    ratio = (sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    for _ in range(REFINED - 1):
        yield left
        yield right
        if value(left) < value(right):
            low, high, right = low, right, left
            left = high - ratio * (high - low)
        else:
            low, high, left = left, high, right
            right = low + ratio * (high - low)


def _evaluate(past: History, scorer: Scorer, sigma: float, most: float) -> Width:
    rebuilt = past.rebuild(PowerEma(sigma))
    past.check(rebuilt, f"power_ema:sigma_rel={sigma}", most)
    tensors = tensors_of(rebuilt)
    selection, report = (Loss.of(scorer.losses(tensors, half)) for half in ("selection", "report"))
    return Width(sigma, rebuilt.fit.error, selection, report)


def tensors_of(rebuilt: Rebuilt) -> dict[str, Any]:
    """The sum itself, streamed to a scratch file as a release would be, and read."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rebuilt.safetensors"
        write(rebuilt.inputs, rebuilt.weights, file, "float32", {}, lambda *_: None)
        return load_file(file)


def curve(widths: Sequence[Width], path: Path, title: str) -> None:
    """Validation loss against width, both halves, as a picture; its suffix says which kind."""
    from anytrain.report import axes, figures

    figures.require()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    with matplotlib.rc_context(axes.STYLE):
        figure = Figure(figsize=(5.2, 3.6))
        ax = figure.subplots()
        figure.subplots_adjust(0.13, 0.16, 0.8, 0.88)
        sigmas = [width.sigma_rel for width in widths]
        for half, color in (("selection", axes.PLAIN), ("report", axes.BEST)):
            losses = [getattr(width, half) for width in widths]
            means, errors = [x.mean for x in losses], [x.stderr for x in losses]
            ax.plot(sigmas, means, color=color, lw=1.8, marker="o", ms=3.5)
            low = [m - e for m, e in zip(means, errors, strict=True)]
            high = [m + e for m, e in zip(means, errors, strict=True)]
            ax.fill_between(sigmas, low, high, color=color, alpha=0.15, lw=0)
            ax.annotate(half, (sigmas[-1], means[-1]), xytext=(6, 0), color=color,
                        textcoords="offset points", va="center")  # fmt: skip
        best = best_of(list(widths))
        ax.axvline(best.sigma_rel, color=axes.GRID, lw=1, zorder=0)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([0.03, 0.05, 0.1, 0.2, 0.28]))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.grid(axis="y", color=axes.GRID, lw=0.8)
        ax.set_xlabel("width σ_rel of the average")
        ax.set_title(f"{title}: validation loss, nats/token", loc="left", fontsize=9)
        figure.savefig(path, dpi=200, facecolor="white")
