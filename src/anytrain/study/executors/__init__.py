"""Where the trainings of a study run: this machine, a Ray cluster, a Slurm cluster.

local:slots=2                            ray:address=auto,cpus=4,gpus=1
slurm:partition=gpu,timeout_min=600
"""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anytrain.grammar import build
from anytrain.study.executors.local import Local
from anytrain.study.executors.ray import Ray
from anytrain.study.executors.slurm import Slurm

__all__ = ["Executor", "Local", "Ray", "Slurm", "executor"]


@runtime_checkable
class Executor(Protocol):
    """Runs whole commands somewhere. The working directory and the files are shared."""

    def submit(self, argv: Sequence[str], log: Path, rank: float = 0.0) -> "Future[int]":
        """Run one command, its output appended to `log`; its exit status, −N for signal N.

        Of those that wait, the highest rank begins first where the queue is the executor's own.
        """
        ...

    def close(self) -> None:
        """Drop what still waits, SIGTERM what runs, and return when all of it has ended."""
        ...


_KINDS: dict[str, type[Any]] = {"local": Local, "ray": Ray, "slurm": Slurm}


def executor(text: str) -> Executor:
    """The executor that a text names; UserError for an unknown kind, key or a missing package."""
    made: Executor = build(text, _KINDS)
    return made
