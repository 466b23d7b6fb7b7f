"""The tensors of a checkpoint, whole or the rows that one process has; one at a time."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from anytrain.errors import UserError
from anytrain.headers import of_checkpoint
from anytrain.models.tensors import rows
from anytrain.rundir import Checkpoint
from anytrain.training.sharding import place


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
            return rows(entry)
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
