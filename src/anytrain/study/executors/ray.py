"""A Ray cluster, or Ray on this machine: every command is a task."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anytrain.errors import UserError, missing_extra
from anytrain.study.executors.command import hear_interrupts, run


@dataclass(eq=False)
class Ray:
    """Commands as Ray tasks, on nodes that share the working directory and have anytrain."""

    address: str | None = None  # None: RAY_ADDRESS, or a Ray of its own on this machine
    cpus: float = 1.0  # of a command
    gpus: float = 0.0  # of a command; a fraction shares one

    _tasks: list[Any] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        for name, value, least in (("cpus", self.cpus, "above 0"), ("gpus", self.gpus, "from 0")):
            if value < 0 or (name == "cpus" and value == 0):
                raise ValueError(f"ray:{name} = {value:g}; a number {least} is valid")
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "ray", "running a study on Ray") from error
        hear_interrupts()
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=self.address, log_to_driver=False)
            except ConnectionError as error:
                raise UserError(
                    f"ray:address = {self.address!r}: no cluster answers there; host:port, "
                    "ray://host:port, or auto on a node of the cluster are valid"
                ) from error
        # no retry: the study decides, and a training goes on from its own checkpoint. Ray itself
        # sets OMP_NUM_THREADS to num_cpus and CUDA_VISIBLE_DEVICES to the task's own
        remote: Any = ray.remote
        self._task = remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(run)

    def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
        """Run a command when the cluster has room, whatever its rank."""
        task = self._task.remote(list(argv), str(log.absolute()), str(Path.cwd()))
        self._tasks.append(task)
        future: Future[int] = task.future()
        return future

    def close(self) -> None:
        """Cancel what waits, SIGTERM what runs, return when all of it has ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            self._ray.cancel(task)  # one that has ended stays as it is
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks))
        if self._ours:
            self._ray.shutdown()
