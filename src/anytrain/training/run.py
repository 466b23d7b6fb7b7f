"""A run as a value: everything that can influence the next step, and nothing else."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from anytrain import rules as rule_book
from anytrain import schedules
from anytrain.averaging import Averages, canonical_tensors
from anytrain.models.decoder import Decoder
from anytrain.training.config import Recipe
from anytrain.training.optimizers import Optimizers, optimizers


@dataclass
class Clock:
    """How far a run is. `t` is tokens over those of a reference step, the others count."""

    step: int = 0  # optimizer steps
    t: float = 0.0  # steps at the reference batch
    tokens: int = 0
    samples: int = 0  # sequences read: the data order's only state


@dataclass
class Run:
    """Model, optimizer, averages and clock of one run, consistent between any two steps."""

    recipe: Recipe
    model: Decoder
    optimizer: Optimizers
    averages: Averages
    clock: Clock
    micro_batch: int  # sequences at once
    eot: int | None = None  # ends a document, for the document mask

    @classmethod
    def start(cls, recipe: Recipe, model: Decoder, micro_batch: int, eot: int | None) -> "Run":
        """A run at step 0; averages begin as copies of the weights."""
        peak = schedules.peak(recipe.built_schedule()) or 1.0
        optimizer = optimizers(recipe.optimizer, model, peak)
        averages = Averages(model, recipe.built_rules())
        return cls(recipe, model, optimizer, averages, Clock(), micro_batch, eot)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass; weights, gradients and averages are fp32."""
        bf16 = self.recipe.train.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def documents(self, tokens: Tensor) -> Tensor | None:
        """Number of the document each token of (B, T) is in, or None without a document mask."""
        if not self.recipe.data.document_mask or self.eot is None:
            return None
        ends = (tokens == self.eot).long()
        return ends.cumsum(dim=1) - ends  # an end-of-text belongs to the document it ends

    def advance(self) -> None:
        """One step was taken: counters and averages move together."""
        train = self.recipe.train
        self.clock.t = self.next_t()
        self.clock.step += 1
        self.clock.samples += train.batch
        self.clock.tokens += train.batch * train.context
        self.averages.update(train.dt, self.clock.t)

    def next_t(self) -> float:
        """t after the next step: from whole numbers of tokens, so that no rounding adds up."""
        train = self.recipe.train
        return (self.clock.tokens + train.batch * train.context) / train.tokens_per_step

    # --- the complete state -------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state: raw/NAME, average/AVERAGE/NAME, optimizer/KEY/NAME, rng/…."""
        found = {f"raw/{name}": t.detach() for name, t in canonical_tensors(self.model).items()}
        for average, tensors in self.averages.state_dict()["tensors"].items():
            found |= {f"average/{average}/{name}": tensor for name, tensor in tensors.items()}
        found |= {f"optimizer/{path}": tensor for path, tensor in self.optimizer.tensors().items()}
        found["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def state(self) -> dict[str, Any]:
        """Everything of the state that is not a tensor, as plain data."""
        averages = self.averages.state_dict()
        return {
            "clock": asdict(self.clock),
            "averages": {key: averages[key] for key in ("t", "since", "rules")},
            "optimizer": self.optimizer.numbers(),
            "recipe": self.recipe.table(),
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Become the run that `tensors` and `state` were taken from.

        Averages follow the recipe: one that the state lacks begins here, one that the recipe no
        longer asks for is dropped. An optimizer of another kind (in a fork) begins afresh.
        """
        for name, tensor in canonical_tensors(self.model).items():
            tensor.copy_(tensors[f"raw/{name}"])
        self.clock = Clock(**state["clock"])
        self._restore_averages(tensors, state["averages"])
        prefix = "optimizer/"
        if state["recipe"]["optimizer"]["kind"] == self.optimizer.kind:
            self.optimizer.restore(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)},
                state["optimizer"],
            )
        torch.set_rng_state(tensors["rng/cpu"].cpu())
        if self.device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"].cpu(), self.device)

    def _restore_averages(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.averages = Averages(self.model, {})
        self.averages.t = float(state["t"])
        for name, rule in self.recipe.built_rules().items():
            self.averages.add(name, rule)  # a copy of the weights, labelled with t
            if state["rules"].get(name) != rule_book.spec(rule):
                continue
            self.averages.since[name] = float(state["since"][name])
            for key, average in self.averages.tensors[name].items():
                average.copy_(tensors[f"average/{name}/{key}"])
