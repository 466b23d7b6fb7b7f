"""What ends a sitting: a budget, a horizon, a signal. Training below knows none of them."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from anytrain.grammar import Quantity
from anytrain.training.cadence import reached
from anytrain.training.run import Clock

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):
    """A signal came before training did."""


@dataclass
class Stop:
    """Asked after every step; `signalled` is the name of the signal, once there was one."""

    length: Quantity | None = None  # --for: from where this sitting began
    until: Quantity | None = None  # --until: from the start of the run
    horizon: float | None = None  # steps at the reference batch, of a horizon-bound schedule
    begun: Clock = field(default_factory=Clock)  # where the sitting began
    now: Callable[[], float] = time.monotonic
    began: float = 0.0  # and when, by `now`
    signalled: str | None = None
    stepping: bool = False  # whether there is a step to wait for

    def begin(self, clock: Clock, now: Callable[[], float] = time.monotonic) -> None:
        """The sitting begins here: what `--for` counts from, by a clock."""
        self.now = now
        self.begun, self.began = replace(clock), now()
        self.stepping = True

    def heard(self, signals: int) -> None:
        """A signal came to this process or another one."""
        if signals and self.signalled is None:
            self.signalled = signal.Signals(signals).name

    @property
    def number(self) -> int:
        """Of the signal that came, or 0."""
        return int(signal.Signals[self.signalled]) if self.signalled else 0

    def reason(self, clock: Clock) -> str | None:
        """Why to stop here, or None to go on."""
        if self.signalled:
            return self.signalled
        if self.horizon is not None and clock.t >= self.horizon:
            return "horizon"
        if self.until is not None and reached(self.until, clock):
            return f"--until {self.until}"
        if self.length is not None and self._spent(self.length, clock):
            return f"--for {self.length}"
        return None

    def _spent(self, length: Quantity, clock: Clock) -> bool:
        if length.unit == "seconds":
            return self.now() - self.began >= length.amount
        if length.unit == "tokens":
            return clock.tokens - self.begun.tokens >= length.amount
        return clock.step - self.begun.step >= length.amount

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, a signal asks for a stop after this step; a second SIGINT stops at once.

        Before the first step there is nothing to wait for or to save: `Interrupted` is raised.
        """
        before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signalled == "SIGINT":
            signal.default_int_handler(number, frame)
        self.signalled = signal.Signals(number).name
        if not self.stepping:
            raise Interrupted(self.signalled)
