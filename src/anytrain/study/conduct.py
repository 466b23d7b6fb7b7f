"""Doing what a study needs: jobs to an executor as soon as what they need is there."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.rundir import RunDir
from anytrain.study.executors import Executor
from anytrain.study.work import STOPPED


class Work(Protocol):
    """One thing to do, in a process of its own."""

    @property
    def name(self) -> str: ...

    @property
    def rank(self) -> float:
        """Of what waits for a free place, the highest begins first."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What that process reads."""
        ...


W = TypeVar("W", bound=Work)


class Conducted(Protocol[W]):
    """A study as far as conducting it goes: what there is to do, and what is over."""

    out: Path

    def keep_design(self) -> None: ...

    def refresh(self) -> None:
        """Read what was done since."""
        ...

    def ready(self) -> Iterator[W]:
        """What can be done now, the dearest first."""
        ...

    def over(self, job: W, /) -> bool:
        """Whether it is done, or never will be."""
        ...

    def count(self) -> int:
        """Of all there is to do."""
        ...

    def progress(self) -> str:
        """In words."""
        ...


def conduct(study: Conducted[W], executor: Executor, say: Callable[[str], Any] = print) -> None:
    """Do everything that is missing, and what follows from it, until nothing is.

    Nothing is ever done twice: what is there is used, what was stopped goes on. A job that fails
    does not hold up the others; at the end a UserError names it and its log.
    """
    with RunDir(study.out).locked(), _cancelled(executor):
        study.keep_design()
        running: dict[Future[int], W] = {}
        failed: dict[str, str] = {}
        while True:
            _submit(study, executor, running, failed)
            if not running:
                break
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                _ended(study, job, future, failed)
            study.refresh()
            say(study.progress() + (f"; {len(failed)} failed" if failed else ""))
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {study.count()} jobs failed, first {name}: {why}")


def _submit(
    study: Conducted[W], executor: Executor, running: dict[Future[int], W], failed: dict[str, str]
) -> None:
    under_way = {job.name for job in running.values()}
    for job in study.ready():
        if job.name not in under_way and job.name not in failed:
            future = executor.submit(command(study, job), log(study, job), job.rank)
            running[future] = job


def command(study: Conducted[W], job: W) -> list[str]:
    """What does a job; its file is written here."""
    path = study.out / "jobs" / f"{job.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(job.to_json(), indent=1))
    words = ["study", "--out", str(study.out.resolve()), "--job", job.name]
    return [sys.executable, "-m", "anytrain", *words]


def log(study: Conducted[W], job: W) -> Path:
    """What that process says, appended."""
    path = study.out / "logs" / f"{job.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _ended(study: Conducted[W], job: W, future: Future[int], failed: dict[str, str]) -> None:
    """A job that ended without being over did not do what it is for."""
    if study.over(job):
        return
    path = log(study, job)
    if error := future.exception():  # the executor's own: a node that is gone, a job cancelled
        failed[job.name] = f"{type(error).__name__}: {error} ({path})"
        return
    if future.result() == STOPPED:  # preempted: it goes on from its checkpoint when it is asked to
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    failed[job.name] = f"exit status {future.result()}, {last} ({path})"


@contextlib.contextmanager
def _cancelled(executor: Executor) -> Iterator[None]:
    """Whatever ends the study ends its processes, which leave a checkpoint."""
    try:
        yield
    finally:
        executor.close()
