"""What checkpoints cost a training: the time it is held up, and how much slower its steps are.

python -m benchmarks.checkpoint                                       (about a minute)

A decoder with AdamW and five averages trains on one thread, on random tokens, in this process;
its checkpoints are written to the directory for temporary files. In every round the state is
copied once with `copy_`, then a checkpoint is begun, then come steps for as long as it is written,
then as many with nothing beside them. All by the wall clock, since what a thread beside costs is
waiting, for memory and for the interpreter. Steps are without the time in which this thread was
ready to run and other processes had the core, as Linux counts it; with it, they are in the check.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from anytrain.models.decoder import Decoder
from anytrain.rundir import RunDir
from anytrain.training import checkpoint, recipes
from anytrain.training.background import Saver
from anytrain.training.cadence import Cadence
from anytrain.training.loop import train
from anytrain.training.run import Run
from benchmarks.harness import Row, Target, cpu_name, report

ROUNDS = 9
STEPS = 4  # a round, at most, with and without a checkpoint beside them

TABLE = {
    "name": "benchmark",
    "schedule": "constant:peak=1e-3",
    "model": {"layers": 4, "width": 384, "heads": 6, "vocab": 12_000},
    "train": {"batch": 2, "context": 128, "micro_batch": 2},
    "data": {"path": "random"},
    "checkpoint": {"newest": 1},
}


def begin() -> Run:
    """A run after its first step: before it, the optimizer has no state."""
    recipe = recipes.recipe(TABLE)
    model = Decoder.seeded(recipe.model, 0, torch.device("cpu"))
    run = Run.start(recipe, model, recipe.train.batch, eot=None)
    next(train(run, batches(run), recipe.built_schedule()))
    return run


def batches(run: Run) -> Iterator[Tensor]:
    """Random tokens (B, T + 1), for ever."""
    shape, there = run.recipe.train, torch.Generator().manual_seed(0)
    size = (shape.batch, shape.context + 1)
    while True:
        yield torch.randint(run.model.shape.tokens, size, generator=there)


class Step(NamedTuple):
    """One step's time."""

    wall: float  # seconds
    running: float  # seconds, without those in which others had the core


class Rounds(NamedTuple):
    """What was timed, a number or several from every round."""

    copy: list[float]  # seconds
    blocked: list[float]  # seconds
    beside: list[Step]  # while a checkpoint was written
    alone: list[Step]


def rounds(run: Run, rundir: RunDir) -> Rounds:
    """A copy, a checkpoint with steps beside it, as many steps alone; again and again."""
    saver = Saver(rundir, Cadence(run.recipe))
    steps = train(run, batches(run), run.recipe.built_schedule())
    copies = {name: torch.zeros_like(tensor) for name, tensor in run.tensors().items()}
    found = Rounds([], [], [], [])
    for number in range(ROUNDS + 1):
        if number == 1:  # the first was a rehearsal: it allocates what the others use again
            found = Rounds([], [], [], [])
        start = perf_counter()
        for name, tensor in run.tensors().items():
            copies[name].copy_(tensor)
        found.copy.append(perf_counter() - start)
        start = perf_counter()
        saver.save(run)
        found.blocked.append(perf_counter() - start)
        beside: list[Step] = []
        while len(beside) < STEPS and not saver.done:
            beside.append(timed(steps))
            if saver.done:  # during this step
                beside.pop()
        saver.wait()
        found.beside.extend(beside)
        found.alone.extend(timed(steps) for _ in beside)
    return found


def timed(steps: Iterator[object]) -> Step:
    start, kept = perf_counter(), waited()
    next(steps)
    wall = perf_counter() - start
    return Step(wall, wall - (waited() - kept))


def waited() -> float:
    """Seconds for which this thread has been ready to run and had no core; 0 where unknown."""
    path = Path("/proc/thread-self/schedstat")  # ns on a core, ns ready for one, turns
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


def equal(run: Run, rundir: RunDir, other: RunDir) -> str:
    """That a checkpoint written beside training is what one written before it would be."""
    before = checkpoint.save(run, other)
    saver = Saver(rundir, Cadence(run.recipe))
    saver.save(run)
    next(train(run, batches(run), run.recipe.built_schedule()))
    saver.wait()
    beside = rundir.checkpoints()[-1]
    assert beside.step == before.step == run.clock.step - 1
    assert beside.manifest == before.manifest, "a checkpoint beside training is another"
    return f"every file of step {before.step} has the checksum of one written before going on"


def rows() -> list[Row]:
    """Row 9: checkpoints."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rundir, other = RunDir(Path(folder) / "run"), RunDir(Path(folder) / "other")
        run = begin()
        same = equal(run, rundir, other)
        found = rounds(run, rundir)
        size = rundir.checkpoints()[-1].bytes / 1e9
    beside, alone = (median(s.running for s in steps) for steps in (found.beside, found.alone))
    walls = [f"{median(s.wall for s in steps):.4g}" for steps in (found.beside, found.alone)]
    return [
        Row(
            f"checkpoint of {size:.2f} GB: held up",
            "s",
            median(found.blocked),
            same,
            {"copy": median(found.copy)},
            targets=(Target("copy", "≤", 2.0),),
        ),
        Row(
            f"step while {size:.2f} GB are written",
            "s",
            beside,
            f"{same}; with waits for a core {walls[0]} s, alone {walls[1]} s",
            {"alone": alone},
            targets=(Target("alone", "≤", 1.05),),
        ),
    ]


if __name__ == "__main__":
    report(rows(), cpu_name())
