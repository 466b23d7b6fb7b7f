"""Checkpoint files streamed into one weighted sum: by blocks, each input read once. No torch.

    x̄ = Σ_j c_j x_j        accumulated in float64, rounded once to the output's type

Memory is a few blocks a thread, whatever the number and the size of the inputs.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anytrain.averaging import sums
from anytrain.averaging.blocks import BLOCK, Room
from anytrain.errors import UserError
from anytrain.layout import SIZES, Entry, Packed

FLOATS = ("F64", "F32", "F16", "BF16")

# What a model computes, or counts, and does not learn: the last input's stays as it is.
BUFFERS = ("inv_freq", "running_mean", "running_var", "num_batches_tracked", "masked_bias")


@dataclass(frozen=True)
class Source:
    """One input: a weighted sum of stored tensors, mostly of one tensor with weight 1."""

    name: str  # as the user wrote it
    terms: Mapping[str, tuple[tuple[float, Entry], ...]]  # tensor -> (coefficient, where it is)

    @classmethod
    def of(cls, name: str, entries: Mapping[str, Entry]) -> "Source":
        """An input that is stored as it is."""
        return cls(name, _Alone(Packed(entries)))

    def entry(self, key: str) -> Entry:
        """Type and shape of a tensor."""
        return self.terms[key][0][1]


class _Alone(Mapping[str, tuple[tuple[float, Entry], ...]]):
    """Each tensor as the only term of its sum."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> tuple[tuple[float, Entry], ...]:
        return ((1.0, self.entries[key]),)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Task(NamedTuple):
    """One tensor of the output: what is added up, and where it goes."""

    key: str
    parts: tuple[tuple[float, Entry], ...]  # (coefficient, where it is)
    target: Entry

    @property
    def copied(self) -> bool:
        """Whether the output has the bytes of the one input."""
        return len(self.parts) == 1 and self.parts[0][0] == 1.0 and (
            self.parts[0][1].dtype == self.target.dtype)  # fmt: skip


def check_alike(sources: Sequence[Source]) -> None:
    """Raise a UserError unless all inputs have the same tensors; it lists the first five that
    differ."""
    first = sources[0]
    for other in sources[1:]:
        wrong = []
        for key in dict.fromkeys([*first.terms, *other.terms]):
            if key not in first.terms or key not in other.terms:
                wrong.append(f"{key} is only in {(first if key in first.terms else other).name}")
                continue
            a, b = first.entry(key), other.entry(key)
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                wrong.append(f"{key} is {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
        if wrong:
            more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
            raise UserError(
                f"{first.name} and {other.name} are not alike: {'; '.join(wrong[:5])}{more}"
            )


def copied(key: str, entry: Entry) -> bool:
    """Whether a tensor is the last input's, not a sum: integers, and what is not learned."""
    return entry.dtype not in FLOATS or key.endswith(BUFFERS)


class Work:
    """What to compute, a task for each target; inputs that weigh nothing are not read."""

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], targets: Mapping[str, Entry]
    ) -> None:
        pairs = zip(sources, map(float, weights), strict=True)
        self.last, self.targets = sources[-1], Packed(targets)
        self.used = [(source, weight) for source, weight in pairs if weight != 0.0]
        assert self.used, "every weight is 0"

    def __iter__(self) -> Iterator[Task]:
        for key, target in self.targets.items():
            alone = copied(key, self.last.entry(key))
            used = [(self.last, 1.0)] if alone else self.used
            parts = tuple((c * own, entry) for s, c in used for own, entry in s.terms[key])
            yield Task(key, parts, target)

    @property
    def bytes(self) -> int:
        """Of input, to be read."""
        return sum(entry.bytes for task in self for _, entry in task.parts)


def run(work: Work, progress: Callable[[int], Any] = lambda _: None) -> None:
    """Compute every task into files that exist in their full length.

    `progress` gets the bytes of input read since the last call. Raises a UserError that names
    file and tensor for NaN, and the tensor for values that the output's type cannot hold.
    """
    workers = min(8, _cpus())
    lock, pieces = threading.Lock(), _pieces(work)
    failed = threading.Event()

    def drain() -> None:
        done = 0
        with np.errstate(all="ignore"), Room() as room:
            while True:
                with lock:
                    progress(done)
                    piece = next(pieces, None)
                if piece is None or failed.is_set():
                    return
                task, start, stop = piece
                try:
                    _block(task, start, stop, room)
                except BaseException:
                    failed.set()
                    raise
                done = sum((stop - start) * SIZES[entry.dtype] for _, entry in task.parts)

    with ThreadPoolExecutor(workers) as pool:
        try:
            for worker in [pool.submit(drain) for _ in range(workers)]:
                worker.result()
        except BaseException:  # Ctrl-C among them
            failed.set()
            raise


def _cpus() -> int:
    """Those that this process may use, where the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pieces(work: Work) -> Iterator[tuple[Task, int, int]]:
    for task in work:
        count = task.target.elements
        for start in range(0, count, BLOCK):
            yield task, start, min(start + BLOCK, count)


# --- one block -------------------------------------------------------------------------------


def _block(task: Task, start: int, stop: int, room: Room) -> None:
    """Elements start … stop of one tensor."""
    if task.copied:
        raw = room.read(task.parts[0][1], start, stop)
        if task.target.dtype in FLOATS and np.isnan(room.widened(raw, task.target.dtype)[0]).any():
            raise _blame(task, start, stop, room)
        room.write(task.target, start, raw)
        return
    total, dtype = _total(task, start, stop, room), task.target.dtype
    largest = sums.largest(total)
    if np.isnan(largest):
        raise _blame(task, start, stop, room)
    out = sums.rounded(total, dtype)
    if largest > sums.LARGEST[dtype] and not sums.fits(out, dtype, total):
        raise UserError(
            f"tensor {task.key!r} holds {largest:.4g}, beyond {dtype}; another --dtype is valid"
        )
    room.write(task.target, start, memoryview(out).cast("B"))


def _total(task: Task, start: int, stop: int, room: Room) -> NDArray[np.float64]:
    total, dtype = room.sum[: stop - start], task.target.dtype
    if dtype == "F64" and len(task.parts) > 1:  # a sum of doubles needs more than doubles
        for low in range(start, stop, sums.SLICE):
            high = min(low + sums.SLICE, stop)
            total[low - start : high - start] = _careful(task, low, high, room)
        return total
    bound = 0.0
    for number, (weight, entry) in enumerate(task.parts):
        values, stored = room.values(entry, start, stop)
        bound += abs(weight) * sums.largest(stored)
        if number == 0:
            np.multiply(values, weight, out=total)  # not added to 0, which would lose a −0
        else:
            values *= weight
            total += values
    again = sums.doubtful(total, len(task.parts), bound, dtype)
    for first in range(0, again.size, sums.SLICE):
        places = again[first : first + sums.SLICE]
        low, high = start + int(places[0]), start + int(places[-1]) + 1
        total[places] = _careful(task, low, high, room, places - places[0])
    return total


def _careful(
    task: Task, start: int, stop: int, room: Room, places: Any = slice(None)
) -> NDArray[np.float64]:
    """The sum at some places among the elements start … stop, their rounding errors kept."""

    def values(number: int) -> NDArray[np.float64]:
        return np.array(room.values(task.parts[number][1], start, stop)[0][places])

    return sums.careful([weight for weight, _ in task.parts], values, task.target.dtype)


def _blame(task: Task, start: int, stop: int, room: Room) -> UserError:
    """Says which file the NaN is in."""
    for _, entry in task.parts:
        wrong = np.flatnonzero(np.isnan(room.values(entry, start, stop)[0]))
        if wrong.size:
            first = start + int(wrong[0])
            file = next(entry.parts(first, first + 1)).file
            return UserError(f"{file}: tensor {task.key!r} holds NaN; finite values are valid")
    return UserError(f"tensor {task.key!r} holds infinities that cancel; finite values are valid")
