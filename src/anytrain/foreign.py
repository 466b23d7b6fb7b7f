"""Checkpoints of torch.distributed as others write them ("DCP"): read in place, without torch.

A directory has a pickle, `.metadata`, that says what is where, and `.distcp` files in which each
piece of a tensor is an archive of `torch.save`: a zip with a pickle and the bytes. See `pickles`
for how these are opened.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

from anytrain.errors import UserError
from anytrain.files import inside
from anytrain.layout import SIZES, Box, Entry, assembled
from anytrain.pickles import TensorStorage, sizes, unpickled

METADATA = ".metadata"

# A tensor with one of these in its dotted name is no weight of the model: it is carried over.
STATE = {
    "optim", "optimizer", "optimizers", "optim_state", "optimizer_state", "optimizer_states",
    "optim_state_dict", "optimizer_state_dict", "lr_scheduler", "lr_schedulers", "scheduler",
    "train_state", "dataloader", "rng_state", "grad_scaler", "anytrain",
}  # fmt: skip


# What zipfile raises for a damaged archive.
UNZIPPED = (zipfile.BadZipFile, NotImplementedError, LookupError, ValueError, OSError, EOFError,
             OverflowError)  # fmt: skip


class Record(NamedTuple):
    """The bytes of a tensor in an archive, and the places that hold their CRC-32."""

    file: Path
    offset: int  # bytes
    size: int  # bytes
    checksums: tuple[int, ...]  # bytes, of each four


@dataclass(frozen=True)
class Foreign:
    """One checkpoint: the model's tensors by name, and the records that hold them."""

    path: Path
    entries: dict[str, Entry]
    records: tuple[Record, ...]


def read(path: Path) -> Foreign:
    """The model's tensors in a checkpoint of torch.distributed; UserError where it is damaged or
    asks for more than such a checkpoint needs."""
    metadata = unpickled(path / METADATA, (path / METADATA).read_bytes())
    entries, records = {}, []
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        try:
            stored = {(_text(i.fqn), sizes(i.offset)): s for i, s in metadata.storage_data.items()}
            for name, tensor in metadata.state_dict_metadata.items():
                if not isinstance(tensor, TensorStorage) or STATE & set(name.split(".")):
                    continue
                boxes = []
                for chunk in tensor.chunks:
                    at, shape = sizes(chunk.offsets), sizes(chunk.sizes)
                    info = stored[name, at]
                    file = _opened(path, info, files, stack)
                    record = _record(path / info.relative_path, file, info, tensor, shape)
                    boxes.append(Box(record.file, record.offset, at, shape))
                    records.append(record)
                entries[name] = assembled(name, _dtype(path, tensor), sizes(tensor.size), boxes)
        except UserError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OSError, OverflowError) as error:
            raise UserError(f"{path / METADATA} is damaged: {error}") from error
    if not entries:
        raise UserError(f"{path} holds no tensor of a model")
    return Foreign(path, entries, tuple(records))


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError("a tensor whose name is no text")
    return name


def reseal(records: Iterable[Record]) -> None:
    """Write the CRC-32 of the records' present bytes."""
    for record in records:
        with record.file.open("r+b") as file:
            file.seek(record.offset)
            left, checksum = record.size, 0
            while left and (block := file.read(min(left, 1 << 20))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            for place in record.checksums:
                file.seek(place)
                file.write(struct.pack("<I", checksum))


# --- archives --------------------------------------------------------------------------------


def _opened(path: Path, info: Any, files: dict[str, IO[bytes]], stack: ExitStack) -> IO[bytes]:
    name = info.relative_path
    if not isinstance(name, str) or Path(name).name != name:
        raise UserError(f"{path / METADATA} names {name!r}, outside the checkpoint")
    if getattr(info, "transform_descriptors", None):
        raise UserError(f"{path / name} is compressed; files as torch.distributed writes them by "
                        "default are valid")  # fmt: skip
    if name not in files:
        try:
            files[name] = stack.enter_context(inside(path, name).open("rb"))
        except OSError as error:
            raise UserError(f"{path / name}: {error.strerror}") from error
    return files[name]


def _record(path: Path, file: IO[bytes], info: Any, tensor: Any, shape: tuple[int, ...]) -> Record:
    """Where in a file the elements of one piece are."""
    start, length, dtype = int(info.offset), int(info.length), _dtype(path, tensor)
    if start < 0 or length < 0 or start + length > file.seek(0, io.SEEK_END):
        raise UserError(f"{path} is truncated or damaged: it has no {length} bytes at {start}")
    try:
        piece = Slice(file, start, length)
        with zipfile.ZipFile(piece) as archive:  # their names begin with the archive's own
            found = {i.filename.partition("/")[2]: i for i in archive.infolist()}
            said = unpickled(path, piece.member(found["data.pkl"]))
            order = piece.member(found["byteorder"]) if "byteorder" in found else b"little"
            data, directory = found["data/" + said.storage.key], archive.start_dir
        offset = piece.begin(data)
        places = (data.header_offset + 14, piece.entry(directory, data) + 16,
                  offset + data.file_size + 4)  # fmt: skip
    except UserError:
        raise
    except (*UNZIPPED, AttributeError, struct.error) as error:
        raise UserError(f"{path} is truncated or damaged at byte {start}: {error}") from error
    alone = said.offset == 0 and data.file_size == prod(shape) * SIZES[dtype]
    plain = alone and row_major(shape, said.stride) and data.compress_type == 0
    if (said.dtype, said.shape, order) != (dtype, shape, b"little") or not plain:
        raise UserError(f"{path}: the piece at byte {start} is not {dtype} {list(shape)}, "
                        "uncompressed and row by row")  # fmt: skip
    own = struct.pack("<I", data.CRC)  # some of the places hold none
    checksums = tuple(start + place for place in places if piece.at(place, 4) == own)
    return Record(path, start + offset, data.file_size, checksums)


def row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements lie row by row; the stride of a dimension of one says nothing."""
    rows = zip(shape, stride, strict=True)
    return all(n == 1 or s == prod(shape[d + 1 :]) for d, (n, s) in enumerate(rows)) or (
        prod(shape) == 0
    )


def _dtype(path: Path, tensor: Any) -> str:
    properties = tensor.properties
    dtype: Any = properties.state[0] if hasattr(properties, "state") else properties.dtype
    if dtype not in SIZES:
        raise UserError(f"{path}: a tensor of type {dtype}; {', '.join(SIZES)} are valid")
    return str(dtype)


class Slice(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self.file, self.offset, self.length, self.place = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        self.place = max(base + place, 0)
        return self.place

    def readinto(self, buffer: Any) -> int:
        found = self.at(self.place, len(buffer))
        buffer[: len(found)] = found
        self.place += len(found)
        return len(found)

    def at(self, place: int, count: int) -> bytes:
        self.file.seek(self.offset + place)
        return self.file.read(max(min(count, self.length - place), 0))

    # of a zip, which zipfile alone would check against its CRC-32; torch may have left that out

    def begin(self, member: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin."""
        name, extra = struct.unpack("<HH", self.at(member.header_offset + 26, 4))
        return int(member.header_offset + 30 + name + extra)

    def member(self, member: zipfile.ZipInfo) -> bytes:
        """The bytes of one that is not compressed."""
        return self.at(self.begin(member), member.file_size)

    def entry(self, place: int, wanted: zipfile.ZipInfo) -> int:
        """Where the archive's directory, which begins at `place`, describes a member."""
        while self.at(place, 4) == b"PK\x01\x02":
            name, extra, comment = struct.unpack("<HHH", self.at(place + 28, 6))
            if self.at(place + 46, name) == wanted.orig_filename.encode():
                return place
            place += 46 + name + extra + comment
        raise EOFError(f"no entry for {wanted.filename}")
