"""Training what a study needs: jobs to an executor as soon as what they need is there."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.rundir import RunDir
from anytrain.study.executors import Executor
from anytrain.study.gather import Study
from anytrain.study.jobs import Job
from anytrain.study.work import STOPPED
from anytrain.words import tokens


def conduct(study: Study, executor: Executor, say: Callable[[str], Any] = print) -> None:
    """Train everything that is missing, and what follows from it, until nothing is.

    Nothing is ever trained twice: what is there is used, what was stopped goes on. A job that
    fails does not hold up the others; at the end a UserError names it and its log.
    """
    with RunDir(study.out).locked(), _cancelled(executor):
        study.keep_design()
        running: dict[Future[int], Job] = {}
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
            _tell(study, running, failed, [*ended], say)
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(f"{len(failed)} of {len(study.plan.jobs)} jobs failed, first {name}: {why}")


def ready(study: Study) -> Iterator[Job]:
    """Jobs that can be trained now, the longest first: what they branch from is there."""
    jobs = study.plan.jobs
    missing = [job for job in jobs.values() if not study.over(job)]
    for job in sorted(missing, key=lambda job: -job.cost):
        if job.leave is None or study.can_leave(job) or study.done(jobs[job.leave.trunk]):
            yield job


def _submit(
    study: Study, executor: Executor, running: dict[Future[int], Job], failed: dict[str, str]
) -> None:
    under_way = {job.name for job in running.values()}
    for job in ready(study):
        if job.name not in under_way and job.name not in failed:
            running[executor.submit(command(study, job), log(study, job))] = job


def command(study: Study, job: Job) -> list[str]:
    """What trains a job; its file is written here."""
    path = study.out / "jobs" / f"{job.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(job.to_json(), indent=1))
    words = ["study", "--out", str(study.out.resolve()), "--job", job.name]
    return [sys.executable, "-m", "anytrain", *words]


def log(study: Study, job: Job) -> Path:
    """What that process says, appended."""
    path = study.out / "logs" / f"{job.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _ended(study: Study, job: Job, future: Future[int], failed: dict[str, str]) -> None:
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


def _tell(
    study: Study, running: dict[Future[int], Job], failed: dict[str, str],
    ended: list[Future[int]], say: Callable[[str], Any],
) -> None:  # fmt: skip
    jobs = study.plan.jobs.values()
    over = sum(study.over(job) for job in jobs)
    left = sum(job.cost for job in jobs if not study.over(job))
    say(f"{over} of {len(jobs)} runs and branches done, {tokens(left)} tokens left"
        + (f"; {len(failed)} failed" if failed else ""))  # fmt: skip


@contextlib.contextmanager
def _cancelled(executor: Executor) -> Iterator[None]:
    """Whatever ends the study ends its processes, which leave a checkpoint."""
    try:
        yield
    finally:
        executor.close()
