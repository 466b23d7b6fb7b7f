"""Where the names of single points stand, so that they cover each other and marks least."""

from math import hypot

from anytrain.report.charts import Chart, position

PAPER, COLUMN = 600.0, 430.0  # pixels of a plot's width, about: a figure, and one of two columns
_HEIGHT = 320.0
_LETTER, _LINE, _MARK = 7.2, 13.0, 9.0  # pixels of a letter, of a line, of a mark
_FAR = (14.0, 28.0, 42.0)  # pixels up and down that a name beside its point may be moved
_COVER = 10.0  # pixels of distance that a covered square pixel is worth

Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels


def point_names(chart: Chart, width: float) -> list[tuple[str, float, float, float, float, str]]:
    """(name, x, y, pixels right, pixels up, role) of each series named at its last point.

    Of places above, below and beside its point and further off, a name takes, in the order of the
    series, the one that covers least of the names before it and of named points; among equals the
    nearest. `width` is the plot's.
    """
    named = [s for s in chart.series if s.label == "end" and s.x]
    at = [(s.x[-1], s.y[-1]) for s in named]
    middles = [_pixels(chart, width, x, y) for x, y in at]
    taken = [_box(x, y, _MARK, _MARK) for x, y in middles]
    found = []
    for series, (x, y), (px, py) in zip(named, at, middles, strict=True):
        letters = _LETTER * len(series.name)
        places = _places(letters)
        tries = [_box(px + dx, py + dy, letters, _LINE) for dx, dy in places]
        costs = [
            _COVER * (sum(_overlap(box, other) for other in taken) + _outside(box, width))
            + hypot(dx, dy)
            for box, (dx, dy) in zip(tries, places, strict=True)
        ]
        best = min(range(len(tries)), key=lambda i: costs[i])
        taken.append(tries[best])
        found.append((series.name, x, y, *places[best], series.role))
    return found


def _places(width: float) -> list[tuple[float, float]]:
    beside = width / 2 + 8
    near = [(0.0, 12.0), (0.0, -12.0), (beside, 0.0), (-beside, 0.0)]
    return near + [(dx, sign * dy) for dy in _FAR for dx in (beside, -beside, 0.0)
                   for sign in (1, -1)]  # fmt: skip


def _pixels(chart: Chart, width: float, x: float, y: float) -> tuple[float, float]:
    across = position(x, chart.x_range(), chart.x.log)
    up = position(y, chart.y_range(), chart.y.log)
    return across * width, up * _HEIGHT


def _box(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    up = min(a[3], b[3]) - max(a[1], b[1])
    return across * up if across > 0 and up > 0 else 0.0


def _outside(box: Box, width: float) -> float:
    """Square pixels, about, that stick out of the plot."""
    left, bottom, right, top = box
    across = max(0.0, -left) + max(0.0, right - width)
    up = max(0.0, -bottom) + max(0.0, top - _HEIGHT)
    return across * (top - bottom) + up * (right - left)
