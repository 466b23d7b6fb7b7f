"""Where the wall time of a sitting goes, and how much of it evaluations may still take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Wall time of a sitting: steps, evaluations, and what is left of the share for them.

    What decides anything is by `now`, a clock that all processes read the same.
    """

    def __init__(self, earlier: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.earlier = earlier  # seconds, of earlier sittings
        self.now = now
        self.began = self.save_mark = self.evaluation_mark = now()
        self.mark = time.monotonic()
        self.spent = 0.0  # seconds of this sitting spent evaluating
        self.last_evaluation = 0.0  # seconds
        self.a_set = 0.0  # seconds to evaluate one set of weights, as last measured

    def total(self) -> float:
        """Seconds the run has been trained for, all sittings."""
        return self.earlier + self.now() - self.began

    def lap(self) -> float:
        """Seconds since the last step ended, evaluations and saves left out."""
        now = time.monotonic()
        seconds, self.mark = max(now - self.mark, 1e-9), now
        return seconds

    def affordable(self, share: float) -> float:
        """How many sets of weights can be evaluated now within the share of wall time."""
        if self.a_set == 0.0:
            return float("inf")
        left = share * (self.now() - self.began) - self.spent
        return left / self.a_set

    @contextmanager
    def evaluating(self, sets: int, beat: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Times an evaluation of so many sets of weights; `beat` moves the clock."""
        beat()
        began = self.now()
        yield
        beat()
        self.evaluation_mark, self.mark = self.now(), time.monotonic()
        self.last_evaluation = self.evaluation_mark - began
        self.spent += self.last_evaluation
        self.a_set = self.last_evaluation / max(sets, 1)

    def since_evaluation(self) -> float:
        return self.now() - self.evaluation_mark

    def since_save(self) -> float:
        return self.now() - self.save_mark

    def saved(self) -> None:
        self.save_mark, self.mark = self.now(), time.monotonic()
