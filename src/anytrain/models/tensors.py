"""Named tensors in safetensors files: read one at a time, written in shards."""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from anytrain.errors import UserError
from anytrain.headers import INDEX, SINGLE, of_directory
from anytrain.layout import SIZES, Entry, select
from anytrain.models.shape import DecoderShape

TYPES = {  # of tensors, by their names in safetensors files
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class TensorFiles(Mapping[str, Tensor]):
    """Tensors in safetensors files, by name; each is read from its file when it is asked for.

    Raises `UserError` when a file cannot be read. Pickles are never opened: they can run code.
    """

    def __init__(self, entries: Mapping[str, Entry], prefix: str = "") -> None:
        """Of `entries`, those whose name begins with `prefix`, under the rest of their names."""
        self._entries = select(entries, prefix)

    @classmethod
    def of(cls, directory: Path) -> "TensorFiles":
        """Those of a model directory; `UserError` when it has no safetensors file."""
        return cls(of_directory(directory))

    def __getitem__(self, name: str) -> Tensor:
        return rows(self._entries[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, shape: DecoderShape, where: Path) -> None:
        """Raise `UserError` unless every tensor of the shape is here with its dimensions; forget
        what is not expected and harmless: rotary tables, and the head of a tied model."""
        if shape.layers > len(self):
            raise UserError(f"{where}: {len(self)} tensors are not those of {shape.layers} layers")
        expected = shape.tensors()
        for name in [n for n in self._entries if n not in expected]:
            if not name.endswith(("rotary_emb.inv_freq", "lm_head.weight")):
                raise UserError(f"{where}: tensor {name!r} is not part of this model")
            del self._entries[name]
        for name, dims in expected.items():
            if name not in self._entries:
                raise UserError(f"{where}: tensor {name!r} is missing")
            if (found := self._entries[name].shape) != dims:
                raise UserError(f"{where}: tensor {name!r} is {found}, the model's is {dims}")


def rows(entry: Entry, first: int = 0, last: int | None = None) -> Tensor:
    """Rows first … last of a stored tensor; of a scalar, row 0 is all.

    UserError where a file cannot be read, or ends before the tensor does.
    """
    if last is None:
        last = entry.shape[0] if entry.shape else 1
    stride, size = prod(entry.shape[1:]), SIZES[entry.dtype]
    shape = (last - first, *entry.shape[1:]) if entry.shape else ()
    found = torch.empty(shape, dtype=TYPES[entry.dtype])
    raw: Any = found.view(-1).view(torch.uint8).numpy()
    start = first * stride
    for file, offset, runs in entry.parts(start, last * stride):
        stretches = [raw[(low - start) * size : (high - start) * size] for low, high in runs]
        try:
            _fill(file, offset, stretches)
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}") from error
    return found


def _fill(file: Path, offset: int, stretches: Iterable[Any]) -> None:
    """Consecutive bytes of a file into stretches of memory, one after another."""
    with file.open("rb", buffering=0) as opened:
        opened.seek(offset)
        for stretch in stretches:
            left = memoryview(stretch)
            while left:  # one call reads 2 GiB at most
                count = opened.readinto(left)
                if not count:
                    raise UserError(f"{file} was truncated while it was read")
                left = left[count:]


def write_tensors(
    directory: Path,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> None:
    """Write `model.safetensors`, or numbered shards with an index when one would be too large.

    Holds one shard in memory. A tensor larger than a shard gets a shard of its own.
    """
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = 0  # bytes
    size = 0  # bytes, of the open shard
    for name, tensor in tensors:
        value = tensor.detach().to("cpu", dtype).contiguous()
        if shard and size + value.nbytes > max_shard_bytes:
            shards.append(_write_shard(directory, len(shards), shard))
            shard, size = {}, 0
        shard[name] = value
        size += value.nbytes
        total += value.nbytes
    shards.append(_write_shard(directory, len(shards), shard))
    if len(shards) == 1:
        _partial(directory, 0).rename(directory / SINGLE)
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for i, name in enumerate(names):
        _partial(directory, i).rename(directory / name)
    where = {t: name for name, held in zip(names, shards, strict=True) for t in held}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _partial(directory: Path, number: int) -> Path:
    return directory / f"shard-{number}.partial"  # until the number of shards is known


def _write_shard(directory: Path, number: int, shard: dict[str, Tensor]) -> list[str]:
    try:
        save_file(shard, _partial(directory, number), metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk comes as this
        raise OSError(str(error)) from error
    return list(shard)
