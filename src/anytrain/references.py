"""`RUN@WHEN:WEIGHTS` -> tensors: the one way every verb names weights.

A Hugging Face directory is accepted wherever a run is. A reader pins the checkpoint it reads, so
that a run that is training does not delete it meanwhile.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anytrain.averaging import schedule_free
from anytrain.errors import UserError
from anytrain.grammar import weights_name
from anytrain.headers import of_checkpoint
from anytrain.models.description import end_of_text, made_of
from anytrain.models.huggingface import read_directory
from anytrain.models.shape import DecoderShape
from anytrain.models.tensors import TensorFiles
from anytrain.origins import Origin, choose, schedule_free_parts
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
    with run.find(name.when).pinned() as checkpoint:
        checkpoint.verify(checksums=False)
        yield _of_run(run, checkpoint, name.weights)


def _of_run(run: RunDir, checkpoint: Checkpoint, asked: str) -> Weights:
    origin = choose(run, checkpoint, asked)
    chosen, identity, recipe = origin.chosen, run.identity, run.recipe
    shape = made_of(recipe["model"], run.path / "recipe.toml")
    stored, live = of_checkpoint(checkpoint), chosen in ("raw", "schedule_free")
    found = TensorFiles(stored, "raw/" if live else f"average/{chosen}/")
    found.check(shape, checkpoint.path)
    tensors: Mapping[str, Tensor] = found
    if chosen == "schedule_free":
        _, beta1 = schedule_free_parts(run, checkpoint, stored)
        tensors = _ScheduleFree(found, TensorFiles(stored, "optimizer/z/"), beta1)
    tokenizer = run.path / "tokenizer.json"
    return Weights(
        f"{run.path}@{checkpoint.step}:{chosen}",
        shape,
        tensors,
        tokenizer if tokenizer.is_file() else None,
        identity.get("eot"),
        origin,
    )


class _ScheduleFree(Mapping[str, Tensor]):
    """x, from the live weights y and the optimizer's z."""

    def __init__(self, live: TensorFiles, fast: TensorFiles, beta1: float) -> None:
        self.live, self.fast, self.beta1 = live, fast, beta1

    def __getitem__(self, name: str) -> Tensor:
        y = self.live[name]
        return schedule_free(y, self.fast[name], self.beta1) if name in self.fast else y

    def __iter__(self) -> Iterator[str]:
        return iter(self.live)

    def __len__(self) -> int:
        return len(self.live)
