"""Token files that others wrote, each a stream of documents of token ids.

    X.idx + X.bin      Megatron-LM: an index of sequences and documents, and their ids
    X.npy              NumPy: one axis of whole numbers
    X.bin              llm.c: 1024 bytes of header, and ids
    X.npy, X.bin       without a header (OLMo, nanoGPT): ids of a type that the user has to say

Where no index says where documents end, they end with the end-of-text token. What is longer than
`LONGEST` comes in parts, so that a file without that token is split and shuffled too.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anytrain.errors import UserError

LONGEST = 2**20  # ids of a part

LLMC = {20240520: "<u2", 20240801: "<u4"}  # magic number -> type, of GPT-2's ids and Llama 3's
_LLMC_HEAD = 256  # numbers of four bytes: magic, version, ids, and nothing

MAGIC = b"MMIDIDX\0\0"
# Megatron's codes of types (megatron/core/datasets/indexed_dataset.py, DType); floats hold no ids
_CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_HEAD = struct.Struct("<9sQBQQ")  # magic, version, code, sequences, entries of the document index


@dataclass(frozen=True, slots=True)
class Ids:
    """Consecutive token ids of one document and where they came from."""

    ids: NDArray[Any]  # (n,)
    origin: str
    whole: bool  # whether the document ends here

    @property
    def data(self) -> bytes:
        """The same bytes for the same ids, whatever type they were stored in."""
        return self.ids.astype("<i8").tobytes()


def stretches(ids: NDArray[Any], eot: int | None, origin: str) -> Iterator[Ids]:
    """Documents of an array that ends each of them with `eot`; parts of it without one."""
    start = 0
    while start < len(ids):
        block = np.asarray(ids[start : start + LONGEST])
        ends = [] if eot is None else (np.flatnonzero(block == eot) + 1).tolist()
        last = start + len(block) == len(ids)
        if not ends or (last and ends[-1] < len(block)):
            ends.append(len(block))  # a document that goes on, or that the file's end ends
        begin = 0
        for end in ends:
            whole = bool(block[end - 1] == eot) or (last and end == len(block))
            name = f"{origin}, tokens {start + begin}-{start + end}"
            yield Ids(block[begin:end], name, whole)
            begin = end
        start += begin


# --- NumPy, and files without a header -------------------------------------------------------


def raw(path: Path, dtype: str) -> NDArray[Any]:
    """Ids of a type, from the first byte to the last."""
    size, kind = path.stat().st_size, np.dtype(dtype).newbyteorder("<")
    if size % kind.itemsize:
        raise UserError(f"{path} was truncated, or holds no {dtype}: {size} bytes")
    return np.memmap(path, kind, "r") if size else np.empty(0, kind)


def headed(path: Path) -> str | None:
    """`npy` or `llmc` where a file begins as those do, whatever its name."""
    with path.open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return "npy"
    return "llmc" if int.from_bytes(head[:4], "little") in LLMC else None


def llmc(path: Path) -> NDArray[Any]:
    """The ids of a shard of llm.c (karpathy/llm.c, dev/data/data_common.py)."""
    head = np.fromfile(path, "<i4", _LLMC_HEAD)
    size = path.stat().st_size
    if len(head) < _LLMC_HEAD:
        raise UserError(f"{path} is truncated: it has {size} bytes of {4 * _LLMC_HEAD}, its head")
    magic, version, count = head[:3].tolist()
    if version != 1:
        raise UserError(f"{path}: version {version} of llm.c's tokens; 1 is valid")
    kind = np.dtype(LLMC[magic])
    if size != 4 * _LLMC_HEAD + count * kind.itemsize:
        raise UserError(
            f"{path} is truncated or damaged: {size} bytes with {count} ids in its head"
        )
    return np.memmap(path, kind, "r", 4 * _LLMC_HEAD) if count else np.empty(0, kind)


def numpy(path: Path) -> NDArray[Any]:
    """The one axis of whole numbers of a NumPy file."""
    try:
        found: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # its head is read as Python's literals, whose reader raises many
        raise UserError(f"{path} is no NumPy file, or truncated: {error}") from error
    if found.ndim != 1 or found.dtype.kind not in "ui":
        raise UserError(
            f"{path} holds {found.dtype} of shape {found.shape}; one axis of whole numbers is valid"
        )
    return found


# --- Megatron --------------------------------------------------------------------------------


class _Index(NamedTuple):
    """What an `.idx` says."""

    dtype: np.dtype[Any]
    lengths: NDArray[np.int32]  # ids of each sequence
    places: NDArray[np.int64]  # bytes at which it begins
    documents: NDArray[np.int64]  # document i is sequences documents[i] : documents[i + 1]


@dataclass(frozen=True)
class Megatron:
    """An `.idx` and the `.bin` beside it."""

    path: Path  # of the index

    @property
    def bin(self) -> Path:
        return self.path.with_suffix(".bin")

    @cached_property
    def index(self) -> _Index:
        """The index, seen to agree with itself and with the length of the ids' file."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            head = file.read(_HEAD.size)
            if not head.startswith(MAGIC):
                raise UserError(f"{self.path} is no index of Megatron: it begins {head[:9]!r}")
            if len(head) < _HEAD.size:
                raise UserError(f"{self.path} is truncated: it has {size} bytes")
            _, version, code, sequences, documents = _HEAD.unpack(head)
            if version != 1:
                raise UserError(f"{self.path}: version {version} of Megatron's index; 1 is valid")
            if code not in _CODES:
                raise UserError(
                    f"{self.path}: type {code} of Megatron's; {', '.join(map(str, _CODES))} are "
                    "valid, which are whole numbers"
                )
            least = _HEAD.size + 12 * sequences + 8 * documents  # and modes, where there are images
            if size < least:
                raise UserError(f"{self.path} is truncated: it has {size} bytes of {least}")
            lengths = np.fromfile(file, "<i4", sequences)
            places = np.fromfile(file, "<i8", sequences)
            found = _Index(
                np.dtype(_CODES[code]), lengths, places, np.fromfile(file, "<i8", documents)
            )
        self._check(found)
        return found

    def _check(self, index: _Index) -> None:
        ends = index.documents
        orderly = len(ends) and ends[0] == 0 and ends[-1] == len(index.lengths)
        if not orderly or (np.diff(ends) < 0).any():
            raise UserError(f"{self.path} is damaged: its documents are not its sequences in order")
        if not self.bin.is_file():
            raise UserError(f"{self.bin} is missing; {self.path} is its index")
        if not len(index.lengths):
            return
        size = self.bin.stat().st_size
        last = index.places + index.lengths.astype(np.int64) * index.dtype.itemsize
        if index.lengths.min() < 0 or index.places.min() < 0:
            raise UserError(f"{self.path} is damaged: a sequence of a length or place below 0")
        if int(last.max()) > size:
            raise UserError(f"{self.bin} is truncated: it has {size} bytes of {int(last.max())}")

    def documents(self, origin: str) -> Iterator[Ids]:
        """Every document, its sequences put together."""
        index = self.index
        data = np.memmap(self.bin, "u1", "r") if self.bin.stat().st_size else np.empty(0, "u1")
        for number, (first, stop) in enumerate(
            zip(index.documents[:-1].tolist(), index.documents[1:].tolist(), strict=True)
        ):
            pieces = [self._sequence(data, sequence) for sequence in range(first, stop)]
            ids = np.concatenate(pieces) if pieces else np.empty(0, index.dtype)
            name = f"{origin}, document {number}"
            starts = range(0, max(1, len(ids)), LONGEST)
            for start in starts:
                yield Ids(ids[start : start + LONGEST], name, start == starts[-1])

    def _sequence(self, data: NDArray[Any], number: int) -> NDArray[Any]:
        index = self.index
        begin = int(index.places[number])
        size = int(index.lengths[number]) * index.dtype.itemsize
        return np.frombuffer(data[begin : begin + size].tobytes(), index.dtype)


# --- by kind ---------------------------------------------------------------------------------

TYPES = ("uint16", "uint32", "int32", "int64")  # of files that do not say theirs


def check(path: Path, kind: str) -> None:
    """A UserError where a file's head or length is wrong, before any work is done."""
    if kind == "megatron":
        _ = Megatron(path).index
    else:
        _array(path, kind)


def read(path: Path, origin: str, kind: str, eot: int | None) -> Iterator[Ids]:
    """The documents of one file: `megatron`, `npy`, `llmc`, or one of `TYPES`."""
    if kind == "megatron":
        return Megatron(path).documents(origin)
    return stretches(_array(path, kind), eot, origin)


def _array(path: Path, kind: str) -> NDArray[Any]:
    if kind == "npy":
        return numpy(path)
    return llmc(path) if kind == "llmc" else raw(path, kind)
