"""MosaicML's MDS: a folder with `index.json` and shards, each sample a row of encoded columns.

A shard is the number of samples, then where each begins and the last ends (uint32 all), a copy of
its columns as JSON, and the samples. A sample is the length (uint32) of each column that has no
fixed one, then the columns' bytes (mosaicml/streaming, base/format/mds). Shards may be compressed
as a whole. Read here once, in order: a corpus made of them is shuffled and resumed as any other.
"""

import gzip
import zlib
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anytrain.data.ids import LONGEST, TYPES, Ids
from anytrain.errors import UserError
from anytrain.files import inside, read_json
from anytrain.schema import COUNT, NAME, TEXT

INDEX = "index.json"
_PIECE = 2**22  # bytes
_FILE = {"basename": NAME, "bytes": COUNT}
_SHARD = {
    "format": TEXT, "column_names": [TEXT], "column_encodings": [TEXT], "samples": COUNT,
    "compression?": TEXT, "raw_data": _FILE, "zip_data?": _FILE,
}  # fmt: skip
_FORM = {"shards": [_SHARD]}

# Of an array whose type each sample says, by NumPy's names; and of its lengths.
_VALUES = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8"}
_NAMES = {"uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4",
          "int32": "<i4", "uint64": "<u8", "int64": "<i8"}  # fmt: skip
# Columns of one length, in bytes.
_FIXED = {"int": 8, "float16": 2, "float32": 4, "float64": 8} | {
    name: np.dtype(code).itemsize for name, code in _NAMES.items()
}


class Shard(NamedTuple):
    """One shard as the index describes it."""

    path: Path
    columns: dict[str, str]  # name -> encoding
    samples: int
    bytes: int  # uncompressed
    compression: str | None

    def column(self, name: str) -> str:
        """The encoding of a column; UserError where there is none of that name."""
        if name not in self.columns:
            raise UserError(
                f"{self.path} has no column {name!r}; columns there: {', '.join(self.columns)} "
                "(choose one with --text-field)"
            )
        return self.columns[name]


def is_index(path: Path) -> bool:
    """Whether a folder is a data set in this format."""
    file = path / INDEX
    return file.is_file() and b'"shards"' in file.read_bytes()[:4096]


def shards(folder: Path) -> tuple[Shard, ...]:
    """The shards of a folder in order, each there and of the length that the index says."""
    return _shards(folder, (folder / INDEX).stat().st_mtime_ns)


@lru_cache(maxsize=1)  # a folder of thousands of shards is asked for each of them
def _shards(folder: Path, written: int) -> tuple[Shard, ...]:
    found = []
    for row in read_json(folder / INDEX, _FORM)["shards"]:
        if row["format"] != "mds":
            raise UserError(f"{folder / INDEX}: shards of format {row['format']!r}; mds is valid")
        packed = row.get("compression")
        kind = packed.partition(":")[0] if packed else None
        if kind not in (None, "zstd", "gz"):
            raise UserError(f"{folder / INDEX}: compression {packed!r}; zstd, gz or none is valid")
        stored = row["zip_data"] if kind and row.get("zip_data") else row["raw_data"]
        if kind and not (folder / stored["basename"]).exists():  # kept uncompressed after a first
            stored, kind = row["raw_data"], None  # reading by the package itself
        path = inside(folder, stored["basename"])
        if not path.is_file():
            raise UserError(f"{path} is missing; {folder / INDEX} lists it")
        if path.stat().st_size != stored["bytes"]:
            size = path.stat().st_size
            raise UserError(f"{path} is truncated: it has {size} bytes of {stored['bytes']}")
        names, encodings = row["column_names"], row["column_encodings"]
        if len(set(names)) != len(encodings):
            raise UserError(f"{folder / INDEX} is damaged: {len(names)} columns, "
                            f"{len(encodings)} encodings")  # fmt: skip
        columns = dict(zip(names, encodings, strict=False))
        found.append(Shard(path, columns, row["samples"], row["raw_data"]["bytes"], kind))
    return tuple(found)


def shard_of(path: Path) -> Shard:
    """The shard that a file is."""
    return next(shard for shard in shards(path.parent) if shard.path == path)


# --- samples ---------------------------------------------------------------------------------


def values(shard: Shard, name: str) -> Iterator[bytes]:
    """The bytes of one column, sample after sample. A UserError names the shard and the sample."""
    shard.column(name)
    data = _data(shard)
    try:
        head = np.frombuffer(data, "<u4", shard.samples + 2)
        if head[0] != shard.samples:
            raise ValueError(f"it has {head[0]} samples, {INDEX} says {shard.samples}")
        ends = head[1:].tolist()
    except ValueError as error:
        raise UserError(f"{shard.path} is damaged: {error}") from error
    for number in range(shard.samples):
        try:
            yield _column(shard, data[ends[number] : ends[number + 1]], name)
        except ValueError as error:
            raise UserError(f"{shard.path} is damaged at sample {number}: {error}") from error


def _column(shard: Shard, sample: bytes, wanted: str) -> bytes:
    sizes, at = [], 0
    for encoding in shard.columns.values():
        size = _size(encoding)
        if size is None:
            size, at = int.from_bytes(sample[at : at + 4], "little"), at + 4
        sizes.append(size)
    if at + sum(sizes) != len(sample):
        raise ValueError(f"its columns have {at + sum(sizes)} bytes of {len(sample)}")
    for name, size in zip(shard.columns, sizes, strict=True):
        if name == wanted:
            return sample[at : at + size]
        at += size
    raise AssertionError("the column was looked up before")


def _size(encoding: str) -> int | None:
    """Bytes of a column that all samples have alike."""
    kind, _, rest = encoding.partition(":")
    if kind != "ndarray":
        return _FIXED.get(kind)
    dtype, _, shape = rest.partition(":")
    if not shape or dtype not in _FIXED:
        return None
    return _FIXED[dtype] * prod(int(n) for n in shape.split(","))


def _data(shard: Shard) -> bytes:
    """A shard uncompressed: it is in memory as a whole, as its writer's `size_limit` means it.

    No more is taken from a compressed one than the index says: a few bytes can hold gigabytes.
    """
    pieces, size = [], 0
    try:
        with _opened(shard) as file:
            while size <= shard.bytes and (piece := file.read(_PIECE)):
                pieces.append(piece)
                size += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shard.path} is damaged: {error}") from error
    if size != shard.bytes:
        raise UserError(f"{shard.path} holds another number of bytes than {INDEX} says: "
                        f"{shard.bytes}")  # fmt: skip
    return b"".join(pieces)


def _opened(shard: Shard) -> Any:
    """A shard as a file of uncompressed bytes."""
    if shard.compression == "zstd":
        import pyarrow as pa

        return pa.input_stream(str(shard.path), compression="zstd")
    return gzip.open(shard.path) if shard.compression == "gz" else shard.path.open("rb")


# --- ids -------------------------------------------------------------------------------------


def ids(shard: Shard, name: str, stored: str | None, origin: str) -> Iterator[Ids]:
    """A document a sample, from a column of arrays, or of bytes that are ids of a type `stored`.

    Samples of packed text are parts of one long document; nothing tells them from documents.
    """
    encoding = shard.column(name)
    kind, _, rest = encoding.partition(":")
    if kind == "bytes" and stored is None:
        raise UserError(
            f"{shard.path}: column {name!r} holds bytes; --ids {', '.join(TYPES)} says "
            "what its numbers are"
        )
    if kind not in ("ndarray", "bytes"):
        raise UserError(
            f"{shard.path}: column {name!r} holds {encoding}; ndarray, or bytes of ids, is valid"
        )
    code = np.dtype(stored or "uint16").newbyteorder("<")
    for number, data in enumerate(values(shard, name)):
        try:
            found = np.frombuffer(data, code) if kind == "bytes" else _array(data, rest)
        except (ValueError, KeyError, IndexError) as error:
            where = f"{shard.path}, sample {number}"
            raise UserError(f"{where}: column {name!r} is no {encoding}: {error}") from error
        starts = range(0, max(1, len(found)), LONGEST)
        for start in starts:
            part = found[start : start + LONGEST]
            yield Ids(part, f"{origin}:{number + 1}", start == starts[-1])


def _array(data: bytes, rest: str) -> NDArray[Any]:
    """The values of `ndarray:DTYPE:SHAPE`; what is not in the name is at the head of the bytes:
    a byte for the type, then one with the axes (× 4) and the size of a length, then lengths."""
    dtype, _, shape = rest.partition(":")
    at = 0
    if dtype:
        code = _NAMES[dtype]
    else:
        code, at = _VALUES[data[0]], 1
    if not shape:
        axes, width = data[at] >> 2, 2 ** (data[at] % 4)
        at += 1 + axes * width
    return np.frombuffer(data, code, offset=at)
