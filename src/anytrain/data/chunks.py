"""The sources as chunks of hashed documents, readable from any place, one chunk ahead of use."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from anytrain.data.corpora import SourceFile, files, items
from anytrain.data.formats import Skipped
from anytrain.data.journal import Cursor
from anytrain.errors import UserError

T = TypeVar("T")

CHUNK_BYTES = 2**23  # UTF-8 bytes of text in a chunk, about
CHUNK_DOCUMENTS = 2**14
_PACKED = 4  # a compressed or columnar file is taken to hold this many times its size


@dataclass(frozen=True, slots=True)
class Text:
    """A document ready to be judged: BLAKE2b-128 of its UTF-8 bytes says whether it is new."""

    text: str
    digest: bytes  # 16 bytes
    bytes: int

    @classmethod
    def of(cls, text: str) -> "Text":
        data = text.encode("utf-8")
        return cls(text, hashlib.blake2b(data, digest_size=16).digest(), len(data))

    @property
    def draw(self) -> float:
        """A number in [0, 1) that depends on the text alone: the validation split, the sample."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


@dataclass
class Chunk:
    """Documents in order, what was skipped between them, and the place after the last."""

    texts: list[Text] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    bytes: int = 0
    cursor: Cursor = field(default_factory=Cursor)

    @property
    def full(self) -> bool:
        return self.bytes >= CHUNK_BYTES or len(self.texts) >= CHUNK_DOCUMENTS

    def add(self, item: Text | Skipped) -> None:
        if isinstance(item, Skipped):
            self.skipped.append(item)
        else:
            self.texts.append(item)
            self.bytes += item.bytes


@dataclass(frozen=True)
class Survey:
    """The sources before reading: a UserError for a wrong one comes before any work."""

    files: int
    bytes: int  # of text; estimated where files are packed
    exact: bool  # no file is packed
    listing: str  # as in `Cursor`, after the last file


def survey(sources: Sequence[str], exclude: Path | None = None) -> Survey:
    """Walk the sources once without reading them."""
    count, size, exact, listing = 0, 0, True, ""
    for file in _files(sources, exclude):
        packed = file.kind in ("parquet", "arrow") or file.path.suffix in (".gz", ".zst")
        listing = _listed(listing, file)
        size += file.bytes * (_PACKED if packed else 1)
        count, exact = count + 1, exact and not packed
    return Survey(count, size, exact, listing)


def chunks(
    sources: Sequence[str], text_field: str, cursor: Cursor, exclude: Path | None = None
) -> Iterator[Chunk]:
    """Chunks from `cursor` to the end of the sources; the last one may be empty.

    Raises UserError where the files before the cursor are no longer those that were read.
    """
    chunk = Chunk()
    done, listing = 0, ""
    for file in _files(sources, exclude):
        if done < cursor.files:
            done, listing = done + 1, _listed(listing, file)
            continue
        if done == cursor.files and listing != cursor.listing:
            break
        skip = cursor.items if done == cursor.files else 0
        for read, item in enumerate(islice(items(file, text_field), skip, None), skip + 1):
            chunk.add(item if isinstance(item, Skipped) else Text.of(item.text))
            if chunk.full:
                chunk.cursor = Cursor(done, read, listing)
                yield chunk
                chunk = Chunk()
        done, listing = done + 1, _listed(listing, file)
    if done < cursor.files or (done == cursor.files and listing != cursor.listing):
        raise UserError(
            f"the sources changed: the first {cursor.files} files are no longer those read before "
            "the interruption; restore them, or prepare into another directory"
        )
    chunk.cursor = Cursor(done, 0, listing)
    yield chunk


def sample(
    sources: Sequence[str], text_field: str, bound: int, total: int, exclude: Path | None = None
) -> Iterator[str]:
    """Documents drawn by their hash, about evenly over the sources, `bound` bytes at most."""
    share, taken = bound / max(1, total), 0
    for chunk in ahead(chunks(sources, text_field, Cursor(), exclude)):
        for text in chunk.texts:
            if text.draw < share and taken + text.bytes <= bound:
                taken += text.bytes
                yield text.text
        if taken >= bound:
            return


def ahead(made: Iterator[T]) -> Iterator[T]:
    """The same values, the next one made in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, made, None)
        while (value := coming.result()) is not None:
            coming = pool.submit(next, made, None)
            yield value


def _files(sources: Sequence[str], exclude: Path | None) -> Iterable[SourceFile]:
    return chain.from_iterable(files(source, exclude) for source in sources)


def _listed(listing: str, file: SourceFile) -> str:
    return hashlib.sha256(f"{listing}\0{file.origin}\0{file.bytes}".encode()).hexdigest()
