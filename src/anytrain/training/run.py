"""A run as a value: everything that can influence the next step, and nothing else."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from anytrain import rules as rule_book
from anytrain import schedules
from anytrain.averaging import Averages, canonical_tensors
from anytrain.models.decoder import Decoder
from anytrain.rules import Rule
from anytrain.training.config import Recipe
from anytrain.training.distributed import World
from anytrain.training.guard import Guard
from anytrain.training.optimizers import Optimizers, optimizers
from anytrain.training.reading import parameter_of
from anytrain.training.sharding import Place, place


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
    tracks: Averages  # what snapshots are taken of: never evaluated, never released
    clock: Clock
    micro_batch: int  # sequences at once
    eot: int | None = None  # ends a document, for the document mask
    world: World = field(default_factory=World)
    guard: Guard | None = None

    @classmethod
    def start(
        cls,
        recipe: Recipe,
        model: Decoder,
        micro_batch: int,
        eot: int | None,
        world: World | None = None,
    ) -> "Run":
        """A run at step 0; averages begin as copies of the weights."""
        peak = schedules.peak(recipe.built_schedule()) or 1.0
        optimizer = optimizers(recipe.optimizer, model, peak)
        where = averages_device(recipe)
        averages = Averages(model, recipe.built_rules(), recipe.train.average_every, where)
        tracks = Averages(model, recipe.built_tracks(), device=where)
        begun = (recipe, model, optimizer, averages, tracks, Clock(), micro_batch, eot)
        guard = Guard(recipe.guard) if recipe.guard else None
        return cls(*begun, world or World(device=next(model.parameters()).device), guard)

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
        """Step on the gradients that are there: weights, averages and counters move together."""
        train, t = self.recipe.train, self.next_t()
        moves = [*self.averages.due(train.dt, t), *self.tracks.due(train.dt, t)]
        self.optimizer.step(self.averages.live(), moves)
        self.optimizer.zero_grad()
        self.clock.t = t
        self.clock.step += 1
        self.clock.samples += train.batch
        self.clock.tokens += train.batch * train.context

    def skip(self) -> None:
        """Drop the gradients that are there: their samples were read, no step was taken."""
        self.optimizer.zero_grad()
        self.clock.samples += self.recipe.train.batch

    def next_t(self) -> float:
        """t after the next step: from whole numbers of tokens, so that no rounding adds up."""
        train = self.recipe.train
        return (self.clock.tokens + train.batch * train.context) / train.tokens_per_step

    def follow(self, recipe: Recipe) -> None:
        """Go on with a recipe that changed here: averages end, and begin as copies of the weights.

        Nothing else may differ but the batch.
        """
        self.recipe = recipe
        wanted: tuple[Mapping[str, Rule], ...] = (recipe.built_rules(), recipe.built_tracks())
        for averages, rules in zip((self.averages, self.tracks), wanted, strict=True):
            averages.t = self.clock.t
            for name in [n for n, rule in averages.rules.items() if rules.get(n) != rule]:
                averages.remove(name)
            for name in [n for n in rules if n not in averages.rules]:
                averages.add(name, rules[name])

    # --- the complete state -------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state: raw/NAME, average/AVERAGE/NAME, track/TRACK/NAME,
        optimizer/KEY/NAME, rng/…; of a sharded one the part that is here."""
        found = {f"raw/{name}": tensor for name, tensor in self.averages.live().items()}
        for kind, averages in (("average", self.averages), ("track", self.tracks)):
            for average, tensors in averages.state_dict()["tensors"].items():
                found |= {f"{kind}/{average}/{name}": tensor for name, tensor in tensors.items()}
        found |= {f"optimizer/{path}": tensor for path, tensor in self.optimizer.tensors().items()}
        found["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def places(self, tensors: Mapping[str, Tensor]) -> dict[str, Place]:
        """Where each of `tensors` lies in the whole one."""
        live = canonical_tensors(self.model)
        found = {}
        for key, tensor in tensors.items():
            parameter = live.get(parameter_of(key)) if tensor.ndim else None
            found[key] = place(tensor if parameter is None else parameter)
        return found

    def state(self) -> dict[str, Any]:
        """Everything of the state that is not a tensor, as plain data."""
        state = {
            "clock": asdict(self.clock),
            "averages": _numbers(self.averages),
            "optimizer": self.optimizer.numbers(),
            "recipe": self.recipe.table(),
        }
        if self.tracks.rules:
            state["tracks"] = _numbers(self.tracks)
        if self.guard is not None:
            state["guard"] = self.guard.state()
        return state

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Become the run that `tensors` (the parts that belong here) and `state` were taken from.

        Averages and tracks follow the recipe: one that the state lacks begins here, one that the
        recipe no longer asks for is dropped. An optimizer of another kind (in a fork) begins
        afresh.
        """
        for name, tensor in self.averages.live().items():
            tensor.copy_(tensors[f"raw/{name}"])
        self.clock = Clock(**state["clock"])
        rules, tracks = self.recipe.built_rules(), self.recipe.built_tracks()
        every = self.recipe.train.average_every
        self.averages = self._restored("average", rules, tensors, state["averages"], every)
        self.tracks = self._restored("track", tracks, tensors, state.get("tracks", {"rules": {}}))
        prefix = "optimizer/"
        if state["recipe"]["optimizer"]["kind"] == self.optimizer.kind:
            self.optimizer.restore(
                {k.removeprefix(prefix): tensors[k] for k in tensors if k.startswith(prefix)},
                state["optimizer"],
            )
        if self.guard is not None:
            self.guard.restore(state.get("guard"))
        torch.set_rng_state(tensors["rng/cpu"].cpu())
        if self.device.type == "cuda" and "rng/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng/cuda"].cpu(), self.device)

    def _restored(
        self,
        kind: str,
        rules: Mapping[str, Rule],
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        every: int = 1,
    ) -> Averages:
        """Averages by these rules: what the state has of them, the others begun here."""
        averages = Averages(self.model, {}, every, averages_device(self.recipe))
        averages.t, averages.skipped = self.clock.t, int(state.get("skipped", 0))
        for name, rule in rules.items():
            averages.add(name, rule)  # a copy of the weights, labelled with t
            if state["rules"].get(name) != rule_book.spec(rule):
                continue
            averages.since[name] = float(state["since"][name])
            averages.kept[name] = float(state["kept"][name])
            for key, average in averages.tensors[name].items():
                average.copy_(tensors[f"{kind}/{name}/{key}"])
        return averages


def averages_device(recipe: Recipe) -> str | None:
    """Where averages are kept, if not beside the weights."""
    return "cpu" if recipe.parallel.offload_averages else None


def _numbers(averages: Averages) -> dict[str, Any]:
    state = averages.state_dict()
    return {key: state[key] for key in ("t", "since", "rules", "skipped", "kept")}
