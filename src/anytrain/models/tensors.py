"""Named tensors in safetensors files: read one at a time, written in shards."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anytrain.errors import UserError
from anytrain.headers import INDEX, SINGLE, of_directory
from anytrain.layout import Box, Entry, select
from anytrain.models.shape import DecoderShape


class TensorFiles(Mapping[str, Tensor]):
    """Tensors in safetensors files, by name; each is read from its file when it is asked for.

    Raises `UserError` when a file cannot be read. Pickles are never opened: they can run code.
    """

    def __init__(self, entries: Mapping[str, Entry], prefix: str = "") -> None:
        """Of `entries`, those whose name begins with `prefix`, under the rest of their names."""
        self._prefix = prefix
        self._entries = select(entries, prefix)

    @classmethod
    def of(cls, directory: Path) -> "TensorFiles":
        """Those of a model directory; `UserError` when it has no safetensors file."""
        return cls(of_directory(directory))

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        if len(entry.boxes) == 1:
            return _read(entry.boxes[0], self._prefix + name)
        parts = [(box.at, _read(box, self._prefix + name)) for box in entry.boxes]
        whole = torch.empty(entry.shape, dtype=parts[0][1].dtype if parts else torch.float32)
        for at, part in parts:
            whole[tuple(slice(o, o + n) for o, n in zip(at, part.shape, strict=True))] = part
        return whole

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


def _read(box: Box, name: str) -> Tensor:
    try:
        with safe_open(box.file, framework="pt") as tensors:
            value: Tensor = tensors.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{box.file} cannot be read as safetensors: {error}") from error
    return value


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
