"""Named tensors in safetensors files: read one at a time, written in shards."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anytrain.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a model directory; each is read from its file when it is asked for.

    Raises `UserError` when there is no safetensors file, or one cannot be read. Pickles are never
    opened: they can run code.
    """

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, Path] = {}
        self._dims: dict[str, tuple[int, ...]] = {}
        for file in _files(directory):
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - a handle, not a mapping
                    self._files[name] = file
                    self._dims[name] = tuple(tensors.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        with _open(self._files[name]) as tensors:
            value: Tensor = tensors.get_tensor(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def check(self, expected: Mapping[str, tuple[int, ...]], directory: Path) -> None:
        """Raise `UserError` unless every expected tensor is here with its dimensions; forget what
        is not expected and harmless: rotary tables, and the head of a tied model."""
        for name in [n for n in self._files if n not in expected]:
            if not name.endswith(("rotary_emb.inv_freq", "lm_head.weight")):
                raise UserError(f"{directory}: tensor {name!r} is not part of this model")
            del self._files[name], self._dims[name]
        for name, dims in expected.items():
            if name not in self._files:
                raise UserError(f"{directory}: tensor {name!r} is missing")
            if (found := self._dims[name]) != dims:
                raise UserError(
                    f"{directory}: tensor {name!r} is {found}, its config.json says {dims}"
                )


def _files(directory: Path) -> list[Path]:
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if (directory / INDEX).is_file():
        files = json.loads((directory / INDEX).read_text())["weight_map"].values()
        return [directory / file for file in dict.fromkeys(files)]
    pickles = sorted(p.name for p in directory.glob("pytorch_model*.bin"))
    if pickles:
        raise UserError(
            f"{directory} holds pickled weights ({pickles[0]}), which can run code when opened; "
            "convert them to safetensors first (transformers: model.save_pretrained)"
        )
    raise UserError(f"{directory} holds no weights; {SINGLE} or {INDEX} is valid")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}") from error


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
