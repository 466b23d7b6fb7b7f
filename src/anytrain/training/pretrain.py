"""From a recipe or a run directory to a sitting: what `anytrain train` does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from anytrain import schedules
from anytrain.data.stream import Pin, TrainingData
from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.models.decoder import Decoder
from anytrain.rundir import RunDir
from anytrain.training import checkpoint, recipes, snapshot, start
from anytrain.training.config import Recipe
from anytrain.training.loggers import check_loggers, loggers
from anytrain.training.run import Clock, Run
from anytrain.training.sitting import Sitting
from anytrain.training.stopping import Stop
from anytrain.weights import open_weights

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
    Raises `Interrupted` for a signal that comes before the first step.
    """
    rundir = RunDir(request.path)
    _check_existence(request, rundir)
    with stop.listening():
        if not rundir.exists:
            recipe, data = _begin(request, stop, say)
            with rundir.locked():
                _check_existence(replace(request, new=True), rundir)  # nobody else began it
                start.create(rundir, recipe, data, request.imports)
                return _sit(rundir, recipe, data, stop, say)
        with rundir.locked():
            recipe, data = _come_back(request, rundir, stop, say)
            return _sit(rundir, recipe, data, stop, say, adopt=request.adopt_data)


def _begin(request: Request, stop: Stop, say: Callable[[str], Any]) -> tuple[Recipe, TrainingData]:
    """The recipe and the data of a new run, with everything checked that can be."""
    recipe = _new_recipe(request, say)
    start.set_determinism(recipe)
    data = start.open_data(recipe, say=say)
    recipe = start.resolved(recipe, data)
    _check_stop(recipe, stop)
    check_loggers(recipe)
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
    for note in start.check_surroundings(rundir, request.imports):
        say(note)
    pins = [Pin.from_json(pin) for pin in rundir.identity["data"]]
    data = start.open_data(recipe, pins)
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
    rundir: RunDir,
    recipe: Recipe,
    data: TrainingData,
    stop: Stop,
    say: Callable[[str], Any],
    adopt: bool = False,
) -> Outcome:
    """With the lock held: the run's state, then the sitting."""
    checkpoint.clean(rundir)
    run = build(recipe, data)
    found = checkpoint.newest_good(rundir, say)
    if found is not None:
        checkpoint.load(run, found)
    elif recipe.start_from is not None:
        with open_weights(recipe.start_from) as weights:
            run = build(recipe, data, weights.tensors)
    if stop.length is not None and stop.horizon is not None and run.clock.t >= stop.horizon:
        raise UserError(f"{rundir.path} is at the end of {recipe.schedule}; {EXTENDING}")
    rundir.drop_after(run.clock.step)
    snapshot.drop_after(rundir, run.clock.step)
    _record_changes(rundir, recipe, run)
    appended = data.appended()
    if adopt and not appended.windows:
        say("--adopt-data: nothing was appended to the data since")
    elif adopt:
        say(f"from here on the {appended.tokens:,} tokens appended to the data are read too")
        data = data.adopt(run.clock.samples)
        start.write_identity(rundir, rundir.identity | {"data": [p.to_json() for p in data.pins]})
        rundir.event({"event": "adopt", "step": run.clock.step, "tokens": run.clock.tokens})
    sitting = Sitting(run, rundir, data, stop, loggers(recipe, rundir))
    if found is not None:
        sitting.going_on(found)
    reason = sitting.go()
    return Outcome(reason, run.clock, stop.signalled is not None)


def build(
    recipe: Recipe, data: TrainingData, weights: Mapping[str, torch.Tensor] | None = None
) -> Run:
    """A run at step 0, its weights drawn from the seed or given."""
    device = start.device()
    torch.manual_seed(recipe.train.seed)  # a part of the state, whatever the process did before
    if weights is None:
        model = Decoder.seeded(recipe.model, recipe.train.seed, device)
    else:
        model = Decoder.loaded(recipe.model, weights, device)
    if recipe.train.compile:
        model.compile()
    return Run.start(recipe, model, recipe.train.micro_batch or recipe.train.batch, data.eot)


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
