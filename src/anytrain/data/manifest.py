"""The manifest of a prepared corpus: `manifest.json`, written last and atomically.

    DIR/manifest.json                      this; without it there is no corpus yet
    DIR/tokenizer.json                     and tokenizer_config.json where there is one
    DIR/segment-0000/train-00000.bin …     little-endian tokens, documents one after another
    DIR/segment-0000/validation-00000.bin  documents held out by their hash
    DIR/segment-0000/train.index           uint64: document i is tokens[index[i] : index[i + 1]]
    DIR/journal.sqlite                     what was read and seen; resuming and appending need it

A segment never changes once it is in a manifest; appending adds another.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anytrain.errors import UserError
from anytrain.files import read_json, write_atomic
from anytrain.schema import COUNT, NUMBER, SIZE, TEXT, Each, check, one_of

NAME = "manifest.json"
FORMAT = "anytrain-corpus"
VERSION = 1
DTYPES = {"uint16": 2, "uint32": 4}  # bytes a token

_FILE = {"path": TEXT, "bytes": COUNT, "sha256": TEXT}
_SEGMENT = {
    "sources": [TEXT], "text_field": TEXT, "counts": Each(COUNT), "skipped": Each([TEXT]),
    "train": [_FILE], "validation": [_FILE], "index": [_FILE],
}  # fmt: skip
_FORM = {
    "dtype": one_of(*DTYPES), "vocab": SIZE, "eot?": COUNT, "eot_token?": TEXT,
    "tokenizer": TEXT, "tokenizer_sha256": TEXT, "validation": NUMBER, "shard_tokens": SIZE,
    "segments": [_SEGMENT],
}  # fmt: skip


@dataclass(frozen=True)
class DataFile:
    """One file of a segment."""

    path: str  # relative to the corpus, with forward slashes
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Segment:
    """What one `prepare` added."""

    sources: tuple[str, ...]  # as the user wrote them
    text_field: str
    counts: Mapping[str, int]  # see `journal.COUNTS`
    skipped: Mapping[str, tuple[str, ...]]  # reason -> where: nothing is dropped silently
    train: tuple[DataFile, ...]
    validation: tuple[DataFile, ...]
    index: tuple[DataFile, ...]

    @property
    def sha256(self) -> str:
        """The identity of the segment: the hash of everything the manifest says about it."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> tuple[DataFile, ...]:
        return (*self.train, *self.validation, *self.index)


@dataclass(frozen=True)
class Manifest:
    """Counts, hashes and settings of a corpus."""

    dtype: str  # uint16 or uint32
    vocab: int  # tokens: the largest id plus one
    eot: int | None  # the token after each document; None: token files without one
    eot_token: str | None
    tokenizer: str  # `bpe:N`, `file`, or `ids:N` where there is none
    tokenizer_sha256: str  # of `ids:N` that of the text
    validation: float  # share of documents held out
    shard_tokens: int  # tokens in every shard but the last
    segments: tuple[Segment, ...]

    @property
    def without_tokenizer(self) -> bool:
        """Whether nothing says what the ids mean."""
        return self.tokenizer.startswith("ids:")

    def write(self, folder: Path) -> None:
        """Put the manifest in place, whole or not at all."""
        for stale in folder.glob(f".{NAME}.*"):  # of a process killed while writing
            stale.unlink()
        record = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_atomic(folder / NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a corpus. A UserError names the file and the key that is wrong."""
        path = folder / NAME
        record = read_json(path)
        if record.get("format") != FORMAT or record.get("version") != VERSION:
            raise UserError(
                f"{path}: format {record.get('format')!r} version {record.get('version')!r}; "
                f"this version reads {FORMAT!r} version {VERSION}"
            )
        check(path, record, _FORM)
        fields: dict[str, Any] = {name: record.get(name) for name in cls.__dataclass_fields__}
        made = cls(**{**fields, "segments": tuple(map(_segment, record["segments"]))})
        made._check(path)
        return made

    def _check(self, path: Path) -> None:
        """Files lie inside the corpus and have sizes that hold whole tokens of the vocabulary."""
        if not self.segments:
            raise UserError(f"{path} is damaged: it lists no segment")
        if not (self.eot or 0) < self.vocab <= 256 ** DTYPES[self.dtype]:
            raise UserError(
                f"{path} is damaged: eot {self.eot} and vocab {self.vocab} are no {self.dtype}"
            )
        for entry in (file for segment in self.segments for file in segment.files):
            parts = PurePosixPath(entry.path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in entry.path:
                raise UserError(f"{path} names {entry.path!r}, which lies outside the corpus")
            if entry.bytes % DTYPES[self.dtype]:
                raise UserError(f"{path}: {entry.path} of {entry.bytes} bytes is no {self.dtype}")


def _segment(record: Mapping[str, Any]) -> Segment:
    files = {split: _files(record[split]) for split in ("train", "validation", "index")}
    return Segment(
        sources=tuple(record["sources"]),
        text_field=record["text_field"],
        counts=record["counts"],
        skipped={reason: tuple(where) for reason, where in record["skipped"].items()},
        **files,
    )


def _files(records: list[Mapping[str, Any]]) -> tuple[DataFile, ...]:
    return tuple(DataFile(r["path"], r["bytes"], r["sha256"]) for r in records)
