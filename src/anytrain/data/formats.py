"""Readers of single files: text, JSONL, parquet and Arrow, each a stream of documents.

Text is UTF-8; bytes are kept as they are (line ends too), a leading byte-order mark is dropped.
What is not UTF-8 comes out as `Skipped`, in its place, for the caller to count and list.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from anytrain.data import mds
from anytrain.errors import UserError

Kind = Literal["text", "jsonl", "parquet", "arrow", "mds"]

NOT_UTF8 = "not UTF-8"
BINARY = "binary"
NO_IDS = "no token file"

PART = 2**20  # bytes; a longer text file is cut into documents of about this size
_ROWS = 256  # rows of a table in memory at once
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is no UTF-8 text, where it is and why."""

    origin: str
    reason: str  # NOT_UTF8, BINARY or NO_IDS


Items = Iterator[Document | Skipped]


def read(path: Path, origin: str, kind: Kind, text_field: str) -> Items:
    """The documents of one file. A UserError names the file, and the line or the column."""
    if kind == "text":
        return _text(path, origin)
    if kind == "jsonl":
        return _jsonl(path, origin, text_field)
    if kind == "mds":
        return _mds(path, origin, text_field)
    return _table(path, origin, text_field, _parquet if kind == "parquet" else _arrow)


# --- text ------------------------------------------------------------------------------------


def _text(path: Path, origin: str) -> Items:
    with path.open("rb") as file:
        head = file.peek(8192)[:8192]
        if head.startswith(_UTF16):
            yield Skipped(origin, NOT_UTF8)
            return
        if b"\0" in head:
            yield Skipped(origin, BINARY)
            return
        for start, data in _parts(file):
            whole = start == 0 and len(data) <= PART
            name = origin if whole else f"{origin}, bytes {start}-{start + len(data)}"
            yield _decoded(data.removeprefix(codecs.BOM_UTF8) if start == 0 else data, name)


def _parts(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Pieces of at most about `PART` bytes, ending at a line end where there is one."""
    start, held = 0, b""
    while True:
        held += file.read(PART + 1 - len(held))
        if len(held) <= PART:
            if held or start == 0:
                yield start, held
            return
        cut = held.rfind(b"\n", 0, PART) + 1 or _character_start(held, PART)
        yield start, held[:cut]
        start, held = start + cut, held[cut:]


def _character_start(data: bytes, at: int) -> int:
    """The last place at or before `at` that is not inside a UTF-8 character of four bytes."""
    for place in range(at, at - 4, -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return at


def _decoded(data: bytes, origin: str) -> Document | Skipped:
    try:
        return Document(data.decode("utf-8"), origin)
    except UnicodeDecodeError:
        return Skipped(origin, NOT_UTF8)


# --- JSONL -----------------------------------------------------------------------------------


def _jsonl(path: Path, origin: str, text_field: str) -> Items:
    number = 0
    try:
        with _decompressed(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(line, path, number, f"{origin}:{number}", text_field)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged after line {number}: {error}") from error
    except OSError as error:
        if error.errno is None:  # the zstd reader's own: truncated or altered
            raise UserError(f"{path} is damaged after line {number}: {error}") from error
        raise


def _decompressed(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 2**20)
    return path.open("rb")


def _row(line: bytes, path: Path, number: int, origin: str, text_field: str) -> Document | Skipped:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        return Skipped(origin, NOT_UTF8)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number} is a {type(row).__name__}; a JSON object is needed")
    if text_field not in row:
        raise UserError(
            f"{path}, line {number} has no field {text_field!r}; fields there: "
            f"{', '.join(map(str, row)) or 'none'} (choose one with --text-field)"
        )
    text = row[text_field]
    if not isinstance(text, str | None):
        raise UserError(
            f"{path}, line {number}: field {text_field!r} is a {type(text).__name__}, "
            "text is needed"
        )
    return _encodable(text or "", origin)


def _encodable(text: str, origin: str) -> Document | Skipped:
    """JSON can spell half of a surrogate pair, which no UTF-8 text holds."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Skipped(origin, NOT_UTF8)
    return Document(text, origin)


# --- MDS -------------------------------------------------------------------------------------


def _mds(path: Path, origin: str, text_field: str) -> Items:
    shard = mds.shard_of(path)
    if (encoding := shard.column(text_field)) != "str":
        raise UserError(
            f"{path}: column {text_field!r} holds {encoding}, text is needed; token ids are read "
            "with --ids"
        )
    for number, data in enumerate(mds.values(shard, text_field), 1):
        yield _decoded(data, f"{origin}:{number}")


# --- tables ----------------------------------------------------------------------------------

_Batches = Callable[[Path, str], Iterator[Any]]


def _table(path: Path, origin: str, text_field: str, batches: _Batches) -> Items:
    import pyarrow as pa

    number = 0
    try:
        for column in batches(path, text_field):
            for row in column:
                number += 1
                try:
                    yield Document(row.as_py() or "", f"{origin}:{number}")
                except UnicodeDecodeError:
                    yield Skipped(f"{origin}:{number}", NOT_UTF8)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(f"{path} is damaged after row {number}: {error}") from error


def _parquet(path: Path, text_field: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_column(path, file.schema_arrow, text_field)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[text_field]):
            yield batch.column(0)


def _arrow(path: Path, text_field: str) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        _check_column(path, stream.schema, text_field)
        for batch in stream:
            yield batch.column(batch.schema.get_field_index(text_field))


def _check_column(path: Path, schema: Any, text_field: str) -> None:
    import pyarrow as pa

    if text_field not in schema.names:
        raise UserError(
            f"{path} has no column {text_field!r}; columns there: {', '.join(schema.names)} "
            "(choose one with --text-field)"
        )
    kind = schema.field(text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{path}: column {text_field!r} holds {kind}, text is needed")
