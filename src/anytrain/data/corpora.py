"""Documents out of anything: files, folders, JSONL, parquet, saved `datasets` directories.

A source is a path or the word `stdlib`. It is a list of files in an order that never changes
(by name, folder by folder), and a file is a list of documents; so a place in a corpus is two
numbers, and reading can go on from any place. Nothing is held in memory but the file being read.

What counts as what:

- a text or source file is one document; above 1 MiB it is cut at line ends into documents of
  about that size, so that one large file can still be split and shuffled;
- a line of JSONL, a row of parquet and a row of a saved dataset are one document each;
- a sample of a MosaicML data set (MDS) is one document;
- folders are read to the bottom; names that start with a dot, `__pycache__`, linked folders and
  prepared corpora are passed over; a saved dataset inside is recognised.
"""

import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytrain.data import mds
from anytrain.data.formats import Document, Kind, Skipped, read
from anytrain.errors import UserError

__all__ = ["Document", "Skipped", "SourceFile", "documents", "files", "items"]

STDLIB = "stdlib"
_NOT_STDLIB = {"site-packages", "dist-packages"}
_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".ndjson.zst": "jsonl",
    ".json.zst": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source: where it lies, what it is called in messages, how it is read."""

    path: Path
    origin: str  # the source as the user wrote it, and the path below it
    kind: Kind
    bytes: int  # on disk


def documents(source: str | Path, text_field: str = "text") -> Iterator[Document]:
    """Every document of a source, in order; what is not UTF-8 text is left out (see `items`)."""
    for file in files(source):
        for item in items(file, text_field):
            if isinstance(item, Document):
                yield item


def items(file: SourceFile, text_field: str = "text") -> Iterator[Document | Skipped]:
    """Documents of one file in order, and what could not be read as text in its place."""
    try:
        yield from read(file.path, file.origin, file.kind, text_field)
    except OSError as error:
        raise UserError(f"{file.path} cannot be read: {error.strerror or error}") from error


def files(source: str | Path, exclude: Path | None = None) -> Iterator[SourceFile]:
    """The files of a source, in an order that depends on their names alone.

    `exclude` is a folder never entered: the corpus being written, when it lies inside a source.
    A UserError names a source that does not exist or cannot be read.
    """
    name = str(source)
    try:
        if name == STDLIB:
            yield from _stdlib()
            return
        path = Path(name)
        if not path.exists():
            raise UserError(
                f"{name}: no such file or folder (a source is a text file, JSONL, parquet, a saved "
                f"datasets directory, MDS, a folder of these, or the word {STDLIB})"
            )
        if path.is_dir() and _prepared(path):
            raise UserError(f"{name} is a prepared corpus, not a source of text")
        away = exclude.resolve() if exclude else None
        yield from _folder(path, name, away) if path.is_dir() else _file(path, name)
    except OSError as error:
        raise UserError(f"{error.filename or name} cannot be read: {error.strerror}") from error


def _stdlib() -> Iterator[SourceFile]:
    """The standard library's own source: about 31 MB of Python that every machine has."""
    root = Path(sysconfig.get_path("stdlib"))
    found = 0
    for file in _folder(root, STDLIB, None, leave=_NOT_STDLIB):
        if file.path.suffix == ".py":
            found += 1
            yield file
    if not found:
        raise UserError(f"{STDLIB}: this Python has no library source in {root}; name a folder")


def _folder(
    folder: Path, origin: str, exclude: Path | None, leave: frozenset[str] | set[str] = frozenset()
) -> Iterator[SourceFile]:
    if folder.resolve() == exclude or _prepared(folder):
        return
    if (folder / "dataset_dict.json").is_file():
        for split in sorted(_json(folder / "dataset_dict.json").get("splits", [])):
            yield from _dataset(folder / split, f"{origin}/{split}")
        return
    if mds.is_index(folder):
        for shard in mds.shards(folder):
            name = f"{origin}/{shard.path.name}"
            yield SourceFile(shard.path, name, "mds", shard.path.stat().st_size)
        return
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        yield from _dataset(folder, origin)
        return
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = folder / name
        if name.startswith(".") or name == "__pycache__" or name in leave:
            continue
        if path.is_dir() and not path.is_symlink():  # a linked folder may lead back up
            yield from _folder(path, f"{origin}/{name}", exclude, leave)
        elif path.is_file():
            yield from _file(path, f"{origin}/{name}")


def _file(path: Path, origin: str) -> Iterator[SourceFile]:
    yield SourceFile(path, origin, kind_of(path), path.stat().st_size)


def kind_of(path: Path) -> Kind:
    """How a file is read, by the end of its name; whatever is not known is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last_two = "".join(suffixes[-2:])
    return _SUFFIXES.get(last_two) or _SUFFIXES.get("".join(suffixes[-1:])) or "text"


def _dataset(folder: Path, origin: str) -> Iterator[SourceFile]:
    """The Arrow files of `datasets.Dataset.save_to_disk`, as its state.json lists them."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: a datasets directory with an indices mapping; save it again after "
            "flatten_indices()"
        )
    for entry in state.get("_data_files", []):
        path = folder / Path(str(entry["filename"])).name
        if not path.is_file():
            raise UserError(f"{path} is missing; {folder / 'state.json'} lists it")
        yield SourceFile(path, f"{origin}/{path.name}", "arrow", path.stat().st_size)


def _prepared(folder: Path) -> bool:
    return (folder / "journal.sqlite").is_file()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value
