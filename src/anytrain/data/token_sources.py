"""Sources that are token files: which files, in an order that never changes, and their documents.

What `corpora` is for text. A source is a file, a folder of them, or a MosaicML data set; every
file is checked, head and length, before the first is read.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anytrain.data import ids, mds
from anytrain.data.formats import NO_IDS, Skipped
from anytrain.data.ids import TYPES, Ids
from anytrain.errors import UserError

AUTO = "auto"  # the files say what their ids are
STORED = (AUTO, *TYPES)  # values of --ids


@dataclass(frozen=True, slots=True)
class IdsFile:
    """One file of a source: where it lies, what it is called in messages, how it is read."""

    path: Path
    origin: str
    kind: str  # `mds`, `other`, or as in `ids.read`
    bytes: int  # on disk, of the ids


def files(source: str, stored: str, exclude: Path | None = None) -> Iterator[IdsFile]:
    """The files of a source; `stored` is the type of those without a header, or AUTO.

    `exclude` is a folder never entered: the corpus being written. A UserError names a source that
    does not exist, cannot be read, is damaged, or does not say what its ids are.
    """
    path = Path(source)
    try:
        if path.is_dir():
            yield from _folder(path, source, stored, exclude.resolve() if exclude else None)
        elif not path.exists():
            raise UserError(
                f"{source}: no such file or folder (token files are Megatron's .idx beside .bin, "
                ".npy, .bin, an MDS folder, or a folder of these)"
            )
        else:
            found = _file(path, source, stored)
            if found.kind == "other":
                raise UserError(f"{source} is no token file; .idx, .bin and .npy are valid")
            yield found
    except OSError as error:
        raise UserError(f"{error.filename or source} cannot be read: {error.strerror}") from error


def _folder(folder: Path, origin: str, stored: str, exclude: Path | None) -> Iterator[IdsFile]:
    if folder.resolve() == exclude or (folder / "journal.sqlite").is_file():
        return
    if mds.is_index(folder):
        for shard in mds.shards(folder):
            yield IdsFile(shard.path, f"{origin}/{shard.path.name}", "mds", shard.bytes)
        return
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():  # a linked folder may lead back up
            yield from _folder(path, f"{origin}/{name}", stored, exclude)
        elif path.is_file() and not (path.suffix == ".bin" and path.with_suffix(".idx").exists()):
            yield _file(path, f"{origin}/{name}", stored)


def _file(path: Path, origin: str, stored: str) -> IdsFile:
    kind, size = _kind(path, stored), path.stat().st_size
    if kind == "megatron":  # the ids are beside the index, which may be named by either
        path = path.with_suffix(".idx")
        ids.check(path, kind)
        size = path.with_suffix(".bin").stat().st_size
    elif kind != "other":
        ids.check(path, kind)
    return IdsFile(path, origin, kind, size)


def _kind(path: Path, stored: str) -> str:
    if path.suffix == ".idx" or (path.suffix == ".bin" and path.with_suffix(".idx").is_file()):
        return "megatron"
    if path.suffix not in (".npy", ".bin"):
        return "other"
    if (kind := ids.headed(path)) is not None:
        return kind
    if stored == AUTO:
        raise UserError(
            f"{path} has no header that says what its ids are; --ids {', '.join(TYPES)} says it"
        )
    return stored


def items(file: IdsFile, column: str, stored: str, eot: int | None) -> Iterator[Ids | Skipped]:
    """Documents of one file in order; one that holds no ids is `Skipped` as a whole."""
    if file.kind == "other":
        return iter([Skipped(file.origin, NO_IDS)])
    if file.kind == "mds":
        said = None if stored == AUTO else stored
        return mds.ids(mds.shard_of(file.path), column, said, file.origin)
    return ids.read(file.path, file.origin, file.kind, eot)
