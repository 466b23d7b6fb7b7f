"""Runs that take a tenth of a second: a recipe, its steps, its command line, its every bit."""

import contextlib
import copy
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from anytrain import rules
from anytrain.cli.main import main
from anytrain.data.stream import TrainingData
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import checkpoint, recipes, start
from anytrain.training.config import Recipe
from anytrain.training.loop import Record, train
from anytrain.training.pretrain import build
from anytrain.training.run import Run

BATCH, CONTEXT = 4, 16
PER_STEP = BATCH * CONTEXT  # tokens

TABLE: dict[str, Any] = {
    "name": "tiny",
    "schedule": "inverse_sqrt:peak=1e-2,warmup=4-steps,offset=16-steps",
    "unit": "8-steps",
    "model": {"layers": 1, "width": 16, "heads": 2},
    "train": {"batch": BATCH, "context": CONTEXT, "micro_batch": BATCH},
    "averages": {"ema25": "anytime_ema:f=25", "uniform": "uniform"},
    "evaluate": {"tokens": "512-tokens", "share": 1.0},
    "checkpoint": {"every": "1h"},
}


def table(corpus: Path, **tables: Any) -> dict[str, Any]:
    """The tiny recipe on a corpus, whole tables exchanged."""
    return copy.deepcopy({**TABLE, "data": {"path": str(corpus)}, **tables})


def recipe(corpus: Path, *settings: str, **tables: Any) -> Recipe:
    """The same, checked and resolved as a first start does it."""
    made = recipes.recipe(recipes.override(table(corpus, **tables), settings))
    return start.resolved(made, start.open_data(made))


def specs(cases: Mapping[str, rules.Rule]) -> dict[str, str]:
    """Rules as a recipe has them."""
    return {name: rules.spec(rule) for name, rule in cases.items()}


# --- in the process, without a directory -----------------------------------------------------


@dataclass
class Tiny:
    """A run and its data."""

    run: Run
    data: TrainingData

    @classmethod
    def begin(cls, settings: Recipe) -> "Tiny":
        start.set_determinism(settings)
        data = start.open_data(settings)
        return cls(build(settings, data), data)

    def batches(self) -> Any:
        while True:
            size = self.run.recipe.train.batch
            yield torch.from_numpy(self.data.batch(self.run.clock.samples, size))

    def take(self, steps: int) -> list[Record]:
        """So many steps further."""
        schedule = self.run.recipe.built_schedule()
        return list(itertools.islice(train(self.run, self.batches(), schedule), steps))

    def bits(self) -> dict[str, Any]:
        return bits(self.run.tensors(), self.run.state())


def bits(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """Every bit of a state under its name: what has to be equal where states are the same."""
    found: dict[str, Any] = {name: as_bytes(tensor) for name, tensor in tensors.items()}
    return found | {f"state/{key}": json.dumps(value) for key, value in state.items()}


def as_bytes(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """Type, dimensions, and bytes: minus zero is not zero here, a NaN equals itself."""
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), raw.numpy().tobytes()


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same bit for bit; assert that it is []."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


# --- through the command line ----------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What a verb answered."""

    code: int
    out: str
    err: str


def cli(*arguments: str | Path) -> Said:
    """`anytrain ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def write_recipe(path: Path, corpus: Path, **tables: Any) -> Path:
    path.write_text(tomli_w.dumps(table(corpus, **tables)))
    return path


def steps_kept(run: Path) -> list[int]:
    return [found.step for found in RunDir(run).checkpoints()]


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a directory, but the lock of a run."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "lock"}  # fmt: skip


def at(run: Path, step: int) -> Checkpoint:
    """The checkpoint of a step, which is there."""
    return next(found for found in RunDir(run).checkpoints() if found.step == step)


def saved_bits(run: Path, step: int, without: Sequence[str] = ()) -> dict[str, Any]:
    """Every bit of a checkpoint."""
    found = at(run, step)
    state = {key: value for key, value in found.state.items() if key not in without}
    return bits(checkpoint.read_tensors(found.path), state)


def events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    return [e for e in RunDir(run).events() if kind is None or e["event"] == kind]


def losses(run: Path) -> dict[int, float]:
    """Training loss by step; each step is recorded once."""
    records = [r for r in RunDir(run).metrics() if "loss" in r]
    found = {r["step"]: r["loss"] for r in records}
    assert len(found) == len(records), "a step was recorded twice"
    return found


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [r for r in RunDir(run).metrics() if "eval_why" in r]
