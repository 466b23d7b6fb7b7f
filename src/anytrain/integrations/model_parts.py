"""Averages of a model in parts, in the checkpoints of `torch.distributed` (DCP): `PartsAverages`.

A pipeline's process has several parts of a model, each perhaps sharded. Their averages move after
an optimizer's step and are saved as distributed tensors cut as the parameters are, so that another
number of processes can load them.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from anytrain import rules as rule_book
from anytrain.averaging import canonical_tensors
from anytrain.integrations.trainable import TrainableAverages
from anytrain.rules import Rule
from anytrain.training.sharding import like

KEY = "anytrain"  # of our state in a checkpoint


class PartsAverages:
    """The averages of every part, under one clock; a `Stateful` of DCP."""

    def __init__(self, parts: Sequence[nn.Module], rules: Mapping[str, Rule | str]) -> None:
        self.parts = [TrainableAverages(part, rule_book.named(rules)) for part in parts]

    @property
    def rules(self) -> dict[str, Rule]:
        return self.parts[0].rules

    @property
    def t(self) -> float:
        return self.parts[0].t

    def follow(self, optimizer: Optimizer) -> None:
        """Move after each of its steps, the first time from the weights that step began with.

        These need not be the ones the averages were made of: a checkpoint of weights alone, or
        without averages, may have been loaded since.
        """
        optimizer.register_step_pre_hook(lambda *_: self._begin())
        optimizer.register_step_post_hook(lambda *_: self._update())

    @torch.no_grad()
    def _begin(self) -> None:
        if self.t:
            return
        for part in self.parts:
            live = part.live()
            for tensors in part.tensors.values():
                for name, tensor in tensors.items():
                    tensor.copy_(live[name])

    def _update(self) -> None:
        for part in self.parts:
            part.update()

    @contextlib.contextmanager
    def applied(self, name: str) -> Iterator[None]:
        """Inside, every part has the weights of one average; the raw ones return on every exit."""
        with contextlib.ExitStack() as swaps:
            for part in self.parts:
                swaps.enter_context(part.applied(name))
            yield

    def state_dict(self) -> dict[str, Any]:
        """The clock, rules as text and tensors, distributed ones where the parameters are."""
        first = self.parts[0].state_dict()  # an error while an average is in the model
        state = {key: first[key] for key in ("t", "since", "rules")}
        return {**state, "tensors": {name: self._tensors(name) for name in self.rules}}

    def _tensors(self, name: str) -> dict[str, Tensor]:
        return {
            key: like(tensor, canonical_tensors(part.model)[key])
            for part in self.parts
            for key, tensor in part.tensors[name].items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore in place. ValueError for averages of other names or rules."""
        for part in self.parts:
            part.require_raw("load")
        rule_book.require_same(self.rules, state["rules"], "the checkpoint")
        for name in self.rules:
            for key, tensor in self._tensors(name).items():
                tensor.copy_(state["tensors"][name][key])
        for part in self.parts:
            part.t = float(state["t"])
            part.since = {name: float(t) for name, t in state["since"].items()}


def average(checkpoint: str | Path, name: str) -> dict[str, Tensor]:
    """A stored average, whole, on the CPU, by the names of the model; for one process.

    ValueError where the checkpoint has none of this name.
    """
    reader = FileSystemReader(checkpoint)
    prefix = f"{KEY}.averages.tensors.{name}."
    stored = reader.read_metadata().state_dict_metadata
    found: dict[str, Any] = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in stored.items()
        if key.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
    }
    if not found:
        raise ValueError(f"{checkpoint} holds no average {name!r}")
    load(found, storage_reader=reader, no_dist=True)
    return {key.removeprefix(prefix): tensor for key, tensor in found.items()}
