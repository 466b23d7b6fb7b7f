"""Blocks of tensors to and from their files: the memory and the open files of one thread."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anytrain.averaging import sums
from anytrain.errors import UserError
from anytrain.layout import SIZES, Entry

BLOCK = 1 << 17  # elements: the block, its sum and one input's share stay in the nearest caches

_IOVECS = min(os.sysconf("SC_IOV_MAX"), 1024)  # stretches of memory that one call fills
_OPEN = 48  # files that a thread keeps open


class Room:
    """What one thread needs to add up blocks, whatever the number and the size of the inputs."""

    def __init__(self) -> None:
        self.sum = np.empty(BLOCK, dtype=np.float64)
        self._raw = bytearray(8 * BLOCK)
        self._wide = np.empty(BLOCK, dtype=np.float64)
        self._half: NDArray[np.uint32] = np.empty(BLOCK, dtype=np.uint32)
        self._open: dict[tuple[Path, int], int] = {}

    def __enter__(self) -> "Room":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, entry: Entry, start: int, stop: int) -> memoryview:
        """The bytes of elements start … stop, until the next read."""
        size = SIZES[entry.dtype]
        raw = memoryview(self._raw)[: (stop - start) * size]
        for file, offset, runs in entry.parts(start, stop):
            into = [raw[(low - start) * size : (high - start) * size] for low, high in runs]
            try:
                _transfer(os.preadv, self._file(file, os.O_RDONLY), into, offset)
            except EOFError as error:
                raise UserError(f"{file} was truncated while it was read") from error
            except OSError as error:
                raise UserError(f"{file}: {error.strerror}") from error
        return raw

    def values(self, entry: Entry, start: int, stop: int) -> tuple[NDArray[np.float64], Any]:
        """The same elements in float64, and in the type that is quickest to look through."""
        return self.widened(self.read(entry, start, stop), entry.dtype)

    def widened(self, raw: memoryview, dtype: str) -> tuple[NDArray[np.float64], Any]:
        """See `sums.widened`; until the next call."""
        return sums.widened(raw, dtype, self._wide, self._half)

    def write(self, entry: Entry, start: int, raw: memoryview) -> None:
        """The bytes of the elements from `start` on."""
        size = SIZES[entry.dtype]
        for file, offset, runs in entry.parts(start, start + len(raw) // size):
            out = [raw[(low - start) * size : (high - start) * size] for low, high in runs]
            _transfer(os.pwritev, self._file(file, os.O_WRONLY), out, offset)

    def _file(self, path: Path, flags: int) -> int:
        """A descriptor; the one that was opened first makes way."""
        if (path, flags) not in self._open:
            if len(self._open) >= _OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[path, flags] = os.open(path, flags)
        return self._open[path, flags]


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
