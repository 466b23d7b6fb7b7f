"""Where the bytes of named tensors are in their files. No torch.

A tensor is one box or several, each a contiguous part of one file, so that a whole file, a
sharded directory and the shards of several ranks are read and written in the same way.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from anytrain.errors import UserError

SIZES = {  # bytes of an element, by safetensors' names
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class Box(NamedTuple):
    """A rectangular part of a tensor, stored in one file row by row without gaps."""

    file: Path
    offset: int  # bytes, of its first element in the file
    at: tuple[int, ...]  # of its first element in the tensor
    shape: tuple[int, ...]


class Part(NamedTuple):
    """Contiguous bytes of one file that hold some runs of a tensor's elements, one after another.

    Elements are counted in the flattened tensor.
    """

    file: Path
    offset: int  # bytes
    runs: list[tuple[int, int]]  # [first, after the last) element of each


@dataclass(frozen=True)
class Entry:
    """One tensor: what it is, and the boxes that fill it."""

    dtype: str  # F32, BF16, …
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * SIZES[self.dtype]

    @property
    def files(self) -> set[Path]:
        return {box.file for box in self.boxes}

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Where elements start … stop of the flattened tensor are."""
        size = SIZES[self.dtype]
        for rows in self._rows:
            if start >= stop or rows.first >= stop or rows.end <= start:
                continue
            number = bisect_right(range(rows.count), start, key=lambda i: rows[i] + rows.length)
            runs: list[tuple[int, int]] = []
            offset = 0
            while number < rows.count and (begin := rows[number]) < stop:
                low = max(begin, start)
                if not runs:
                    offset = rows.box.offset + (number * rows.length + low - begin) * size
                runs.append((low, min(begin + rows.length, stop)))
                number += 1
            if runs:
                yield Part(rows.box.file, offset, runs)

    @cached_property
    def _rows(self) -> "list[_Rows]":
        return [_Rows(box, self.shape) for box in self.boxes if prod(box.shape) > 0]


class _Rows:
    """A box as `count` runs of `length` elements, consecutive in the box and in the tensor.

    Item i is the element of the flattened tensor at which run i begins.
    """

    def __init__(self, box: Box, whole: Sequence[int]) -> None:
        split = len(whole)  # dimensions from here on are the tensor's own
        while split > 0 and box.shape[split - 1] == whole[split - 1]:
            split -= 1
        outer = max(split - 1, 0)  # and the one before is one stretch of it
        strides = [prod(whole[d + 1 :]) for d in range(len(whole))]
        self.box = box
        self.length = prod(box.shape[outer:])
        self.first = sum(a * s for a, s in zip(box.at, strides, strict=True))
        self.steps = list(zip(box.shape[:outer], strides[:outer], strict=True))[::-1]
        self.count = prod(box.shape[:outer])
        self.end = self[self.count - 1] + self.length

    def __getitem__(self, number: int) -> int:
        element = self.first
        for extent, stride in self.steps:
            number, index = divmod(number, extent)
            element += index * stride
        return element


def assembled(name: str, dtype: str, shape: tuple[int, ...], boxes: Sequence[Box]) -> Entry:
    """A tensor of boxes; UserError unless they fill it and none overlaps another."""
    boxes = sorted((b for b in boxes if prod(b.shape) > 0), key=lambda box: (box.at, box.file))
    filled = sum(prod(box.shape) for box in boxes) == prod(shape) and all(
        a >= 0 and a + n <= m for box in boxes for a, n, m in zip(*box[2:], shape, strict=True)
    )
    near: list[Box] = []  # those that reach beyond this box's first row; few where rows are split
    for box in boxes if shape else ():
        near = [other for other in near if other.at[0] + other.shape[0] > box.at[0]]
        filled = filled and not any(_overlap(box, other) for other in near)
        near.append(box)
    if not filled:
        where = f"{boxes[0].file}: " if boxes else ""
        raise UserError(f"{where}the shards of {name!r} do not fill its {list(shape)}")
    return Entry(dtype, shape, tuple(boxes))


def _overlap(a: Box, b: Box) -> bool:
    return all(
        p < q + m and q < p + n for p, n, q, m in zip(a.at, a.shape, b.at, b.shape, strict=True)
    )


# --- many tensors ----------------------------------------------------------------------------


def select(entries: Mapping[str, Entry], prefix: str) -> dict[str, Entry]:
    """The tensors under a prefix, by their names in the model."""
    return {k.removeprefix(prefix): entry for k, entry in entries.items() if k.startswith(prefix)}


class Packed(Mapping[str, Entry]):
    """Tensors by name, in a few bytes each: names, types and shapes are kept once for all inputs
    that have the same, and what is read when it is asked for is made then."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._names = _once(tuple(map(sys.intern, entries)))
        self._places = _places(self._names)
        self._kinds = _once(tuple((entry.dtype, entry.shape) for entry in entries.values()))
        self._files: list[Path] = []
        numbers: dict[Path, int] = {}
        self._file, self._offset = array("I"), array("Q")
        self._pieces: dict[str, Entry] = {}  # of several boxes
        for name, entry in entries.items():
            if len(entry.boxes) != 1:
                self._pieces[name] = entry
            box = entry.boxes[0] if entry.boxes else Box(Path(), 0, (), ())
            if box.file not in numbers:
                numbers[box.file] = len(numbers)
                self._files.append(box.file)
            self._file.append(numbers[box.file])
            self._offset.append(box.offset)

    def __getitem__(self, name: str) -> Entry:
        if name in self._pieces:
            return self._pieces[name]
        place = self._places[name]
        dtype, shape = self._kinds[place]
        file = self._files[self._file[place]]
        return Entry(dtype, shape, (Box(file, self._offset[place], (0,) * len(shape), shape),))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@lru_cache(maxsize=32)
def _once(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first of equal tuples."""
    return value


@lru_cache(maxsize=32)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}
