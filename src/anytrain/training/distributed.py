"""Several processes that train one run: who they are and what they agree on.

PyTorch's own launcher starts them and its collectives connect them; a process alone is a world of
one, in which nothing here communicates. Whatever depends on a clock, a signal or a disk is decided
by one of them and told to the others, so that all take the same branch.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from anytrain.errors import UserError

TIMEOUT = 1800.0  # seconds that a process waits for the others before it gives up
T = TypeVar("T")


class Elsewhere(Exception):
    """What ended another process, which says so itself; `code` is this one's exit code."""

    def __init__(self, code: int = 2) -> None:
        super().__init__("another process of this run failed")
        self.code = code


@dataclass
class World:
    """The processes of one run as one of them sees them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None  # the group of messages between CPUs
    writers: Any = None  # the same, for the threads that write checkpoints
    store: Any = None  # small values that outlast connections, where a launcher keeps them
    _beat: float = 0.0  # the time of the first process at the last beat

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def mesh(self, shard: int | None) -> DeviceMesh | None:
        """Over all processes; with `shard`, groups of so many, each with all of the state.

        None for one process. A UserError where groups of that size do not divide the processes.
        """
        if self.size == 1:
            return None
        kind = self.device.type
        if shard is None or shard == self.size:
            return init_device_mesh(kind, (self.size,), mesh_dim_names=("shard",))
        if self.size % shard:
            raise UserError(f"parallel.shard = {shard} does not divide {self.size} processes")
        dims = (self.size // shard, shard)
        return init_device_mesh(kind, dims, mesh_dim_names=("replicate", "shard"))

    def part(self, batch: Tensor) -> Tensor:
        """This process's sequences of a batch (B, …), the same number for all."""
        share = len(batch) // self.size
        return batch[self.rank * share : (self.rank + 1) * share]

    def beside(self) -> "World":
        """The same for a thread that writes while another one trains."""
        return replace(self, control=self.writers)

    def now(self) -> float:
        """Seconds by a clock that all processes read the same; it moves at `beat` alone."""
        return time.monotonic() if self.size == 1 else self._beat

    def beat(self, signal: int = 0, done: bool = False) -> tuple[int, bool]:
        """Move the common clock; a signal to any process, or 0, and the first's `done`."""
        if self.size == 1:
            return signal, done
        mine = (time.monotonic(), float(done)) if self.first else (0.0, 0.0)
        told = torch.tensor([*mine, float(signal)], dtype=torch.float64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.control)
        self._beat = float(told[0])
        return int(told[2]), bool(told[1])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes of a tensor on the device."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.SUM)
            value /= self.size
        return value

    def gathered(self, value: Tensor) -> Tensor:
        """Rows (n,) of all processes in the order of their ranks, (size · n,), on the CPU."""
        value = value.cpu()
        if self.size == 1:
            return value
        rows = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(rows, value, group=self.control)
        return torch.cat(rows)

    def told(self, value: T) -> T:
        """The first process's value, plain data, in all of them."""
        return self._from(0, value) if self.size > 1 else value

    def _from(self, rank: int, value: T) -> T:
        mine = rank == self.rank
        text = json.dumps(value).encode() if mine else b""
        length = torch.tensor([len(text)])
        dist.broadcast(length, rank, group=self.control)
        data = torch.empty(int(length), dtype=torch.uint8)
        if mine:
            data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(data, rank, group=self.control)
        found: T = json.loads(data.numpy().tobytes())
        return found

    def once(self, work: Callable[[], T]) -> T:
        """Done by the first process while the others wait; its plain result in all of them.

        Its error is `Elsewhere` in the others.
        """
        if self.size == 1:
            return work()
        found: Any = None
        error: Exception | None = None
        if self.first:
            try:
                found = work()
            except Exception as caught:
                error = caught
        self.agreed(error)
        return self.told(found)

    def collected(self, value: T) -> list[T]:
        """Every process's value, plain data, in all of them."""
        return [self._from(rank, value) for rank in range(self.size)]

    def ended(self, how: tuple[str, str]) -> tuple[int, str, str]:
        """Which process was the first to end early, and how: this one, where none was before it."""
        mine = [self.rank, *how]
        try:
            found = json.loads(self.store.compare_set("ended", "", json.dumps(mine)))
        except RuntimeError:  # it was kept by a process that is gone
            found = mine
        return int(found[0]), str(found[1]), str(found[2])

    def agreed(self, error: BaseException | None) -> None:
        """Raise where any process had an error: its own there, `Elsewhere` in the others."""
        if self.size > 1:
            wrong = torch.tensor([error is not None], dtype=torch.int64)
            dist.all_reduce(wrong, dist.ReduceOp.MAX, group=self.control)
            if error is None and wrong.item():
                raise Elsewhere
        if error is not None:
            raise error


def started() -> int:
    """How many processes the launcher has started for this run, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[World]:
    """The world this process was started into; alone where no launcher started it."""
    size = started()
    if size == 1:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        yield World(device=device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    seconds = float(os.environ.get("ANYTRAIN_TIMEOUT", TIMEOUT))
    patience = timedelta(seconds=seconds)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, *_ = next(iter(rendezvous("env://", rank, size, timeout=patience)))
        dist.init_process_group(backend, None, patience, size, rank, PrefixStore("all", store))
        control, writers = (dist.new_group(backend="gloo", timeout=patience) for _ in range(2))
    except RuntimeError as error:
        raise UserError(f"not all of {size} processes came within {seconds:g} s") from error
    try:
        yield World(rank, size, device, control, writers, store)
    finally:
        dist.destroy_process_group()
