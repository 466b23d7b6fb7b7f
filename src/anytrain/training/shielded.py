"""A logger whose failures cost records of its own and never the run."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

FIRST_PAUSE = 60.0  # seconds without the logger after a failure, doubled by each further one
LONGEST_PAUSE = 3600.0  # seconds


class Logger(Protocol):
    """Anything that takes metric records and can be closed."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Shielded:
    """A logger that may fail: said once, and training goes on.

    `metrics.jsonl` has every record whatever happens here. After a failure the logger is left alone
    for a minute, after the next for two, and so on up to an hour: a service that answers after a
    timeout would otherwise slow every step. One that cannot be opened is not tried again before
    the next sitting: opening waits for a service much longer than logging does.
    """

    def __init__(
        self,
        name: str,
        opened: Callable[[], Logger],
        failed: Callable[[str, str], None],  # told the name and the reason, once
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.failed = failed
        self.now = now
        self.pause = FIRST_PAUSE
        self.again = 0.0  # when to try again, on the clock of `now`
        self.said = False
        self.logger: Logger | None = None
        try:
            self.logger = opened()
        except Exception as error:
            self._say(f"cannot be opened: {_reason(error)}")

    def log(self, record: Mapping[str, Any]) -> None:
        """Hand a record on, unless the logger failed a moment ago."""
        if self.logger is None or (self.said and self.now() < self.again):
            return
        try:
            self.logger.log(record)
        except Exception as error:
            self.again = self.now() + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self._say(f"failed at step {record['step']}: {_reason(error)}")

    def close(self) -> None:
        """End the sitting's part; what goes wrong is said, as everywhere here."""
        if self.logger is None:
            return
        try:
            self.logger.close()
        except Exception as error:
            self._say(f"could not be closed: {_reason(error)}")

    def _say(self, why: str) -> None:
        if not self.said:
            self.said = True
            self.failed(self.name, why)


def _reason(error: Exception) -> str:
    """The first line of an error, with its type where it says nothing else."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
