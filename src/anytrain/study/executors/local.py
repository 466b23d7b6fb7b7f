"""This machine: a few slots, each with cores of its own, or with a GPU."""

import atexit
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from types import FrameType
from typing import Any

from anytrain.study.executors.command import Command


@dataclass(frozen=True)
class Slot:
    """What one command at a time may use."""

    cores: tuple[int, ...]  # empty: not pinned
    threads: int
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return {"OMP_NUM_THREADS": str(self.threads), **gpu}


@dataclass(eq=False)
class Local:
    """Processes on this machine, `slots` at a time.

    A slot is a GPU where there are any, else a core; the cores are dealt out evenly. Made in the
    main thread it takes SIGINT and SIGTERM: every command gets SIGTERM (a training saves a
    checkpoint and stops), nothing new begins, and the signal goes on as KeyboardInterrupt or
    SystemExit; a second one kills.
    """

    slots: int | None = None
    threads: int | None = None  # of a command; None: the cores of its slot

    # (−rank, number of the submission, and what it was): the heap's least is the next
    _waiting: list[tuple[float, int, list[str], Path, "Future[int]"]] = field(
        init=False, repr=False
    )
    _numbers: Iterator[int] = field(init=False, repr=False)
    _running: dict[int, Command] = field(init=False, repr=False)  # slot -> its command
    _stopping: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        for name, value in (("slots", self.slots), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"local:{name} = {value}; 1 or more is valid")
        self._waiting, self._numbers, self._running = [], itertools.count(), {}
        # re-entrant: a signal's handler may come while this very thread holds it
        self._changed = threading.Condition(threading.RLock())
        self._workers = [
            threading.Thread(
                target=self._work, args=(number, slot), name=f"slot {number}", daemon=True
            )
            for number, slot in enumerate(_slots(self.slots, self.threads))
        ]
        for worker in self._workers:
            worker.start()
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._interrupted)
        atexit.register(self.close)  # where nobody else does

    def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
        """Run a command when a slot is free and no higher rank waits; of equals, in turn."""
        future: Future[int] = Future()
        with self._changed:
            if self._stopping:
                raise RuntimeError("this executor is closed")
            heappush(self._waiting, (-rank, next(self._numbers), list(argv), log, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Drop what waits, SIGTERM what runs, return when all of it has ended."""
        atexit.unregister(self.close)
        self._stop()
        for worker in self._workers:
            worker.join()
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._interrupted:
                signal.signal(number, handler)
        self._before = {}

    # --- slots -------------------------------------------------------------------------------

    def _work(self, number: int, slot: Slot) -> None:
        """Commands one after the other. This thread outlives each: a command dies with it."""
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                _, _, argv, log, future = heappop(self._waiting)
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    command = Command(argv, log, cores=slot.cores, environment=slot.environment)
                except OSError as error:
                    future.set_exception(error)
                    continue
                self._running[number] = command
            status = command.wait()
            with self._changed:
                del self._running[number]
            future.set_result(status)

    def _stop(self) -> None:
        with self._changed:
            first, self._stopping = not self._stopping, True
            while self._waiting:
                self._waiting.pop()[-1].cancel()
            for command in self._running.values() if first else ():
                command.signal(signal.SIGTERM)
            self._changed.notify_all()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            for command in list(self._running.values()):
                command.signal(signal.SIGKILL)
        self._stop()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _slots(count: int | None, threads: int | None) -> list[Slot]:
    """`count` slots, by default one for each GPU or core, with the cores dealt out evenly."""
    pins = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if pins else list(range(os.cpu_count() or 1))
    gpus = _gpus()
    count = count or len(gpus) or len(cores)
    found = []
    for k in range(count):
        begin, end = k * len(cores) // count, (k + 1) * len(cores) // count
        own = tuple(cores[begin : max(end, begin + 1)])  # more slots than cores share them
        gpu = gpus[k % len(gpus)] if gpus else None
        found.append(Slot(own if pins else (), threads or len(own), gpu))
    return found


def _gpus() -> list[str]:
    """The GPUs that this process may use: CUDA_VISIBLE_DEVICES, or all of the machine's."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        hidden = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:hidden]  # CUDA looks no further than the first name that is not valid
    # counted, not named: a container may have /dev/nvidia3 alone, and CUDA calls it 0
    devices = [path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()]
    return [str(number) for number in range(len(devices))]
