"""Checkpoint files streamed into one weighted sum: by blocks, each input read once. No torch.

    x̄ = Σ_j c_j x_j        accumulated in float64, rounded once to the output's type

Memory is a few blocks a thread, whatever the number and the size of the inputs.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anytrain.averaging import sums
from anytrain.errors import UserError
from anytrain.layout import SIZES, Entry

BLOCK = 1 << 17  # elements: the block, its sum and one input's share stay in the nearest caches

FLOATS = ("F64", "F32", "F16", "BF16")

# What a model computes, or counts, and does not learn: the last input's stays as it is.
BUFFERS = ("inv_freq", "running_mean", "running_var", "num_batches_tracked", "masked_bias")

_IOVECS = min(os.sysconf("SC_IOV_MAX"), 1024)  # stretches of memory that one call fills
_OPEN = 48  # files that a thread keeps open


@dataclass(frozen=True)
class Source:
    """One input: a weighted sum of stored tensors, mostly of one tensor with weight 1."""

    name: str  # as the user wrote it
    terms: Mapping[str, tuple[tuple[float, Entry], ...]]  # tensor -> (coefficient, where it is)

    @classmethod
    def of(cls, name: str, entries: Mapping[str, Entry]) -> "Source":
        """An input that is stored as it is."""
        return cls(name, {key: ((1.0, entry),) for key, entry in entries.items()})

    def entry(self, key: str) -> Entry:
        """Type and shape of a tensor."""
        return self.terms[key][0][1]


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


def tasks(
    sources: Sequence[Source], weights: Sequence[float], targets: Mapping[str, Entry]
) -> list[Task]:
    """What to compute; inputs that weigh nothing are not read."""
    found = []
    for key, target in targets.items():
        if copied(key, sources[-1].entry(key)):
            used = [(sources[-1], 1.0)]
        else:
            used = [(s, float(c)) for s, c in zip(sources, weights, strict=True) if c != 0.0]
        parts = tuple((c * own, entry) for s, c in used for own, entry in s.terms[key])
        found.append(Task(key, parts, target))
    return found


def bytes_read(work: Sequence[Task]) -> int:
    """Bytes of input that `run` will read."""
    return sum(entry.bytes for task in work for _, entry in task.parts)


def run(work: Sequence[Task], progress: Callable[[int], Any] = lambda _: None) -> None:
    """Compute every task into files that exist in their full length.

    `progress` gets the bytes of input read since the last call. Raises a UserError that names
    file and tensor for NaN, and the tensor for values that the output's type cannot hold.
    """
    workers = min(8, len(os.sched_getaffinity(0)))
    lock, pieces = threading.Lock(), _pieces(work)
    failed = threading.Event()

    def drain() -> None:
        done = 0
        with np.errstate(all="ignore"), _Room() as room:
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


def _pieces(work: Sequence[Task]) -> Iterator[tuple[Task, int, int]]:
    for task in work:
        count = task.target.elements
        for start in range(0, count, BLOCK):
            yield task, start, min(start + BLOCK, count)


class _Room:
    """The memory and the open files of one thread."""

    def __init__(self) -> None:
        self.raw = bytearray(8 * BLOCK)
        self.sum = np.empty(BLOCK, dtype=np.float64)
        self.term = np.empty(BLOCK, dtype=np.float64)
        self.half: NDArray[np.uint32] = np.empty(BLOCK, dtype=np.uint32)
        self.open: dict[tuple[Path, int], int] = {}

    def __enter__(self) -> "_Room":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)

    def file(self, path: Path, flags: int) -> int:
        """A descriptor; the one that was opened first makes way."""
        if (path, flags) not in self.open:
            if len(self.open) >= _OPEN:
                os.close(self.open.pop(next(iter(self.open))))
            self.open[path, flags] = os.open(path, flags)
        return self.open[path, flags]


# --- one block -------------------------------------------------------------------------------


def _block(task: Task, start: int, stop: int, room: _Room) -> None:
    """Elements start … stop of one tensor."""
    if task.copied:
        raw = _read(task.parts[0][1], start, stop, room)
        if task.target.dtype in FLOATS:
            values, _ = sums.widened(raw, task.target.dtype, room.term, room.half)
            if np.isnan(values).any():
                raise _blame(task, start, stop, room)
        _write(task.target, start, raw, room)
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
    _write(task.target, start, memoryview(out).cast("B"), room)


def _total(task: Task, start: int, stop: int, room: _Room) -> NDArray[np.float64]:
    total, dtype = room.sum[: stop - start], task.target.dtype
    if dtype == "F64" and len(task.parts) > 1:  # a sum of doubles needs more than doubles
        for low in range(start, stop, sums.SLICE):
            high = min(low + sums.SLICE, stop)
            total[low - start : high - start] = _careful(task, low, high, room)
        return total
    bound = 0.0
    for number, (weight, entry) in enumerate(task.parts):
        raw = _read(entry, start, stop, room)
        values, stored = sums.widened(raw, entry.dtype, room.term, room.half)
        bound += abs(weight) * sums.largest(stored)
        if number == 0:
            np.multiply(values, weight, out=total)  # not added to 0, which would lose a −0
        else:
            values *= weight
            total += values
    again = sums.doubtful(total, len(task.parts), bound, dtype)
    for places in np.split(again, range(sums.SLICE, again.size, sums.SLICE)):
        if places.size:
            low, high = start + int(places[0]), start + int(places[-1]) + 1
            total[places] = _careful(task, low, high, room, places - places[0])
    return total


def _careful(
    task: Task, start: int, stop: int, room: _Room, places: Any = slice(None)
) -> NDArray[np.float64]:
    """The sum at some places among the elements start … stop, their rounding errors kept."""

    def values(number: int) -> NDArray[np.float64]:
        entry = task.parts[number][1]
        raw = _read(entry, start, stop, room)
        found, _ = sums.widened(raw, entry.dtype, room.term, room.half)
        return np.array(found[places])

    return sums.careful([weight for weight, _ in task.parts], values, task.target.dtype)


def _blame(task: Task, start: int, stop: int, room: _Room) -> UserError:
    """Says which file the NaN is in."""
    for _, entry in task.parts:
        raw = _read(entry, start, stop, room)
        values, _ = sums.widened(raw, entry.dtype, room.term, room.half)
        wrong = np.flatnonzero(np.isnan(values))
        if wrong.size:
            first = start + int(wrong[0])
            file = next(entry.parts(first, first + 1)).file
            return UserError(f"{file}: tensor {task.key!r} holds NaN; finite values are valid")
    return UserError(f"tensor {task.key!r} holds infinities that cancel; finite values are valid")


# --- bytes -----------------------------------------------------------------------------------


def _read(entry: Entry, start: int, stop: int, room: _Room) -> memoryview:
    size = SIZES[entry.dtype]
    raw = memoryview(room.raw)[: (stop - start) * size]
    for file, offset, runs in entry.parts(start, stop):
        into = [raw[(low - start) * size : (high - start) * size] for low, high in runs]
        try:
            _transfer(os.preadv, room.file(file, os.O_RDONLY), into, offset)
        except EOFError as error:
            raise UserError(f"{file} was truncated while it was read") from error
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from error
    return raw


def _write(entry: Entry, start: int, raw: memoryview, room: _Room) -> None:
    size = SIZES[entry.dtype]
    for file, offset, runs in entry.parts(start, start + len(raw) // size):
        out = [raw[(low - start) * size : (high - start) * size] for low, high in runs]
        _transfer(os.pwritev, room.file(file, os.O_WRONLY), out, offset)


def _transfer(
    call: Callable[[int, list[memoryview], int], int],
    descriptor: int,
    pieces: list[memoryview],
    offset: int,
) -> None:
    """All of some memory to or from contiguous bytes of a file."""
    first = 0
    while first < len(pieces):
        count = call(descriptor, pieces[first : first + _IOVECS], offset)
        if count == 0:
            raise EOFError
        offset += count
        while first < len(pieces) and count >= len(pieces[first]):
            count -= len(pieces[first])
            first += 1
        if count:
            pieces[first] = pieces[first][count:]
