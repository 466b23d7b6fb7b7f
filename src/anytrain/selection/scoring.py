"""Validation loss of any weights of a run, on halves of its held-out sequences.

Choosing on sequences and reporting on the same ones flatters what was chosen: `selection` and
`report` are every other sequence, so that both are from everywhere in the held-out text.
"""

import dataclasses
from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from anytrain.averaging import canonical_tensors
from anytrain.data.stream import Pin
from anytrain.rundir import RunDir
from anytrain.training import recipes, start
from anytrain.training.evaluate import half, sequence_losses
from anytrain.training.pretrain import build
from anytrain.training.tables import Split

SPLITS: tuple[Split, ...] = get_args(Split)


class Scorer:
    """A run's model and its held-out sequences; the weights come from outside."""

    def __init__(self, rundir: RunDir) -> None:
        """Build the model of a run and read its validation tokens; UserError where none are."""
        recipe = recipes.recipe(rundir.recipe, str(rundir.path))
        bare = dataclasses.replace(recipe, averages={}, snapshots=None)
        data = start.open_data(bare, [Pin.from_json(pin) for pin in rundir.identity["data"]])
        self.run = build(bare, data)
        held_out = torch.from_numpy(data.validation(int(recipe.evaluate.tokens.amount)))
        self.splits: dict[str, Tensor] = {split: half(held_out, split) for split in SPLITS}
        self.live = canonical_tensors(self.run.model)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights into the model; every one of its tensors has to be there."""
        with torch.no_grad():
            for name, tensor in self.live.items():
                tensor.copy_(tensors[name])

    @torch.no_grad()
    def losses(self, tensors: Mapping[str, Tensor], split: Split) -> Tensor:
        """The loss of each sequence of a split, nats/token: (N,), float64."""
        self.load(tensors)
        parts = self.splits[split].split(self.run.micro_batch)
        return torch.cat([sequence_losses(self.run, part) for part in parts]).double().cpu()

    def gradient(
        self, tensors: Mapping[str, Tensor], split: Split
    ) -> tuple[float, dict[str, Tensor]]:
        """Mean loss of a split and its gradient in every weight."""
        self.load(tensors)
        held_out, total = self.splits[split], 0.0
        self.run.model.zero_grad(set_to_none=True)
        for part in held_out.split(self.run.micro_batch):
            loss = sequence_losses(self.run, part).sum() / len(held_out)
            loss.backward()
            total += float(loss.detach())
        gradient = {n: p.grad for n, p in self.live.items() if p.grad is not None}
        return total, gradient
