"""Token shards being written: one split of one segment, extended by whole chunks.

Shards follow one another as one array of tokens, each of `shard_tokens` but the last; a document
may cross from one to the next. So two numbers, tokens and documents, say the length that every
file should have, and `rewind` cuts the files back to it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from anytrain.errors import UserError
from anytrain.files import sync

Tokens = NDArray[np.unsignedinteger]


class SplitWriter:
    """Appends documents to `folder/SPLIT-00000.bin …` and their ends to `folder/SPLIT.index`."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int) -> None:
        self.folder, self.split = folder, split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shard_tokens = shard_tokens
        self.tokens = 0
        self.documents = 0

    @property
    def index(self) -> Path:
        return self.folder / f"{self.split}.index"

    def shard(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05d}.bin"

    def shards(self) -> list[Path]:
        """The shards that hold the tokens so far, in order."""
        return [self.shard(n) for n in range(-(-self.tokens // self.shard_tokens))]

    def rewind(self, tokens: int, documents: int) -> None:
        """Make the files hold exactly this much, and go on from there."""
        self.tokens, self.documents = tokens, documents
        keep = self.shards()
        for path in self.folder.glob(f"{self.split}-*.bin"):
            if path not in keep:
                path.unlink()
        for number, path in enumerate(keep):
            length = min(self.shard_tokens, tokens - number * self.shard_tokens)
            _cut(path, length * self.dtype.itemsize)
        self.index.touch()
        _cut(self.index, 8 * documents)
        # the last end is the length, also where the tail of a document became validation
        _add(self.index, np.array([tokens], dtype="<u8").tobytes())

    def append(self, documents: Sequence[Tokens]) -> None:
        """Add documents, and have them on the disk before returning."""
        if not documents:
            return
        ends = self.tokens + np.cumsum([len(document) for document in documents])
        rest = np.concatenate(documents).astype(self.dtype)
        while rest.size:
            number, used = divmod(self.tokens, self.shard_tokens)
            piece, rest = np.split(rest, [self.shard_tokens - used])
            _add(self.shard(number), piece.tobytes())
            self.tokens += len(piece)
        _add(self.index, ends.astype("<u8").tobytes())
        self.documents += len(documents)
        sync(self.folder)

    def tail(self, count: int) -> tuple[list[Tokens], int]:
        """The last `count` tokens by document, and how many documents hold the tokens before.

        The document in which the tail begins is cut in two and counts on both sides.
        """
        start = self.tokens - count
        pieces = []
        for number in range(start // self.shard_tokens, len(self.shards())):
            first = max(0, start - number * self.shard_tokens)
            pieces.append(np.fromfile(self.shard(number), self.dtype)[first:])
        index = np.fromfile(self.index, "<u8").astype(np.int64)
        before = int(np.searchsorted(index, start))  # index[before] is the first end at or after
        inside = index[(index > start) & (index < self.tokens)] - start
        return np.split(np.concatenate(pieces), inside), before


def _cut(path: Path, length: int) -> None:
    """Shorten a file to `length` bytes; what the journal lists was on the disk, or is lost."""
    there = path.stat().st_size if path.exists() else 0
    if there < length:
        raise UserError(f"{path} has {there} bytes of {length}: it was altered; prepare it again")
    os.truncate(path, length)


def _add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        _write(file, data)
        file.flush()
        os.fsync(file.fileno())


def _write(file: IO[bytes], data: bytes) -> None:
    """The one place where token bytes meet the disk, which may be full."""
    file.write(data)
