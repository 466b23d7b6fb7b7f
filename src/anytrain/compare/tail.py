"""The training records of a run that is being written, read once each and thinned."""

from pathlib import Path
from typing import NamedTuple

from anytrain.files import read_line
from anytrain.forms import METRIC

_MOST = 1200  # points kept; past it, every second one goes


class Point(NamedTuple):
    """What one training step wrote, or the mean over steps since the point before."""

    step: int
    tokens: int
    loss: float  # nats/token
    lr: float | None
    seconds: float | None  # trained so far


class Tail:
    """Follows metrics.jsonl: a torn last line waits for its end, a shorter file is read anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._offset = 0  # bytes read, whole lines
        self._lines = 0
        self._stride = 1  # steps of one point
        self._points: list[Point] = []
        self._group: list[Point] = []

    def read(self) -> tuple[Point, ...]:
        """Every point so far. Raises UserError where a line is damaged."""
        if not self._path.exists():
            self._begin()
            return ()
        with self._path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                self._begin()
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._take(line)
                self._offset += len(line)
                self._lines += 1
        last = [_mean(self._group)] if self._group else []
        return tuple(self._points + last)

    def _take(self, line: bytes) -> None:
        record = read_line(line, f"{self._path}, line {self._lines + 1}", METRIC)
        if "loss" not in record:
            return
        new = Point(
            int(record["step"]),
            int(record["tokens"]),
            float(record["loss"]),
            record.get("lr"),
            record.get("seconds"),
        )
        if self._group and new.step <= self._group[-1].step:  # taken up again after a stop
            self._group = [p for p in self._group if p.step < new.step]
        if not self._group and self._points and new.step <= self._points[-1].step:
            self._points = [p for p in self._points if p.step < new.step]
        self._group.append(new)
        if len(self._group) >= self._stride:
            self._points.append(_mean(self._group))
            self._group = []
        if len(self._points) > _MOST:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            self._points = [_mean(list(pair)) for pair in pairs]
            self._stride *= 2


def _mean(group: list[Point]) -> Point:
    """The last of a group, with the mean of its losses."""
    return group[-1]._replace(loss=sum(point.loss for point in group) / len(group))
