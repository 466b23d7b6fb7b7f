"""`RUN@WHEN:WEIGHTS` -> tensors: the one way every verb names weights.

A Hugging Face directory is accepted wherever a run is. A reader pins the checkpoint it reads, so
that a run that is training does not delete it meanwhile.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anytrain.averaging import schedule_free
from anytrain.errors import UserError
from anytrain.grammar import weights_name
from anytrain.models.description import end_of_text
from anytrain.models.huggingface import read_directory
from anytrain.models.shape import DecoderShape
from anytrain.origins import Origin, choose
from anytrain.rundir import Checkpoint, RunDir


@dataclass(frozen=True)
class Weights:
    """One set of weights and what is needed to use it."""

    source: str  # runs/a@2000:ema25, or a directory
    shape: DecoderShape
    tensors: Mapping[str, Tensor]  # read when asked for
    tokenizer: Path | None
    eot: int | None
    origin: Origin | None = None  # None for a Hugging Face directory


@contextmanager
def open_weights(text: str) -> Iterator[Weights]:
    """The weights a text names, for as long as the context is open."""
    name = weights_name(text)
    path = Path(name.run)
    if (path / "config.json").is_file():
        if name.when != "latest" or name.weights != "best":
            raise UserError(f"{text}: {path} is one model, it has no moments and no averages")
        shape, tensors = read_directory(path)
        tokenizer = path / "tokenizer.json"
        eot = end_of_text(path)
        yield Weights(str(path), shape, tensors, tokenizer if tokenizer.is_file() else None, eot)
        return
    run = RunDir.open(path)
    with run.find(name.when).pinned() as checkpoint, ExitStack() as files:
        checkpoint.verify(checksums=False)
        yield _of_run(run, checkpoint, name.weights, files)


def _of_run(run: RunDir, checkpoint: Checkpoint, asked: str, files: ExitStack) -> Weights:
    origin = choose(run, checkpoint, asked)
    chosen, identity, recipe = origin.chosen, run.identity, run.recipe
    stored = _Stored(checkpoint, files)
    tensors: Mapping[str, Tensor]
    if chosen == "schedule_free":
        tensors = _ScheduleFree(stored, float(recipe["optimizer"]["beta1"]))
    else:
        prefix = "raw/" if chosen == "raw" else f"average/{chosen}/"
        tensors = _Group(stored, prefix)
    tokenizer = run.path / "tokenizer.json"
    return Weights(
        f"{run.path}@{checkpoint.step}:{chosen}",
        DecoderShape(**recipe["model"]),
        tensors,
        tokenizer if tokenizer.is_file() else None,
        identity.get("eot"),
        origin,
    )


class _Stored:
    """Tensors of a checkpoint by key, opened lazily, shards of several ranks put together."""

    def __init__(self, checkpoint: Checkpoint, stack: ExitStack) -> None:
        # key -> [(open file, offset of its piece)]
        self.pieces: dict[str, list[tuple[Any, list[int]]]] = {}
        for name in checkpoint.manifest["files"]:
            if not name.endswith(".safetensors"):
                continue
            path = checkpoint.path / name
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
                offsets = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            except (SafetensorError, ValueError) as error:
                raise UserError(f"{path} is damaged: {error}") from error
            for key in file.keys():  # noqa: SIM118  it is no mapping
                at = offsets.get(key, {}).get("saved_offsets", [])
                self.pieces.setdefault(key, []).append((file, at))

    def __getitem__(self, key: str) -> Tensor:
        pieces = self.pieces[key]
        if len(pieces) == 1:
            return pieces[0][0].get_tensor(key)
        parts = [(file.get_tensor(key), at) for file, at in pieces]
        ndim = parts[0][0].ndim
        size = [max(at[d] + part.shape[d] for part, at in parts) for d in range(ndim)]
        whole = torch.empty(size, dtype=parts[0][0].dtype)
        for part, at in parts:
            whole[tuple(slice(o, o + n) for o, n in zip(at, part.shape, strict=True))] = part
        return whole


class _Group(Mapping[str, Tensor]):
    """The tensors under one prefix, by their names in the model."""

    def __init__(self, stored: _Stored, prefix: str) -> None:
        self.stored, self.prefix = stored, prefix
        self.names = [k.removeprefix(prefix) for k in stored.pieces if k.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class _ScheduleFree(_Group):
    """x, from the live weights y and the optimizer's z."""

    def __init__(self, stored: _Stored, beta1: float) -> None:
        super().__init__(stored, "raw/")
        self.beta1 = beta1

    def __getitem__(self, name: str) -> Tensor:
        y = self.stored[f"raw/{name}"]
        if f"optimizer/z/{name}" not in self.stored.pieces:
            return y
        return schedule_free(y, self.stored[f"optimizer/z/{name}"], self.beta1)
