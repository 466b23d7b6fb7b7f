"""A moment of a run that no checkpoint kept: trained again, to the same bits."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from anytrain.data.stream import Pin, TrainingData
from anytrain.errors import UserError
from anytrain.files import Record
from anytrain.grammar import Quantity, short_count
from anytrain.references import open_weights
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import checkpoint, recipes, start
from anytrain.training.cadence import reached
from anytrain.training.config import Recipe
from anytrain.training.loop import train
from anytrain.training.pretrain import build
from anytrain.training.rewind import go_past, rewinds
from anytrain.training.run import Run


@contextmanager
def checkpoint_at(
    parent: RunDir, old: Recipe, when: Any, out: Path, say: Callable[[str], Any]
) -> Iterator[Checkpoint]:
    """The parent's checkpoint at a moment, replayed into a scratch directory if there is none."""
    try:
        found = parent.find(when)
    except UserError:
        if isinstance(when, str):
            raise
        scratch = RunDir(out.with_name(f".{out.name}.replay"))
        try:
            yield _replay(parent, old, when, scratch, say)
        finally:
            shutil.rmtree(scratch.path, ignore_errors=True)
        return
    with found.pinned():
        found.verify()
        yield found


def _replay(
    parent: RunDir, old: Recipe, when: Quantity, scratch: RunDir, say: Callable[[str], Any]
) -> Checkpoint:
    """Train again from the nearest earlier checkpoint: the data order makes it the same run."""
    last = parent.checkpoints()[-1:]
    earlier = [c for c in parent.checkpoints() if _place(c, when) <= when.amount]
    if last and when.unit != "seconds" and _place(last[0], when) < when.amount:
        raise UserError(
            f"{parent.path} is at step {last[0].step} ({last[0].tokens} tokens), before {when}; "
            f"first: anytrain train --run {parent.path} --until {when}"
        )
    beyond = when.unit == "seconds" or not last
    if beyond or (not earlier and parent.identity["parent"] is not None):
        parent.find(when)  # raises, and lists what there is
    changes, rewound = parent.changes(), rewinds(parent)
    begin = earlier[-1] if earlier else None
    recipe = _recipe_at(begin, old, changes)
    say(_cost(recipe, when, begin.step if begin else 0))
    run, data = _begin(parent, recipe, begin)
    while not reached(when, run.clock):
        for change in changes:
            if change["step"] == run.clock.step:
                run.follow(_changed(run.recipe, change["settings"], 1))
        go_past(run, rewound)
        _step(run, data)
    shutil.rmtree(scratch.path, ignore_errors=True)  # what a replay that was killed left
    scratch.checkpoint_root.mkdir(parents=True)
    return checkpoint.save(run, scratch)


def _recipe_at(begin: Checkpoint | None, old: Recipe, changes: Sequence[Record]) -> Recipe:
    """The recipe as it was at the checkpoint to begin from, or at step 0."""
    if begin is not None:
        return recipes.recipe(begin.state["recipe"], str(begin.path))
    for change in reversed(changes):
        old = _changed(old, change["settings"], 0)
    return old


def _cost(recipe: Recipe, when: Quantity, begin: int) -> str:
    per_step = recipe.train.batch * recipe.train.context
    steps = (when.amount if when.unit == "steps" else when.amount / per_step) - begin
    flops = steps * per_step * recipe.model.flops_per_token(recipe.train.context)
    return (
        f"no checkpoint at {when}: replaying about {steps:.0f} steps "
        f"({short_count(round(steps * per_step))} tokens, {flops:.2g} FLOPs) from step {begin}"
    )


def _begin(parent: RunDir, recipe: Recipe, begin: Checkpoint | None) -> tuple[Run, TrainingData]:
    start.set_determinism(recipe)
    data = start.open_data(recipe, [Pin.from_json(pin) for pin in parent.identity["data"]])
    run = build(recipe, data)
    if begin is not None:
        with begin.pinned():
            begin.verify()
            checkpoint.load(run, begin)
    elif recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            run = build(recipe, data, weights.tensors)
    return run, data


def _step(run: Run, data: TrainingData) -> None:
    batch = torch.from_numpy(data.batch(run.clock.samples, run.recipe.train.batch))
    next(train(run, [batch], run.recipe.built_schedule()))


def _changed(recipe: Recipe, settings: Mapping[str, Any], side: int) -> Recipe:
    """The recipe before (0) or after (1) a recorded change, of what a replay has to follow."""
    tables = recipe.table()
    for key, pair in settings.items():
        table, _, name = key.partition(".")
        if table in ("averages", "snapshots") or key in ("train.batch", "train.reference_batch"):
            inner = tables.setdefault(table, {})
            if pair[side] is None:
                inner.pop(name, None)
            else:
                inner[name] = pair[side]
    if not tables.get("snapshots"):
        tables.pop("snapshots", None)
    return recipes.recipe(tables, recipe.name)


def _place(found: Checkpoint, when: Quantity) -> float:
    return found.step if when.unit == "steps" else found.tokens
