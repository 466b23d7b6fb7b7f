"""The heads of safetensors files: what tensors there are, and where their bytes lie. No torch."""

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from anytrain.errors import UserError
from anytrain.files import inside, parsed, read_json
from anytrain.layout import SIZES, Box, Entry, assembled
from anytrain.rundir import Checkpoint
from anytrain.schema import NAME, TABLE, Each

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_INDEX = {"weight_map": Each(NAME), "metadata?": TABLE}

_LARGEST = 100_000_000  # bytes of a header, by the library's limit
_DIMENSIONS = 32  # of a tensor, at most
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


# --- one file --------------------------------------------------------------------------------


class Header(NamedTuple):
    """The head of one safetensors file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Names, types, shapes and places of a safetensors file; UserError where it is damaged.

    Eight bytes with the size of a JSON header, the header, the tensors' bytes without gaps
    (huggingface/safetensors, "Format").
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > min(size - 8, _LARGEST):
                raise ValueError(f"its header should have {length} bytes")
            table = parsed(opened.read(length))
        metadata = table.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its __metadata__ is not text")
        entries = {name: _entry(file, name, row, 8 + length) for name, row in table.items()}
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    except UserError:
        raise
    except (*_MALFORMED, struct.error) as error:
        raise UserError(f"{file} is damaged or no safetensors file: {error}") from error
    _check_filled(file, entries, 8 + length, size)
    return Header(entries, metadata)


def _entry(file: Path, name: str, row: Mapping[str, Any], base: int) -> Entry:
    dtype, shape, (begin, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has shape {list(shape)} at bytes {begin} to {end}")
    if len(shape) > _DIMENSIONS or prod(max(n, 1) for n in shape) >= 2**62:
        raise ValueError(f"tensor {name!r} has {len(shape)} dimensions, or too large ones")
    if dtype not in SIZES:
        raise UserError(f"{file}: tensor {name!r} is {dtype}; {', '.join(SIZES)} are valid")
    if end - begin != prod(shape) * SIZES[dtype]:
        raise ValueError(f"tensor {name!r}, {dtype} {list(shape)}, has {end - begin} bytes")
    return Entry(dtype, shape, (Box(file, base + begin, (0,) * len(shape), shape),))


def _check_filled(file: Path, entries: Mapping[str, Entry], base: int, size: int) -> None:
    """Raise a UserError unless the tensors lie one after another up to the end of the file."""
    end = base
    for name, entry in sorted(entries.items(), key=lambda item: _place(item[1])):
        if entry.boxes[0].offset != end:
            raise UserError(f"{file} is damaged: tensor {name!r} does not begin where it should")
        end += entry.bytes
    if end != size:
        raise UserError(
            f"{file} is truncated or damaged: it has {size} bytes, its header says {end}"
        )


def _place(entry: Entry) -> tuple[int, int]:
    return entry.boxes[0].offset, entry.bytes


# --- several files ---------------------------------------------------------------------------


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a Hugging Face directory, in the order of its index."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if (directory / INDEX).is_file():
        return [directory / name for name in dict.fromkeys(read_index(directory).values())]
    pickles = sorted(p.name for p in directory.glob("pytorch_model*.bin"))
    if pickles:
        raise UserError(
            f"{directory} holds pickled weights ({pickles[0]}), which can run code when opened; "
            "convert them to safetensors first (transformers: model.save_pretrained)"
        )
    raise UserError(f"{directory} holds no weights; {SINGLE} or {INDEX} is valid")


def read_index(directory: Path) -> dict[str, str]:
    """The file in which each tensor of a sharded directory is."""
    where: dict[str, str] = read_json(directory / INDEX, _INDEX)["weight_map"]
    for name in dict.fromkeys(where.values()):
        inside(directory, name, blobs(directory))
    return where


def blobs(directory: Path) -> Path:
    """Where Hugging Face's cache has the bytes that the links in a model's directory lead to."""
    return directory.resolve().parent.parent / "blobs"


def of_directory(directory: Path) -> dict[str, Entry]:
    """The tensors of a Hugging Face directory."""
    found = of_files(weight_files(directory))
    if not (directory / SINGLE).is_file():
        for name, file in read_index(directory).items():
            if name not in found:
                raise UserError(f"{directory / file} has no tensor {name!r}; {INDEX} says it has")
    return found


def of_files(files: Sequence[Path]) -> dict[str, Entry]:
    """The tensors of several files, each in one of them."""
    found: dict[str, Entry] = {}
    for file in files:
        for name, entry in read_header(file).entries.items():
            if name in found:
                raise UserError(f"{file}: tensor {name!r} is also in {found[name].boxes[0].file}")
            found[name] = entry
    return found


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Entry]:
    """Every tensor of a checkpoint by key, the shards of its ranks put together."""
    pieces: dict[str, list[tuple[str, Box]]] = {}
    for name in checkpoint.manifest["files"]:
        if not name.endswith(".safetensors"):
            continue
        header = read_header(checkpoint.path / name)
        places = _places(checkpoint.path / name, header)
        for key, entry in header.entries.items():
            box = entry.boxes[0]
            pieces.setdefault(key, []).append(
                (entry.dtype, box._replace(at=places.get(key, box.at)))
            )
    found = {}
    for key, parts in pieces.items():
        boxes, dtypes = [box for _, box in parts], {dtype for dtype, _ in parts}
        if len(dtypes) > 1:
            raise UserError(f"{boxes[0].file}: the shards of {key!r} are {' and '.join(dtypes)}")
        # what the whole is, is said nowhere: the smallest tensor that holds all of them
        extents = [[a + n for a, n in zip(box.at, box.shape, strict=True)] for box in boxes]
        shape = tuple(max(extent) for extent in zip(*extents, strict=True))
        found[key] = assembled(key, dtypes.pop(), shape, boxes)
    return found


def _places(file: Path, header: Header) -> dict[str, tuple[int, ...]]:
    """Where in its tensor each piece begins that a rank saved, by torch's name for it."""
    try:
        table = parsed(header.metadata.get("DCP_SHARDING_INFO", "{}"))
        found = {key: tuple(row["saved_offsets"]) for key, row in table.items() if row}
    except _MALFORMED as error:
        raise UserError(f"{file} is damaged: its DCP_SHARDING_INFO is no table") from error
    for key, place in found.items():
        entry = header.entries.get(key)
        if (
            entry is None
            or len(place) != len(entry.shape)
            or any(type(n) is not int or not 0 <= n < 2**62 for n in place)
        ):
            raise UserError(f"{file} is damaged: the piece of {key!r} is at {list(place)}")
    return found


# --- writing ---------------------------------------------------------------------------------


def plan_file(
    file: Path, tensors: Mapping[str, Entry], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Entry]]:
    """The head of a safetensors file to be, and where its tensors will lie, in their order.

    Of `tensors`, only types and shapes are looked at.
    """
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, entry in tensors.items():
        end = offset + entry.bytes
        table[name] = {
            "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]
        }  # fmt: skip
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    base = 8 + len(text)
    rows = ((name, row) for name, row in table.items() if name != "__metadata__")
    return struct.pack("<Q", len(text)) + text, {n: _entry(file, n, r, base) for n, r in rows}
