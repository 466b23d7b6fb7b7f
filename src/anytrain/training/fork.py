"""A new run from an old one's complete state: a cooldown, another schedule, other data."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anytrain import schedules
from anytrain.data.stream import Pin, TrainingData
from anytrain.errors import UserError
from anytrain.grammar import Quantity, WeightsName, short_count
from anytrain.rundir import Checkpoint, RunDir, sha256
from anytrain.schedules import Cooldown, HorizonBound, Shape
from anytrain.training import checkpoint, recipes, start
from anytrain.training.cadence import reached
from anytrain.training.config import Recipe
from anytrain.training.loop import train
from anytrain.training.pretrain import build
from anytrain.training.run import Run
from anytrain.weights import open_weights

# What a fork may not change: the state it begins from would not fit, or not mean the same.
_FIXED = ("model.", "train.context")


@dataclass(frozen=True)
class Branch:
    """A cooldown: the last `fraction` of a run that ends at `end`."""

    fraction: float  # of the branch's total, so that everything compares at equal total tokens
    end: Quantity | None  # None: where a fork at WHEN would end
    shape: Shape = "sqrt"
    final: float = 0.0  # fraction of the rate at its start

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UserError(f"--cooldown {self.fraction:g}; above 0% and below 100% is valid")


def fork(
    name: WeightsName,
    out: Path,
    settings: Sequence[str] = (),
    branch: Branch | None = None,
    say: Callable[[str], Any] = print,
    imports: Mapping[str, str] | None = None,
) -> Recipe:
    """Create the run `out` from `name`'s checkpoint; a moment without one is reached by replay.

    Returns the new run's recipe. Nothing is left behind on an error.
    """
    parent, target = RunDir.open(name.run), RunDir(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty; choose another --out")
    old = recipes.recipe(parent.recipe, str(parent.path))
    when = name.when
    if branch is not None:
        when = _branch_point(old, name, branch)
    table = recipes.override(old.table(), settings)
    with _checkpoint_at(parent, old, when, out, say) as found:
        if branch is not None:
            table["schedule"] = schedules.spec(_cooldown(old, found, branch, when))
        new = _checked(old, recipes.recipe(table, f"fork of {parent.path}"))
        _create(parent, old, found, target, new, imports or {})
    return new


def _branch_point(old: Recipe, name: WeightsName, branch: Branch) -> Quantity:
    """Where the cooldown begins: at (1 − fraction) of its end."""
    schedule = old.built_schedule()
    if isinstance(schedule, HorizonBound):
        raise UserError(
            f"{name.run} trains with {old.schedule}, which ends by itself; a cooldown forks from "
            "a schedule without a horizon"
        )
    if branch.end is None and isinstance(name.when, str):
        raise UserError("a cooldown needs --end MOMENT, or RUN@WHEN to begin at")
    if branch.end is None:
        assert isinstance(name.when, Quantity)
        return name.when
    point = dataclasses.replace(branch.end, amount=branch.end.amount * (1.0 - branch.fraction))
    point = dataclasses.replace(point, amount=float(round(point.amount, 6)))
    if isinstance(name.when, Quantity) and name.when != point:
        raise UserError(
            f"a cooldown over the last {branch.fraction:.0%} of {branch.end} begins at {point}, "
            f"not at {name.when}; leave out one of the two"
        )
    return point


def _cooldown(old: Recipe, found: Checkpoint, branch: Branch, when: Any) -> Cooldown:
    begin = float(found.manifest["t"])
    if branch.end is None:
        end = begin / (1.0 - branch.fraction)
    else:
        end = branch.end.steps(old.train.tokens_per_step)
    trunk = old.built_schedule()
    return Cooldown(horizon=end, trunk=trunk, start=begin, shape=branch.shape, final=branch.final)


def _checked(old: Recipe, new: Recipe) -> Recipe:
    """The fork's recipe, if its differences are such that the old state fits."""
    if new.train.batch != old.train.batch:
        reference = old.train.reference_batch or old.train.batch
        new = dataclasses.replace(
            new, train=dataclasses.replace(new.train, reference_batch=reference)
        )
    if new.train.reference != old.train.reference:
        raise UserError(
            f"train.reference_batch = {new.train.reference} cannot change in a fork: it is the "
            f"unit of the run's clock, {old.train.reference} sequences a step"
        )
    for key in start.differences(old, new):
        if key.startswith(_FIXED):
            raise UserError(f"{key} cannot change in a fork: the run's weights would not fit")
    return new


# --- the checkpoint to begin from ------------------------------------------------------------


@contextmanager
def _checkpoint_at(
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
    if when.unit == "seconds" or not last or _place(last[0], when) < when.amount:
        parent.find(when)  # raises, and lists what there is
    earlier = [c for c in parent.checkpoints() if _place(c, when) <= when.amount]
    changes = [e for e in parent.events() if e["event"] == "changed"]
    recipe, begin = old, 0
    for change in reversed(changes):
        recipe = _changed(recipe, change["settings"], 0)
    if not earlier and parent.identity["parent"] is not None:
        parent.find(when)  # raises: what it began from is not kept
    if earlier:
        recipe = recipes.recipe(earlier[-1].state["recipe"], str(earlier[-1].path))
        begin = earlier[-1].step
    per_step = recipe.train.batch * recipe.train.context
    steps = (when.amount if when.unit == "steps" else when.amount / per_step) - begin
    flops = steps * per_step * recipe.model.flops_per_token(recipe.train.context)
    say(
        f"no checkpoint at {when}: replaying about {steps:.0f} steps "
        f"({short_count(round(steps * per_step))} tokens, {flops:.2g} FLOPs) from step {begin}"
    )
    start.set_determinism(recipe)
    data = start.open_data(recipe, [Pin.from_json(pin) for pin in parent.identity["data"]])
    run = build(recipe, data)
    if earlier:
        with earlier[-1].pinned():
            earlier[-1].verify()
            checkpoint.load(run, earlier[-1])
    elif recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            run = build(recipe, data, weights.tensors)
    while not reached(when, run.clock):
        for change in changes:
            if change["step"] == run.clock.step:
                _follow(run, _changed(run.recipe, change["settings"], 1))
        _step(run, data)
    scratch.checkpoint_root.mkdir(parents=True, exist_ok=True)
    return checkpoint.save(run, scratch)


def _step(run: Run, data: TrainingData) -> None:
    batch = torch.from_numpy(data.batch(run.clock.samples, run.recipe.train.batch))
    next(train(run, [batch], run.recipe.built_schedule()))


def _changed(recipe: Recipe, settings: Mapping[str, Any], side: int) -> Recipe:
    """The recipe before (0) or after (1) a recorded change, of what a replay has to follow."""
    averages, sizes = dict(recipe.averages), {}
    for key, pair in settings.items():
        table, _, name = key.partition(".")
        if table == "averages" and pair[side] is None:
            averages.pop(name, None)
        elif table == "averages":
            averages[name] = pair[side]
        elif key in ("train.batch", "train.reference_batch"):
            sizes[name] = pair[side]
    train_ = dataclasses.replace(recipe.train, **sizes)
    return dataclasses.replace(recipe, averages=averages, train=train_)


def _follow(run: Run, recipe: Recipe) -> None:
    """Go on with a recipe that changed here: averages end and begin as they did."""
    rules, run.recipe = recipe.built_rules(), recipe
    for name, rule in list(run.averages.rules.items()):
        if rules.get(name) != rule:
            run.averages.remove(name)
    for name, rule in rules.items():
        if name not in run.averages.rules:
            run.averages.add(name, rule)


def _place(found: Checkpoint, when: Quantity) -> float:
    return found.step if when.unit == "steps" else found.tokens


# --- the new run -----------------------------------------------------------------------------


def _create(
    parent: RunDir,
    old: Recipe,
    found: Checkpoint,
    target: RunDir,
    new: Recipe,
    imports: Mapping[str, str],
) -> None:
    """Identity, recipe and checkpoint of the fork, `run.json` last."""
    same_data = (old.data, old.train.seed) == (new.data, new.train.seed)
    identity = parent.identity
    pins = [Pin.from_json(pin) for pin in identity["data"]] if same_data else None
    data = start.open_data(new, pins)
    start.check_tokenizer(data, parent.path / "tokenizer.json", str(parent.path))
    try:
        path = target.checkpoint_path(found.step)
        path.mkdir(parents=True)
        _copy_checkpoint(found, path, samples=None if same_data else 0)
        start.create(
            target,
            new,
            data,
            {**identity["imports"], **imports},
            parent={
                "path": str(parent.path),
                "id": identity["id"],
                "step": found.step,
                "tokens": found.tokens,
            },
            changes=start.differences(old, new),
        )
    except BaseException:
        shutil.rmtree(target.path, ignore_errors=True)
        raise


def _copy_checkpoint(found: Checkpoint, path: Path, samples: int | None) -> None:
    """The checkpoint's files, linked where the filesystem can; other data begin at sample 0."""
    for name in [*found.manifest["files"], "manifest.json"]:
        try:
            os.link(found.path / name, path / name)
        except OSError:
            shutil.copy2(found.path / name, path / name)
    if samples is None:
        return
    state = found.state
    state["clock"]["samples"] = samples
    manifest = dict(found.manifest)
    for name, content in (("state.json", state), ("manifest.json", manifest)):
        (path / name).unlink()  # a link shares its bytes with the parent
        (path / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if name == "state.json":
            entry = {"bytes": (path / name).stat().st_size, "sha256": sha256(path / name)}
            manifest["files"] = manifest["files"] | {name: entry}
