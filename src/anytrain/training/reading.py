"""The tensors of a checkpoint, whole or the rows that one process has; one at a time."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.headers import of_checkpoint
from anytrain.layout import SIZES, Entry
from anytrain.rundir import Checkpoint
from anytrain.training.sharding import place

TYPES = {  # of tensors, by their names in safetensors files
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class Parts(Mapping[str, Tensor]):
    """The part of every tensor that belongs to this process, read when it is asked for.

    However many processes wrote the checkpoint: `parameters` say how the tensors of each name are
    cut here. Without them, whole tensors.
    """

    def __init__(
        self, checkpoint: Checkpoint, parameters: Mapping[str, Tensor] | None = None
    ) -> None:
        self.entries = of_checkpoint(checkpoint)
        self.parameters = parameters or {}

    def __getitem__(self, key: str) -> Tensor:
        entry = self.entries[key]
        parameter = self.parameters.get(parameter_of(key))
        if parameter is None or not entry.shape:
            return rows(entry, 0, entry.shape[0] if entry.shape else 1)
        here = place(parameter)
        if here.shape != entry.shape:
            raise UserError(
                f"{entry.boxes[0].file}: {key} is {entry.shape}, the run's model has {here.shape}"
            )
        return rows(entry, here.first, here.first + here.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def parameter_of(key: str) -> str:
    """The parameter that a tensor of the state belongs to: `average/ema25/NAME` -> NAME."""
    kind, _, rest = key.partition("/")
    return rest if kind == "raw" else rest.partition("/")[2]


def rows(entry: Entry, first: int, last: int) -> Tensor:
    """Rows first … last of a stored tensor; of a scalar, row 0 is all."""
    stride, size = prod(entry.shape[1:]), SIZES[entry.dtype]
    shape = (last - first, *entry.shape[1:]) if entry.shape else ()
    found = torch.empty(shape, dtype=TYPES[entry.dtype])
    raw: Any = found.view(-1).view(torch.uint8).numpy()
    start = first * stride
    for file, offset, runs in entry.parts(start, last * stride):
        with file.open("rb", buffering=0) as opened:
            opened.seek(offset)
            for low, high in runs:
                into = raw[(low - start) * size : (high - start) * size]
                if opened.readinto(memoryview(into)) != len(into):
                    raise UserError(f"{file} was truncated while it was read")
    return found
