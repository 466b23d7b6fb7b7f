"""From a recipe or a run directory to a sitting: what `anytrain train` does."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from anytrain import schedules
from anytrain.data.stream import Pin, TrainingData
from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.references import open_weights
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import checkpoint, recipes, start
from anytrain.training.config import Recipe
from anytrain.training.distributed import World, joined
from anytrain.training.ending import together
from anytrain.training.loggers import check_loggers, openers
from anytrain.training.mirror import check_mirror
from anytrain.training.rewind import drop_after, go_past, rewinds
from anytrain.training.run import Clock, Run
from anytrain.training.sharding import built
from anytrain.training.sitting import Sitting
from anytrain.training.stopping import Stop

EXTENDING = (
    "such a schedule cannot be extended: train with one that has no horizon (constant, "
    "inverse_sqrt, power) and fork a cooldown instead"
)


@dataclass(frozen=True)
class Request:
    """What the caller asks for."""

    path: Path  # the run directory
    recipe: str | None = None  # a shipped recipe or a file; None goes on with what is there
    settings: tuple[str, ...] = ()  # key.path=value
    new: bool = False  # fail if there is a run already
    adopt_data: bool = False  # make segments appended to the corpus visible from here on
    start_from: str | None = None  # weights to begin with
    imports: Mapping[str, str] = field(default_factory=dict)  # user modules and their hashes


@dataclass(frozen=True)
class Outcome:
    """How a sitting ended."""

    reason: str
    clock: Clock
    signalled: bool


def pretrain(request: Request, stop: Stop, say: Callable[[str], Any] = print) -> Outcome:
    """Begin a run or go on with one, until `stop` gives a reason.

    What is wrong with the input is found, and raised as a UserError, before anything is written.
    Raises `Interrupted` for a signal that comes before the first step. Of several processes one
    raises what went wrong, the others `Elsewhere`.
    """
    with stop.listening(), joined() as world, together(world, RunDir(request.path), say):
        return _train(request, stop, say if world.first else lambda line: None, world)


def _train(request: Request, stop: Stop, say: Callable[[str], Any], world: World) -> Outcome:
    """The first process reads, checks and writes what is done once; the others follow it."""
    rundir = RunDir(request.path)
    with contextlib.ExitStack() as lock:
        mine: list[tuple[Recipe, TrainingData]] = []

        def opened() -> dict[str, Any]:
            mine.append(_opened(request, rundir, stop, say, lock))
            found = checkpoint.newest_good(rundir, say)
            return {"recipe": mine[0][0].table(), "from": found.step if found else None}

        told = world.once(opened)
        recipe, data = mine[0] if mine else _following(rundir, told["recipe"], stop)
        found = None
        if told["from"] is not None:
            found = Checkpoint(rundir.checkpoint_path(told["from"]), told["from"])
        return _sit(request, rundir, recipe, data, stop, say, world, found)


def _opened(
    request: Request,
    rundir: RunDir,
    stop: Stop,
    say: Callable[[str], Any],
    lock: contextlib.ExitStack,
) -> tuple[Recipe, TrainingData]:
    """Begin the run or come back to it, with its lock held from here on."""
    _check_existence(request, rundir)
    if rundir.exists:
        lock.enter_context(rundir.locked())
        recipe, data = _come_back(request, rundir, stop, say)
    else:
        recipe, data = _begin(request, stop, say)
        lock.enter_context(rundir.locked())
        _check_existence(replace(request, new=True), rundir)  # nobody else began it
        start.create(rundir, recipe, data, request.imports)
    checkpoint.clean(rundir)
    return recipe, data


def _following(rundir: RunDir, table: dict[str, Any], stop: Stop) -> tuple[Recipe, TrainingData]:
    """What the first process has opened, in another one."""
    recipe = recipes.recipe(table, str(rundir.path))
    start.set_determinism(recipe)
    _check_stop(recipe, stop)
    return recipe, start.open_data(recipe, _pins(rundir))


def _pins(rundir: RunDir) -> list[Pin]:
    return [Pin.from_json(pin) for pin in rundir.identity["data"]]


def _begin(request: Request, stop: Stop, say: Callable[[str], Any]) -> tuple[Recipe, TrainingData]:
    """The recipe and the data of a new run, with everything checked that can be."""
    recipe = _new_recipe(request, say)
    start.set_determinism(recipe)
    data = start.open_data(recipe, say=say)
    recipe = start.resolved(recipe, data)
    _check_stop(recipe, stop)
    check_loggers(recipe)
    check_mirror(recipe, request.path)
    data.validation(int(recipe.evaluate.tokens.amount))  # a UserError where there is none
    if recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            start.check_tokenizer(data, weights.tokenizer, weights.source)
    return recipe, data


def _come_back(
    request: Request, rundir: RunDir, stop: Stop, say: Callable[[str], Any]
) -> tuple[Recipe, TrainingData]:
    """The recipe and the data of a run to go on with, checked against what it was."""
    recipe = start.reopened(rundir, request.recipe, request.settings)
    if request.start_from not in (None, recipe.start_from):
        raise UserError(
            f"--from {request.start_from}: {rundir.path} is a run already, begun from "
            f"{recipe.start_from or 'random weights'}; begin another with another --run"
        )
    start.set_determinism(recipe)
    _check_stop(recipe, stop)
    check_loggers(recipe)
    check_mirror(recipe, rundir.path)
    for note in start.check_surroundings(rundir, request.imports):
        say(note)
    data = start.open_data(recipe, _pins(rundir))
    data.validation(int(recipe.evaluate.tokens.amount))
    start.record_imports(rundir, request.imports)
    return recipe, data


def _check_existence(request: Request, rundir: RunDir) -> None:
    if rundir.exists and request.new:
        raise UserError(f"{rundir.path} is a run already; without --new it would go on")
    if not rundir.exists and request.recipe is None:
        raise UserError(
            f"{rundir.path} is not a run; name a recipe to begin one "
            f"({', '.join(recipes.shipped())}, or a TOML file)"
        )
    if rundir.path.exists() and not rundir.path.is_dir():
        raise UserError(f"{rundir.path} is a file; a run is a directory")
    if not rundir.exists and rundir.path.exists() and any(_foreign(rundir.path)):
        raise UserError(f"{rundir.path} is not a run and not empty; choose another directory")


def _foreign(path: Path) -> list[Path]:
    """What is in a directory beside what a start that was killed leaves there."""
    ours = {"lock", "recipe.toml", "checkpoints"}
    return [p for p in path.iterdir() if p.name not in ours and not p.name.startswith(".")]


def _new_recipe(request: Request, say: Callable[[str], Any]) -> Recipe:
    """The recipe asked for; begun from weights, the model has their shape."""
    recipe = recipes.load(str(request.recipe), request.settings)
    if request.start_from is None:
        return recipe
    shaped = [setting for setting in request.settings if setting.startswith("model.")]
    if shaped:
        raise UserError(f"{shaped[0]}: with --from the model has the shape of those weights")
    with open_weights(request.start_from) as weights:
        say(f"beginning from {weights.source}, whose shape replaces the recipe's [model]")
        context = max(recipe.train.context, weights.shape.context)
        shape = replace(weights.shape, context=context)
        return replace(recipe, model=shape, start_from=weights.source)


def _check_stop(recipe: Recipe, stop: Stop) -> None:
    """A schedule with a horizon ends there, and cannot be asked to go further."""
    stop.horizon = schedules.horizon(recipe.built_schedule())
    if stop.horizon is None or stop.until is None:
        return
    rebatched = recipe.train.batch != recipe.train.reference
    if stop.until.unit == "steps" and rebatched:
        return  # a step is no longer one unit of t: the run ends at its horizon all the same
    if stop.until.steps(recipe.train.tokens_per_step) > stop.horizon:
        raise UserError(
            f"--until {stop.until} lies beyond the horizon of {stop.horizon:g} steps of "
            f"{recipe.schedule}; {EXTENDING}"
        )


def _sit(
    request: Request,
    rundir: RunDir,
    recipe: Recipe,
    data: TrainingData,
    stop: Stop,
    say: Callable[[str], Any],
    world: World,
    found: Checkpoint | None,
) -> Outcome:
    """With the lock held: the run's state, then the sitting."""
    if found is None and recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            run = build(recipe, data, weights.tensors, world)
    else:
        run = build(recipe, data, world=world)
    if found is not None:
        checkpoint.load(run, found)
        go_past(run, dict(world.once(lambda: list(rewinds(rundir).items()))))
    if stop.length is not None and stop.horizon is not None and run.clock.t >= stop.horizon:
        raise UserError(f"{rundir.path} is at the end of {recipe.schedule}; {EXTENDING}")
    world.once(lambda: _go_back(rundir, recipe, run))
    if request.adopt_data and found is not None:
        world.once(lambda: _adopt(rundir, run, data, say))
        data = start.open_data(recipe, _pins(rundir))
    loggers = openers(recipe, rundir, run.clock.step) if world.first else {}
    sitting = Sitting(run, rundir, data, stop, loggers)
    if found is not None:
        sitting.going_on(found)
    reason = sitting.go()
    return Outcome(reason, run.clock, stop.signalled is not None)


def _go_back(rundir: RunDir, recipe: Recipe, run: Run) -> None:
    """Drop the records of steps that are about to be taken again; write what changes here."""
    drop_after(rundir, run.clock.step)
    _record_changes(rundir, recipe, run)


def _adopt(rundir: RunDir, run: Run, data: TrainingData, say: Callable[[str], Any]) -> None:
    """Make what was appended to the corpus visible from here on, in the run's identity."""
    appended = data.appended()
    if not appended.windows:
        say("--adopt-data: nothing was appended to the data since")
        return
    say(f"from here on the {appended.tokens:,} tokens appended to the data are read too")
    pins = data.adopt(run.clock.samples).pins
    start.write_identity(rundir, rundir.identity | {"data": [pin.to_json() for pin in pins]})
    rundir.event({"event": "adopt", "step": run.clock.step, "tokens": run.clock.tokens})


def build(
    recipe: Recipe,
    data: TrainingData,
    weights: Mapping[str, torch.Tensor] | None = None,
    world: World | None = None,
) -> Run:
    """A run at step 0, its weights drawn from the seed or given."""
    world = world or World(device=start.device())
    torch.manual_seed(recipe.train.seed)  # a part of the state, whatever the process did before
    model = built(recipe, world, weights)
    return Run.start(recipe, model, _micro_batch(recipe, world), data.eot, world)


def _micro_batch(recipe: Recipe, world: World) -> int:
    """Sequences at once on each device: the recipe's, or the next lower one that divides."""
    batch, size = recipe.train.batch, world.size
    if batch % size:
        raise UserError(f"train.batch = {batch} cannot be shared equally by {size} processes")
    share, most = batch // size, recipe.train.micro_batch or batch
    return max(n for n in range(1, share + 1) if share % n == 0 and n <= max(1, most))


def _record_changes(rundir: RunDir, recipe: Recipe, run: Run) -> None:
    """Write what this sitting changed, and the rules with the step each began at."""
    old = recipes.recipe(rundir.recipe, str(rundir.path))
    changed = start.differences(old, recipe)
    for lost in reversed(rundir.changes()):
        if lost["step"] > run.clock.step:  # the run went back: what it had changed holds from here
            for key, (before, after) in lost["settings"].items():
                changed[key] = (before, changed[key][1] if key in changed else after)
    if changed:
        place = {"step": run.clock.step, "tokens": run.clock.tokens, "time": start.now()}
        rundir.event({"event": "changed", **place, "settings": changed})
        write_atomic(rundir.path / "recipe.toml", recipe.toml())
    averages = {
        name: {"rule": spec, "since": run.averages.since[name]}
        for name, spec in recipe.averages.items()
    }
    identity = rundir.identity
    if identity.get("averages") != averages:
        start.write_identity(rundir, identity | {"averages": averages})
