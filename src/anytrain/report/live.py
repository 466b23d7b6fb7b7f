"""A run in progress, read again and again, whatever state its files are in."""

import threading
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

from anytrain.compare import predict, standing, supplies
from anytrain.compare.frontier import horizon_kind, warmup_tokens
from anytrain.compare.standing import DAY, Activity, Candidate, Position
from anytrain.compare.supplies import Corpus, Disk
from anytrain.compare.tail import Point, Tail
from anytrain.errors import UserError
from anytrain.evaluations import Evaluation, best_so_far, evaluations
from anytrain.rundir import RunDir

_FRESH = 1.0  # seconds for which a reading is good enough for another asker


@dataclass(frozen=True)
class Reading:
    """A run at one moment; None and empty where there is nothing yet."""

    path: Path  # as it was given
    recipe: str
    at: float  # seconds since 1970
    activity: Activity
    now: Position
    found: tuple[Evaluation, ...]
    points: tuple[Point, ...]
    after: float  # tokens, the end of the warmup
    release: Candidate | None
    last: float | None  # nats/token, gain of the last doubling
    ahead: predict.Forecast | None
    unknown: str | None  # why there is no forecast
    corpora: tuple[Corpus, ...]
    context: int  # tokens of a window
    disk: Disk

    @property
    def best(self) -> Evaluation | None:
        return best_so_far(self.found)

    def data_left(self) -> tuple[float, Corpus] | None:
        """Seconds until the first corpus ends its pass at this pace, and which one."""
        rate = self.now.tokens_per_second
        ends = [
            (corpus.left * self.context / (rate * corpus.share) if rate else inf, corpus)
            for corpus in self.corpora
            if corpus.share
        ]
        return min(ends, key=lambda end: end[0], default=None)

    def disk_left(self) -> float | None:
        """Seconds until the disk is full at this pace."""
        return self.disk.free / self.disk.per_day * DAY if self.disk.per_day else None


class Watch:
    """One run, for any number of askers: what was last read of it, and what keeps it from more."""

    def __init__(self, path: str | Path) -> None:
        self.run = RunDir.open(path)
        self.path = Path(path)
        self._tail = Tail(self.run.path / "metrics.jsonl")
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._problem: str | None = None
        self._read_at = -inf  # of time.monotonic()

    def read(self) -> tuple[Reading | None, str | None]:
        """The last good reading, and the sentence that says why it is not of now."""
        with self._lock:
            if time.monotonic() - self._read_at >= _FRESH:
                self._refresh()
                self._read_at = time.monotonic()
            return self._reading, self._problem

    def _refresh(self) -> None:
        if not self.run.exists:
            self._problem = f"{self.path} is no longer there; what is shown was read before"
            return
        try:
            self._reading = _read(self.run, self._tail)
            self._problem = None
        except UserError as error:
            self._problem = str(error)
        except OSError as error:  # a file went while it was read
            self._problem = f"{error.filename or self.path}: {error.strerror}"


def _read(run: RunDir, tail: Tail) -> Reading:
    recipe, identity = run.recipe, run.identity
    checkpoints = standing.readable(run)
    now = standing.position(run, checkpoints)
    found = tuple(evaluations(run))
    after, context = warmup_tokens(recipe), int(recipe["train"]["context"])
    curve = predict.best_curve(found)
    ahead, unknown = None, None
    kind = horizon_kind(recipe)
    if kind is not None:
        unknown = f"none: a {kind} ends at its horizon"
    else:
        try:
            ahead = predict.forecast(curve, after)
        except predict.TooEarly as why:
            unknown = str(why)
    return Reading(
        path=run.path,
        recipe=str(recipe.get("name") or ""),
        at=time.time(),
        activity=standing.activity(run),
        now=now,
        found=found,
        points=tail.read(),
        after=after,
        release=standing.candidate(found, checkpoints),
        last=predict.gained(curve),
        ahead=ahead,
        unknown=unknown,
        corpora=tuple(supplies.corpora(identity, supplies.samples_at(now, checkpoints, context))),
        context=context,
        disk=supplies.disk(run, checkpoints, now, recipe),
    )
