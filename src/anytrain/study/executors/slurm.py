"""A Slurm cluster: every command is a job, submitted by submitit."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anytrain.errors import UserError, missing_extra
from anytrain.study.executors.command import hear_interrupts, run

_LOOK = 2.0  # seconds between two looks at the jobs


@dataclass(eq=False)
class Slurm:
    """Commands as Slurm jobs, on nodes that share the working directory and have anytrain."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    timeout_min: int = 720  # minutes; a training that is stopped by it has saved a checkpoint
    cpus: int = 4  # of a job
    gpus: int = 0  # of a job
    mem_gb: int | None = None
    folder: str = "slurm"  # submitit's own files
    cluster: Literal["slurm", "local"] = "slurm"  # local: processes here, to try it out

    _jobs: list[tuple[Any, "Future[int]"]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        for name, least in (("timeout_min", 1), ("cpus", 1), ("gpus", 0), ("mem_gb", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"slurm:{name} = {value}; {least} or more is valid")
        try:
            import submitit
        except ImportError as error:
            raise missing_extra("submitit", "slurm", "running a study on Slurm") from error
        if self.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise UserError("slurm: there is no srun here; a login node of the cluster is valid")
        hear_interrupts()
        self._submitit = submitit.AutoExecutor(self.folder, cluster=self.cluster)
        self._submitit.update_parameters(**self._parameters())
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="slurm", daemon=True)
        self._watcher.start()

    def _parameters(self) -> dict[str, Any]:
        asked = {
            "name": "anytrain",
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem_gb": self.mem_gb,
            **{f"slurm_{n}": getattr(self, n) for n in ("partition", "account", "qos")},
            "slurm_constraint": self.constraint,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
        """Run a command as a job; the cluster's queue decides when, whatever its rank."""
        if self._closed.is_set():
            raise RuntimeError("this executor is closed")
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        job = self._submitit.submit(run, list(argv), str(log.absolute()), str(Path.cwd()))
        with self._lock:
            self._jobs.append((job, future))
        return future

    def close(self) -> None:
        """Cancel every job (Slurm sends it SIGTERM), return when all have ended."""
        self._closed.set()
        self._watcher.join()
        for job, future in self._jobs:
            if not job.done(force_check=True):
                job.cancel()
            _settle(job, future)
        self._jobs = []

    def _watch(self) -> None:
        """Hands on what has ended."""
        while not self._closed.wait(_LOOK):
            with self._lock:
                jobs = list(self._jobs)
            for job, future in jobs:
                if job.done():
                    _settle(job, future)
            with self._lock:
                self._jobs = [(job, future) for job, future in self._jobs if not future.done()]


def _settle(job: Any, future: "Future[int]") -> None:
    """A job's exit status, or why there is none; waits for its end."""
    try:
        future.set_result(int(job.result()))
    except Exception as error:  # the job's own, of any class: whoever waits for it has to see it
        with suppress(Exception):
            future.set_exception(error)
