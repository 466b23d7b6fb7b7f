"""A model as a Hugging Face directory: written whole or not at all, read without transformers."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.files import appearing
from anytrain.models.description import read_config, shape_of, write_description
from anytrain.models.shape import DecoderShape
from anytrain.models.tensors import TensorFiles, write_tensors


def write_directory(
    out: Path,
    shape: DecoderShape,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    tokenizer: Path | None = None,  # tokenizer.json, or a directory that holds it
    eot: int | None = None,  # the end-of-text token
    dtype: torch.dtype = torch.float32,
    card: str | None = None,  # README.md
    generation: Mapping[str, Any] | None = None,  # more keys of generation_config.json
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write everything `from_pretrained` needs; transformers alone is enough for Llama's shape.

    The directory appears under its name when it is complete and on the disk. Raises `UserError`
    when something is there already, and when tensors or tokenizer do not fit the shape.
    """
    with appearing(out) as draft:
        write_description(
            draft,
            shape,
            tokenizer=tokenizer,
            eot=eot,
            dtype=str(dtype).removeprefix("torch."),
            card=card,
            generation=generation,
        )
        write_tensors(draft, _fitting(tensors, shape), dtype, max_shard_bytes)


def _fitting(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], shape: DecoderShape
) -> Iterator[tuple[str, Tensor]]:
    """The tensors, each checked against the shape as it passes; at the end none may be missing."""
    missing = shape.tensors()
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        dims = missing.pop(name, None)
        if dims != tuple(tensor.shape):
            valid = "no such weight" if dims is None else f"the weight {dims}"
            raise UserError(f"tensor {name!r} is {tuple(tensor.shape)}; the model has {valid}")
        yield name, tensor
    if missing:
        raise UserError(f"tensor {next(iter(missing))!r} is missing ({len(missing)} are)")


def read_directory(path: Path) -> tuple[DecoderShape, TensorFiles]:
    """The shape and the weights, each tensor read when it is asked for.

    Accepts Llama's directories and our own; no code in them is run. Raises `UserError` that names
    the file and key for a model this decoder cannot compute exactly.
    """
    shape = shape_of(read_config(path), path / "config.json")
    tensors = TensorFiles.of(path)
    tensors.check(shape, path)
    return shape, tensors
