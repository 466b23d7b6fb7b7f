"""The sources as chunks of hashed documents, readable from any place, one chunk ahead of use.

A document is text, or token ids that somebody else made of one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from anytrain.data import corpora, token_sources
from anytrain.data.corpora import SourceFile
from anytrain.data.formats import Document, Skipped
from anytrain.data.ids import Ids
from anytrain.data.journal import Cursor
from anytrain.data.token_sources import IdsFile
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
    ids: Ids | None = None  # instead of the text

    @classmethod
    def of(cls, text: str) -> "Text":
        data = text.encode("utf-8")
        return cls(text, hashlib.blake2b(data, digest_size=16).digest(), len(data))

    @classmethod
    def of_ids(cls, ids: Ids) -> "Text":
        """The same by its ids, each as 8 bytes: what they were stored in makes no difference."""
        digest = hashlib.blake2b(ids.data, digest_size=16).digest()
        return cls("", digest, ids.ids.nbytes, ids)

    @property
    def draw(self) -> float:
        """A number in [0, 1) that depends on the text alone: the validation split, the sample."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of the sources are read."""

    text_field: str  # of JSONL and tables; of MDS the column
    ids: str | None = None  # the sources are token files: see `token_sources.STORED`
    eot: int | None = None  # the id after which a document ends, where no index says it

    def files(self, sources: Sequence[str], exclude: Path | None) -> Iterable[SourceFile | IdsFile]:
        if self.ids is None:
            return chain.from_iterable(corpora.files(source, exclude) for source in sources)
        stored = self.ids
        found = (token_sources.files(source, stored, exclude) for source in sources)
        return chain.from_iterable(found)

    def items(self, file: SourceFile | IdsFile) -> Iterator[Text | Skipped]:
        """The documents of one file, hashed, and what could not be read in its place."""
        if isinstance(file, SourceFile):
            read: Iterator[Document | Ids | Skipped] = corpora.items(file, self.text_field)
        else:
            stored = self.ids or token_sources.AUTO
            read = token_sources.items(file, self.text_field, stored, self.eot)
        for item in read:
            if isinstance(item, Ids):
                yield Text.of_ids(item)
            else:
                yield item if isinstance(item, Skipped) else Text.of(item.text)


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


def survey(sources: Sequence[str], reading: Reading, exclude: Path | None = None) -> Survey:
    """Walk the sources once without reading them."""
    count, size, exact, listing = 0, 0, True, ""
    for file in reading.files(sources, exclude):
        packed = file.kind in ("parquet", "arrow") or file.path.suffix in (".gz", ".zst")
        listing = _listed(listing, file)
        size += file.bytes * (_PACKED if packed else 1)
        count, exact = count + 1, exact and not packed
    return Survey(count, size, exact, listing)


def chunks(
    sources: Sequence[str], reading: Reading, cursor: Cursor, exclude: Path | None = None
) -> Iterator[Chunk]:
    """Chunks from `cursor` to the end of the sources; the last one may be empty.

    Raises UserError where the files before the cursor are no longer those that were read.
    """
    chunk = Chunk()
    done, listing = 0, ""
    for file in reading.files(sources, exclude):
        if done < cursor.files:
            done, listing = done + 1, _listed(listing, file)
            continue
        if done == cursor.files and listing != cursor.listing:
            break
        skip = cursor.items if done == cursor.files else 0
        for read, item in enumerate(islice(reading.items(file), skip, None), skip + 1):
            chunk.add(item)
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
    sources: Sequence[str], reading: Reading, bound: int, total: int, exclude: Path | None = None
) -> Iterator[str]:
    """Documents drawn by their hash, about evenly over the sources, `bound` bytes at most."""
    share, taken = bound / max(1, total), 0
    for chunk in ahead(chunks(sources, reading, Cursor(), exclude)):
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


def _listed(listing: str, file: SourceFile | IdsFile) -> str:
    return hashlib.sha256(f"{listing}\0{file.origin}\0{file.bytes}".encode()).hexdigest()
