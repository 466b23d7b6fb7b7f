"""Real training processes of one recipe in a scratch directory, to be stopped, killed, compared."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from anytrain import schedules
from anytrain.errors import UserError
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training.config import Recipe

MERGED = 4  # moves of the averages whose iterates are kept, to be merged
PATIENCE = 1800.0  # seconds, for a process to get to its next checkpoint: it may compile first
_NAP = 0.01  # seconds between looks at a process
_AIM = 0.3  # seconds; a kill comes so long after a checkpoint or earlier, at random


class Broken(Exception):
    """A law does not hold; the sentence says what was seen."""


class Unavailable(Exception):
    """A law cannot be checked here; the sentence says why."""


@dataclass
class Bench:
    """The recipe as it is, but for what it evaluates, keeps and reports; and its runs."""

    folder: Path
    recipe: Recipe  # resolved, on data that are there
    imports: tuple[str, ...] = ()  # modules of the user
    steps: int = 8
    until: int = 0  # step at which the undisturbed run ends; it grows until that run is made

    def __post_init__(self) -> None:
        self.until = self.within(max(2 * self.steps, self.moves[-1]))
        if self.until < 2 * self.steps:
            raise UserError(
                f"--steps {self.steps}: {self.recipe.schedule} ends at step {self.until}; "
                f"2 to {self.until // 2} is valid"
            )
        self.toml.write_text(tomli_w.dumps(self._table()), encoding="utf-8")

    @property
    def toml(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def moves(self) -> list[int]:
        """The first steps at which the averages move."""
        every = self.recipe.train.average_every
        return [every * (i + 1) for i in range(MERGED)]

    def within(self, step: int) -> int:
        """That step, or the last one before the horizon of a schedule that has one."""
        end = schedules.horizon(self.recipe.built_schedule())
        return step if end is None else min(step, int(end / self.recipe.train.dt))

    def _table(self) -> dict[str, Any]:
        table = self.recipe.table()
        table.pop("log", None)  # metrics at every step, and only in the run directory
        # one evaluation on the way: weights are exchanged for it and put back
        at, tokens = max(1, self.steps // 2), 4 * self.recipe.train.context
        table["evaluate"] = {"tokens": f"{tokens}-tokens", "per_decade": 0, "at": [f"{at}-steps"]}
        table["checkpoint"] = {"every": "365d", "newest": 1}
        return table

    # --- processes ----------------------------------------------------------------------------

    def command(self, name: str, *more: str) -> list[str]:
        """`anytrain train` of the recipe into the run NAME."""
        begin = [sys.executable, "-m", "anytrain", "train", str(self.toml)]
        modules = [part for module in self.imports for part in ("--import", module)]
        return [*begin, "--run", str(self.folder / name), *modules, *more]

    def train(self, name: str, until: int, *more: str) -> RunDir:
        """The run NAME, trained by a process of its own until a step and left there."""
        with self._process(name, "--until", str(until), *more) as process:
            if (code := process.wait()) != 0:
                raise Broken(self._ended(name, code))
        return RunDir(self.folder / name)

    def kill(self, name: str, *more: str) -> int:
        """Train NAME, SIGKILL it after its next checkpoint; the step it was at."""
        run = RunDir(self.folder / name)
        before, deadline = _newest(run), time.monotonic() + PATIENCE
        with self._process(name, "--for", f"{PATIENCE:.0f}s", *more) as process:
            while _newest(run) <= before:
                if (code := process.poll()) is not None:
                    raise Broken(self._ended(name, code))
                if time.monotonic() > deadline:
                    raise Broken(f"no checkpoint in {PATIENCE:.0f} seconds")
                time.sleep(_NAP)
            time.sleep(random.uniform(0, _AIM))
            if (code := process.poll()) is not None:
                raise Broken(self._ended(name, code))
        return max(losses(run))

    @contextlib.contextmanager
    def _process(self, name: str, *more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A training process; whatever is left of it at the end, workers included, is killed."""
        with self._said(name).open("wb") as said:
            process = subprocess.Popen(
                self.command(name, *more), stdout=said, stderr=said, start_new_session=True
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _said(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _ended(self, name: str, code: int) -> str:
        lines = self._said(name).read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "without a word"
        return f"a training process ended with exit code {code}: {last}"

    # --- the run that all others are compared with --------------------------------------------

    @cached_property
    def undisturbed(self) -> RunDir:
        """Trained to `until` in one sitting; keeps its last steps, N, and the first moves."""
        at = [f"{step}-steps" for step in sorted({*self.moves, self.steps})]
        return self.train("undisturbed", self.until, f"checkpoint.at={at}")


def _newest(run: RunDir) -> int:
    return max((found.step for found in run.checkpoints()), default=0)


def losses(run: RunDir) -> dict[int, float]:
    """Training loss of every step, nats/token."""
    return {record["step"]: record["loss"] for record in run.metrics() if "loss" in record}


def at(run: RunDir, step: int) -> Checkpoint:
    """The checkpoint of a step, every file of it as its manifest says."""
    for found in run.checkpoints():
        if found.step == step:
            found.verify()
            return found
    raise Broken(f"there is no checkpoint at step {step}")
