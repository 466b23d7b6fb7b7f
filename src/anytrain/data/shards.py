"""A corpus on disk, opened for reading: prepared by us, or nanoGPT and NumPy files as they are.

    DIR/manifest.json + segments        `prepare` made it: vocabulary, end of text, hashes known
    DIR/train.bin  [DIR/val.bin]        nanoGPT: raw little-endian uint16
    DIR/train.npy  [DIR/val.npy]        NumPy: one axis of uint16, uint32, int32 or int64

Tokens are memory-mapped; the shards of a split read as one array. Whatever is missing, truncated
or altered is a UserError that names the file.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anytrain.data import tokenizer as tokenizers
from anytrain.data.manifest import NAME, DataFile, Manifest
from anytrain.errors import UserError
from anytrain.files import inside, sha256

Verify = Literal["auto", "sizes", "hashes"]

HASHED = 2**31  # bytes; a corpus up to this size has its hashes checked whenever it is opened
_OPEN_FILES = 256  # a mapping holds a file descriptor, of which a process has 1024 by default
_NPY_TYPES = ("uint16", "uint32", "int32", "int64")
_PAGES, _PAGE = 1024, 2**14  # of a raw file that is fingerprinted; bytes


@dataclass(frozen=True)
class TokenFile:
    """Tokens in a file: `count` of `dtype` from byte `offset` on."""

    path: Path
    dtype: np.dtype[Any]
    count: int
    offset: int = 0  # bytes

    def map(self) -> NDArray[Any]:
        try:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error
        return mapped.view(np.ndarray)  # slices of a plain array are several times faster to make

    def mark(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file, moves it or puts another in its place."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns


class TokenArray:
    """Token files read as one array."""

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self.files = tuple(files)
        self.starts = np.cumsum([0, *(file.count for file in self.files)])  # tokens
        self._maps: dict[int, NDArray[Any]] = {}
        self._marks: dict[int, tuple[int, ...]] = {}  # of the files when they were mapped

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def signed(self) -> bool:
        """Whether a token could be negative, which no vocabulary has."""
        return any(file.dtype.kind == "i" for file in self.files)

    def locate(self, addresses: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(file, offset within it) of each token address."""
        file = np.searchsorted(self.starts, addresses, side="right") - 1
        return file, addresses - self.starts[file]

    def fill(self, row: NDArray[np.int64], file: int, offset: int) -> None:
        """Copy tokens into `row` from a place on, over as many files as that takes."""
        piece = self._map(file)[offset : offset + len(row)]
        if len(piece) == len(row):
            row[:] = piece
            return
        row[: len(piece)] = piece
        self.fill(row[len(piece) :], file + 1, 0)

    def windows(self, first: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The windows of `length` tokens that begin at each address: (len(first), length)."""
        out = np.empty((len(first), length), dtype=np.int64)
        for row, file, offset in zip(out, *map(np.ndarray.tolist, self.locate(first)), strict=True):
            self.fill(row, file, offset)
        return out

    def check(self) -> None:
        """A UserError where a file that was read has been written to or replaced since."""
        for number in self._marks:
            self._check(number)

    def _check(self, number: int) -> None:
        if self.files[number].mark() != self._marks[number]:
            raise UserError(f"{self.files[number].path} was changed while it was read")

    def _map(self, number: int) -> NDArray[Any]:
        mapped = self._maps.get(number)
        if mapped is None:
            if len(self._maps) >= _OPEN_FILES:
                oldest = next(iter(self._maps))
                self._check(oldest)
                del self._maps[oldest], self._marks[oldest]
            self._marks[number] = self.files[number].mark()
            mapped = self._maps[number] = self.files[number].map()
        return mapped


@dataclass(frozen=True)
class SegmentTokens:
    """The training tokens of one segment, and its identity."""

    tokens: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """An opened corpus."""

    path: Path
    sha256: str  # of the manifest, or of the fingerprints of raw files
    segments: tuple[SegmentTokens, ...]
    train: TokenArray  # all segments, one after another
    validation: TokenArray  # of the first segment: later ones add nothing to it
    vocab: int | None  # None: the files do not say
    eot: int | None
    tokenizer: Path | None
    tokenizer_sha256: str | None

    @classmethod
    def open(cls, path: str | Path, verify: Verify = "auto") -> "Corpus":
        """A prepared corpus, or a directory with nanoGPT or NumPy token files.

        `sizes` checks that no file is missing or truncated, `hashes` that none is altered, `auto`
        does the latter up to 2 GiB. Raw files have no recorded size or hash to check against.
        """
        folder = Path(path)
        if (folder / NAME).is_file():
            return _prepared(folder, verify)
        for suffix, find in ((".bin", _nanogpt), (".npy", _numpy)):
            if (folder / f"train{suffix}").is_file():
                return _raw(
                    folder, [folder / f"{split}{suffix}" for split in ("train", "val")], find
                )
        if not folder.exists():
            raise UserError(f"{path}: no such corpus; make one with `anytrain prepare`")
        begun = (folder / "journal.sqlite").is_file()
        raise UserError(
            f"{path}: its preparation is not finished; run the same `anytrain prepare` again"
            if begun
            else f"{path} is no corpus: it holds no {NAME}, train.bin or train.npy"
        )

    def identity(self, segments: int) -> str:
        """A hash over the first `segments` segments and what their tokens mean."""
        parts = [str(self.vocab), str(self.eot), str(self.tokenizer_sha256)]
        parts += [segment.sha256 for segment in self.segments[:segments]]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def segment_starts(self) -> NDArray[np.int64]:
        """Where each segment begins in `train`: tokens."""
        return np.cumsum([0, *(segment.tokens for segment in self.segments)])[:-1]


# --- prepared --------------------------------------------------------------------------------


def _prepared(folder: Path, verify: Verify) -> Corpus:
    manifest = Manifest.read(folder)
    files = [file for segment in manifest.segments for file in segment.files]
    hashes = verify == "hashes"
    hashes |= verify == "auto" and sum(file.bytes for file in files) <= HASHED
    for file in files:
        _check(folder, file, hashes)
    vocabulary = None if manifest.without_tokenizer else folder / tokenizers.NAME
    if vocabulary is not None and not vocabulary.is_file():
        raise UserError(f"{vocabulary} is missing")
    if vocabulary is not None and sha256(vocabulary) != manifest.tokenizer_sha256:
        raise UserError(f"{vocabulary} is not the tokenizer that the corpus was prepared with")
    dtype = np.dtype(manifest.dtype).newbyteorder("<")

    def tokens(entries: Sequence[DataFile]) -> list[TokenFile]:
        return [TokenFile(folder / e.path, dtype, e.bytes // dtype.itemsize) for e in entries]

    train = [tokens(segment.train) for segment in manifest.segments]
    return Corpus(
        path=folder,
        sha256=sha256(folder / NAME),
        segments=tuple(
            SegmentTokens(sum(file.count for file in files), segment.sha256)
            for files, segment in zip(train, manifest.segments, strict=True)
        ),
        train=TokenArray([file for files in train for file in files]),
        validation=TokenArray(tokens(manifest.segments[0].validation)),
        vocab=manifest.vocab,
        eot=manifest.eot,
        tokenizer=vocabulary,
        tokenizer_sha256=manifest.tokenizer_sha256,
    )


def _check(folder: Path, entry: DataFile, hashes: bool) -> None:
    path = inside(folder, entry.path)
    if not path.is_file():
        raise UserError(f"{path} is missing; {folder / NAME} lists it")
    size = path.stat().st_size
    if size != entry.bytes:
        what = "truncated" if size < entry.bytes else "altered"
        raise UserError(f"{path} was {what}: it has {size} bytes, the manifest says {entry.bytes}")
    if hashes and sha256(path) != entry.sha256:
        raise UserError(f"{path} was altered: its sha256 is not the manifest's")


# --- raw -------------------------------------------------------------------------------------


def _raw(folder: Path, paths: Sequence[Path], find: Any) -> Corpus:
    """A corpus of one segment from files that say nothing about themselves."""
    train, *validation = [find(path) for path in paths if path.is_file()]
    mark = _fingerprint(train)
    marks = "\n".join([mark, *map(_fingerprint, validation)])
    return Corpus(
        path=folder,
        sha256=hashlib.sha256(marks.encode()).hexdigest(),
        segments=(SegmentTokens(train.count, mark),),
        train=TokenArray([train]),
        validation=TokenArray(validation),
        vocab=None,
        eot=None,
        tokenizer=None,
        tokenizer_sha256=None,
    )


def _nanogpt(path: Path) -> TokenFile:
    size = path.stat().st_size
    if size % 2:
        raise UserError(f"{path} was truncated: {size} bytes are no whole number of uint16 tokens")
    file = TokenFile(path, np.dtype("<u2"), size // 2)
    if size >= 4 and np.fromfile(path, "<i4", 1)[0] == 20240520:
        raise UserError(f"{path} has the header of llm.c; nanoGPT's raw uint16 is what can be read")
    return file


def _numpy(path: Path) -> TokenFile:
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # its head is read as Python's literals, whose reader raises many
        raise UserError(f"{path} is no NumPy file, or truncated: {error}") from error
    if mapped.ndim != 1 or mapped.dtype.newbyteorder("=").name not in _NPY_TYPES:
        raise UserError(
            f"{path} holds {mapped.dtype} of shape {mapped.shape}; one axis of "
            f"{', '.join(_NPY_TYPES)} is valid"
        )
    return TokenFile(path, mapped.dtype, len(mapped), int(mapped.offset))


def _fingerprint(file: TokenFile) -> str:
    """A hash of size, type and 1024 pages of 16 KiB spread evenly: all of it up to 16 MiB."""
    size = file.path.stat().st_size
    mark = hashlib.sha256(f"{size} {file.dtype.str} {file.offset}".encode())
    step = max(_PAGE, size // _PAGES)
    with file.path.open("rb") as data:
        for start in range(0, size, step):
            data.seek(start)
            mark.update(data.read(_PAGE))
    return mark.hexdigest()
