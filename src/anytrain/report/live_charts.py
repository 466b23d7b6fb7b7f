"""Charts of a run in progress: losses, learning rate and throughput against tokens."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10
from statistics import median

from anytrain.compare.tail import Point
from anytrain.evaluations import RAW
from anytrain.grammar import short_count
from anytrain.report.charts import Axis, Chart, Series
from anytrain.report.live import Reading
from anytrain.words import tokens

_BACK = 32.0  # the loss is shown from so many times fewer tokens on: five doublings
_BINS = 60  # means along the axis, of training loss and throughput


def charts(name: str, read: Reading) -> tuple[Chart, ...]:
    """Those that there is something to draw of; `name` begins their names in the page."""
    found = (_loss(name, read), _rate(name, read), _throughput(name, read))
    return tuple(chart for chart in found if chart is not None)


def ticks(low: float, high: float, log: bool = False) -> tuple[tuple[float, str], ...]:
    """Round numbers of tokens between two ends."""
    if log:
        decades = range(floor(log10(low)), ceil(log10(high)) + 1)
        marks = [m * 10.0**k for k in decades for m in (1, 2, 5)]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) > 7:
            inside = [mark for mark in inside if f"{mark:e}"[0] == "1"] or inside[::3]
    else:
        step = 10.0 ** floor(log10((high - low) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
        inside = [step * k for k in range(ceil(low / step), floor(high / step) + 1)]
    return tuple((mark, short_count(mark)) for mark in inside)


def _loss(name: str, read: Reading) -> Chart | None:
    """Validation loss of the raw weights and of every average, over the training loss."""
    last = max([e.tokens for e in read.found] + [p.tokens for p in read.points], default=0)
    if last <= 0:
        return None
    first = max(last / _BACK, min(read.after, last / 4))
    shown = [e for e in read.found if first <= e.tokens]
    names = list(dict.fromkeys(n for e in shown for n in e.losses))
    best = shown[-1].best[0] if shown else None
    series = [_training(read.points, first, role="ramp2" if shown else "best")]
    for weights in sorted(names, key=lambda n: (n == best, n == RAW)):
        at = [e for e in shown if weights in e.losses]
        series.append(
            Series(
                weights,
                tuple(float(e.tokens) for e in at),
                tuple(e.losses[weights] for e in at),
                role="best" if weights == best else "ink" if weights == RAW else "average",
                width=2.4 if weights == best else 1.5 if weights == RAW else 1.0,
                shape="circle" if len(at) == 1 else "",
                label="edge" if weights in (best, RAW) else "",
                hover=tuple(
                    f"<b>{weights}</b><br>{tokens(e.tokens)} tokens: {e.shown(weights)}" for e in at
                ),
            )
        )
    drawn = tuple(s for s in series if s.x)
    if not drawn:
        return None
    axis = Axis("tokens", True, ticks(first, last, True), (first, last * 1.04))
    loss = Axis("nats/token", range=_loss_range(drawn))
    title = "Validation loss" if shown else "Loss while training; no evaluation yet"
    return Chart(f"{name}-loss", title, axis, loss, drawn)


def _loss_range(drawn: Sequence[Series]) -> tuple[float, float]:
    """Validation losses whole; of the training losses, the highest few may leave the picture."""
    values = sorted(v for s in drawn for v in s.y if s.name != "training")
    training = sorted(v for s in drawn for v in s.y if s.name == "training")
    if training:
        values += [training[0], training[int(0.97 * (len(training) - 1))]]
    pad = 0.06 * (max(values) - min(values)) or 0.05
    return min(values) - pad, max(values) + pad


def _training(points: Sequence[Point], first: float, role: str) -> Series:
    """Mean training loss of bins that are even on the axis."""
    shown = [p for p in points if p.tokens >= first]
    bins: dict[int, list[Point]] = {}
    if shown:
        width = (log10(shown[-1].tokens / first) or 1.0) / _BINS
        for point in shown:
            place = min(int(log10(point.tokens / first) / width), _BINS - 1)
            bins.setdefault(place, []).append(point)
    return Series(
        "training",
        tuple(float(group[-1].tokens) for group in bins.values()),
        tuple(sum(p.loss for p in group) / len(group) for group in bins.values()),
        role=role,
        width=1.0,
    )


def _rate(name: str, read: Reading) -> Chart | None:
    """The learning rate of every step."""
    at = [(float(p.tokens), p.lr) for p in read.points if p.lr is not None]
    if len(at) < 2:
        return None
    x, y = zip(*at, strict=True)
    hover = tuple(f"{tokens(d)} tokens: {lr:.3g}" for d, lr in at)
    line = Series("rate", x, y, role="best", width=2.0, label="", hover=hover)
    return Chart(
        f"{name}-rate",
        "Learning rate",
        Axis("tokens", ticks=ticks(0.0, x[-1]), range=(0.0, x[-1] * 1.02)),
        Axis("learning rate", range=(0.0, max(y) * 1.08 or 1.0)),
        (line,),
    )


def _throughput(name: str, read: Reading) -> Chart | None:
    """Tokens a second over each stretch, its evaluations and checkpoints included."""
    timed = [(p.tokens, p.seconds) for p in read.points if p.seconds is not None]
    timed = timed[:: max(1, len(timed) // _BINS)]
    at = [
        (float(d1), (d1 - d0) / (s1 - s0))
        for (d0, s0), (d1, s1) in pairwise(timed)
        if s1 > s0 and d1 > d0
    ]
    if len(at) < 2:
        return None
    x, y = zip(*at, strict=True)
    middle = median(y)
    hover = tuple(f"{tokens(d)} tokens: {tokens(v)} tokens/s" for d, v in at)
    line = Series("pace", x, y, role="best", width=1.6, label="", hover=hover)
    top = max(2 * middle, min(max(y), 3 * middle)) * 1.05
    return Chart(
        f"{name}-pace",
        "Throughput, evaluations and checkpoints included",
        Axis("tokens", ticks=ticks(0.0, x[-1]), range=(0.0, x[-1] * 1.02)),
        Axis("tokens a second", ticks=ticks(0.0, top), range=(0.0, top)),
        (line,),
    )
