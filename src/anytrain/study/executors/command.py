"""One command as a process of its own group: started, stopped, and nothing of it left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from anytrain.study.executors import child

_LOOK = 0.2  # seconds between two looks at a command, where the wait may be interrupted


class Command:
    """A running command. The thread that made it waits for it: with the thread, it dies.

    Its own process group keeps a terminal's Ctrl-C from it; what it hears is SIGTERM, once.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        cores: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        pinned = ",".join(str(core) for core in cores)
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), pinned, *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                process_group=0,
            )

    def signal(self, number: int) -> None:
        """To the command itself; SIGKILL to all of its group."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status, −N for signal N; processes it left behind are killed."""
        # not yet reaped, so its number is nobody else's while the group is swept
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether `wait` would return at once."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return found is not None


def hear_interrupts() -> None:
    """Undo an ignored SIGINT, as a shell leaves it to a background job.

    Workers inherit it, and cancelling one is an interrupt.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(argv: Sequence[str], log: str, cwd: str) -> int:
    """Run a command to its end on the machine that this is called on, by a cluster's worker."""
    command = Command(argv, Path(log), cwd=Path(cwd))
    try:
        while not command.ended:  # a worker's KeyboardInterrupt waits for no system call to end
            time.sleep(_LOOK)
    except BaseException:  # the worker is told to stop: pass it on, and let it save
        command.signal(signal.SIGTERM)
        command.wait()
        raise
    return command.wait()
