"""Checkpoints written beside training, which waits for no more than a copy of its state."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from time import perf_counter

from anytrain.rundir import RunDir
from anytrain.training import checkpoint
from anytrain.training.cadence import Cadence
from anytrain.training.checkpoint import Content
from anytrain.training.mirror import Mirror
from anytrain.training.retention import prune
from anytrain.training.run import Run
from anytrain.training.staging import Staging

# Of a core that training wants too, a thread so much nicer gets 45 parts beside 1024: 4%.
_NICE = 14


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on the disk, and what it cost."""

    step: int
    tokens: int
    blocked: float  # seconds that training waited
    background: float  # seconds of writing beside it
    said: list[str]  # what a person should know
    mirrored: dict[str, float | str] | None = None  # seconds, or why it is not


class Saver:
    """Writes the checkpoints of one sitting, one at a time, and prunes.

    What goes wrong beside training is raised by the next call of `save` or `wait`.
    """

    def __init__(self, rundir: RunDir, cadence: Cadence) -> None:
        self.rundir = rundir
        self.cadence = cadence
        self.staging = Staging()
        location = cadence.recipe.checkpoint.mirror
        self.mirror = Mirror(location) if location is not None else None
        self._writing: Future[Saved] | None = None

    def save(self, run: Run) -> Saved | None:
        """Copy the run's state and write it beside what comes next.

        One that is still being written is waited for, which is time blocked as well, and returned.
        """
        began = perf_counter()
        earlier = self.wait()
        live = checkpoint.content(run)
        copied = self.staging.copy(live.tensors)
        what = replace(live, tensors=copied, world=run.world.beside())
        blocked = perf_counter() - began
        self._writing = _beside(lambda: self._write(what, blocked))
        return earlier

    def save_now(self, run: Run) -> Saved:
        """Write the run's state while it waits: there is nothing to go on with, so no copy."""
        assert self._writing is None
        saved = self._write(checkpoint.content(run), 0.0)
        return replace(saved, blocked=saved.background, background=0.0)

    @property
    def done(self) -> bool:
        """Whether nothing is being written."""
        return self._writing is None or self._writing.done()

    def wait(self) -> Saved | None:
        """What has been written since it was last asked, after the writing has ended."""
        if self._writing is None:
            return None
        try:
            return self._writing.result()
        finally:
            self._writing = None

    def _write(self, what: Content, blocked: float) -> Saved:
        began = perf_counter()
        checkpoint.write(what, self.rundir)
        said = prune(self.rundir, self.cadence) if what.world.first else []
        tokens = int(what.summary["tokens"])
        seconds = perf_counter() - began
        mirrored = self._mirror() if what.world.first else None
        return Saved(what.step, tokens, blocked, seconds, said, mirrored)

    def _mirror(self) -> dict[str, float | str] | None:
        """Bring the mirror up to date, if there is one: how long it took, or why it is not."""
        if self.mirror is None:
            return None
        began = perf_counter()
        why = self.mirror.update(self.rundir)
        return {"seconds": round(perf_counter() - began, 6)} if why is None else {"why": why}


def _beside(work: Callable[[], Saved]) -> Future[Saved]:
    """Do it in a thread, which takes what training leaves and does not outlive the process."""
    future: Future[Saved] = Future()

    def body() -> None:
        if sys.platform == "linux":  # elsewhere, niceness is that of the whole process
            os.nice(_NICE)
        try:
            future.set_result(work())
        except BaseException as error:  # all of it is for the thread that trains
            future.set_exception(error)

    threading.Thread(target=body, name="checkpoint", daemon=True).start()
    return future
