"""Validation loss with its standard error, of the raw weights and of every average."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from anytrain.errors import UserError
from anytrain.training.run import Run
from anytrain.training.tables import Split


@dataclass(frozen=True)
class Loss:
    """Mean validation loss of one set of weights."""

    mean: float  # nats/token
    stderr: float  # of the mean, over sequences
    each: Tensor = field(compare=False, repr=False)  # of every sequence (N,), float64

    @classmethod
    def of(cls, each: Tensor) -> "Loss":
        """From the loss of every sequence (N,)."""
        each = each.double().cpu()
        spread = float(each.std(correction=1)) if len(each) > 1 else 0.0
        return cls(float(each.mean()), spread / sqrt(len(each)), each)


def half(held_out: Tensor, split: Split) -> Tensor:
    """The `selection` or the `report` half of held-out sequences, every other one; or `all`.

    Choosing on sequences and reporting on the same ones flatters what was chosen; both halves are
    from everywhere in the held-out text. UserError where they are too few.
    """
    if split == "all":
        return held_out
    if len(held_out) < 4:
        raise UserError(f"{len(held_out)} held-out sequences cannot be split; 4 or more can")
    return held_out[{"selection": 0, "report": 1}[split] :: 2]


def candidates(run: Run) -> list[str]:
    """The weights a run can be evaluated with: raw, each average, Schedule-Free's x."""
    free = ["schedule_free"] if run.optimizer.kind == "schedule_free" else []
    return ["raw", *free, *run.averages.rules]


def weights_of(run: Run, name: str) -> AbstractContextManager[Any]:
    """Inside, the model has the named weights; the raw ones return on every exit."""
    if name == "schedule_free":
        return run.averages.showing(name, run.optimizer.schedule_free_weights())
    return run.averages.applied(name)


def evaluate(run: Run, held_out: Tensor, names: Iterable[str]) -> dict[str, Loss]:
    """Loss of each named set of weights on the held-out sequences (N, T + 1)."""
    found = {}
    for name in names:
        with weights_of(run, name):
            found[name] = validation_loss(run, held_out)
    return found


@torch.no_grad()
def validation_loss(run: Run, held_out: Tensor) -> Loss:
    """Mean over sequences of the mean loss of each, with the weights the model has now.

    Of several processes each computes as many as the others, some of the last ones twice.
    """
    share = -(-len(held_out) // run.world.size)
    numbers = torch.arange(run.world.rank * share, (run.world.rank + 1) * share)
    mine = held_out[numbers.clamp(max=len(held_out) - 1)]
    each = torch.cat([sequence_losses(run, part) for part in mine.split(run.micro_batch)])
    return Loss.of(run.world.gathered(each)[: len(held_out)])


def sequence_losses(run: Run, part: Tensor) -> Tensor:
    """Mean loss of each of a few sequences (n, T + 1) -> (n,), with the weights of now."""
    part = part.to(run.device)
    tokens, targets = part[:, :-1], part[:, 1:]
    with run.autocast():
        losses: Tensor = run.model.losses(tokens, targets, run.documents(tokens))
    return losses
