"""Files of `torch.save`, read in place: a zip with a pickle and the bytes. No torch, nothing run.

What of a checkpoint is the model's is found by the habits of trainers: its weights are the file's
dict, or under `model` or `state_dict`, with `_orig_mod.` (torch.compile) or `module.` (DDP) before
every name.
"""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from anytrain.errors import UserError
from anytrain.foreign import UNZIPPED, Slice, row_major
from anytrain.layout import SIZES, Box, Entry
from anytrain.pickles import Saved, unpickled

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
_UNDER = ("model", "state_dict")  # keys of a checkpoint that its weights may be under
_WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class Archive:
    """One file: the model's tensors by name, and everything beside them as plain data."""

    path: Path
    entries: dict[str, Entry]
    rest: Mapping[str, Any]


def read(path: Path) -> Archive:
    """The tensors of a model in a file of `torch.save`; UserError where it is damaged, older than
    torch 1.6, or asks for more than a checkpoint needs."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            whole = Slice(file, 0, size)
            with zipfile.ZipFile(whole) as archive:  # their names begin with the archive's own
                found = {i.filename.partition("/")[2]: i for i in archive.infolist()}
            if "data.pkl" not in found:
                raise UserError(f"{path} is no file of torch.save: it has no data.pkl")
            saved = unpickled(path, whole.member(found["data.pkl"]))
            order = whole.member(found["byteorder"]) if "byteorder" in found else b"little"
            if order != b"little":
                raise UserError(f"{path} is {order.decode('ascii', 'replace')}-endian; little "
                                "is valid")  # fmt: skip
            return _model(path, saved, whole, found)
    except UserError:
        raise
    except (*UNZIPPED, struct.error) as error:
        raise UserError(
            f"{path} is truncated, damaged, or no file of torch.save (torch 1.6 or later): {error}"
        ) from error


def _model(path: Path, saved: Any, whole: Slice, members: Mapping[str, zipfile.ZipInfo]) -> Archive:
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}; a dict of weights is valid")
    under = next((key for key in _UNDER if isinstance(saved.get(key), dict)), None)
    weights = saved if under is None else saved[under]
    rest = {} if under is None else {k: v for k, v in saved.items() if k != under}
    entries = {}
    for key, value in weights.items():
        if isinstance(value, Saved):
            name = _bare(str(key))
            entries[name] = _entry(path, name, value, whole, members)
    if not entries:
        raise UserError(f"{path} holds no tensor of a model, neither at its top nor in a dict "
                        f"{' or '.join(_UNDER)}")  # fmt: skip
    return Archive(path, entries, rest)


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS * 2:  # either may be around the other
        name = name.removeprefix(wrapper)
    return name


def _entry(
    path: Path, name: str, saved: Saved, whole: Slice, members: Mapping[str, zipfile.ZipInfo]
) -> Entry:
    """Where the elements of one tensor are; several may be views of one storage."""
    if saved.dtype not in SIZES:
        raise UserError(f"{path}: {name!r} is {saved.dtype}; {', '.join(SIZES)} are valid")
    data = members.get(f"data/{saved.storage.key}")
    if data is None or data.compress_type != 0:
        raise UserError(f"{path} is damaged: the bytes of {name!r} are not there")
    if not row_major(saved.shape, saved.stride):
        raise UserError(f"{path}: {name!r} is not stored row by row; save it contiguous()")
    start = saved.offset * SIZES[saved.dtype]
    begin, end = whole.begin(data), start + prod(saved.shape) * SIZES[saved.dtype]
    if start < 0 or end > data.file_size or begin + data.file_size > whole.length:
        raise UserError(f"{path} is truncated or damaged: {name!r} ends after its bytes")
    box = Box(path, begin + start, (0,) * len(saved.shape), saved.shape)
    return Entry(saved.dtype, saved.shape, (box,))


def is_archive(path: Path) -> bool:
    """Whether a file is named as those of torch.save are."""
    return path.suffix in SUFFIXES and path.is_file()
