"""A new run from an old one's complete state: a stage, another schedule, other data."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anytrain import schedules
from anytrain.data.stream import Pin
from anytrain.errors import UserError
from anytrain.files import sha256, sync
from anytrain.grammar import WeightsName
from anytrain.rundir import Checkpoint, RunDir
from anytrain.training import recipes, snapshot, start
from anytrain.training.config import Recipe
from anytrain.training.replay import checkpoint_at
from anytrain.training.rewind import rewinds
from anytrain.training.stage import Stage

# What a fork may not change: the state it begins from would not fit, or not mean the same.
_FIXED = ("model.", "train.context")


def fork(
    name: WeightsName,
    out: Path,
    settings: Sequence[str] = (),
    stage: Stage | None = None,
    say: Callable[[str], Any] = print,
    imports: Mapping[str, str] | None = None,
) -> Recipe:
    """Create the run `out` from `name`'s checkpoint; a moment without one is reached by replay.

    Returns the new run's recipe. Nothing is left behind on an error.
    """
    parent, target = RunDir.open(name.run), RunDir(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty; choose another --out")
    if name.weights != "best":
        raise UserError(f"{name}: a fork takes the whole state, not {name.weights!r} alone")
    old = recipes.recipe(parent.recipe, str(parent.path))
    if stage is not None and (lost := [s for s in settings if s.startswith("schedule")]):
        raise UserError(f"{lost[0]}: a {stage.name} takes its rate from its trunk; fork twice")
    when = name.when if stage is None else stage.begins(parent, old, name)
    table = old.table()
    table["checkpoint"].pop("mirror", None)  # a location holds one run
    table = recipes.override(table, settings)
    for note in start.check_surroundings(parent, {**parent.identity["imports"], **(imports or {})}):
        say(note)
    with checkpoint_at(parent, old, when, out, say) as found:
        if stage is not None:
            table["schedule"] = schedules.spec(stage.schedule(parent, old, found))
        new = _checked(old, recipes.recipe(table, f"fork of {parent.path}"))
        if stage is not None:
            stage.check(old, new)
        _create(parent, old, found, target, new, imports or {}, stage)
    return new


def _checked(old: Recipe, new: Recipe) -> Recipe:
    """The fork's recipe, if its differences are such that the old state fits."""
    new = start.with_reference(old, new)
    if new.train.reference != old.train.reference:
        raise UserError(
            f"train.reference_batch = {new.train.reference} cannot change in a fork: it is the "
            f"unit of the run's clock, {old.train.reference} sequences a step"
        )
    for key in start.differences(old, new):
        if key.startswith(start.STATE_BOUND):
            raise UserError(f"{key} cannot change in a fork: the run's weights would not fit")
    return new


# --- the new run -----------------------------------------------------------------------------


def _create(
    parent: RunDir,
    old: Recipe,
    found: Checkpoint,
    target: RunDir,
    new: Recipe,
    imports: Mapping[str, str],
    stage: Stage | None,
) -> None:
    """Identity, recipe and checkpoint of the fork, `run.json` last."""
    same_data = (old.data, old.train.seed) == (new.data, new.train.seed)
    identity = parent.identity
    pins = [Pin.from_json(pin) for pin in identity["data"]] if same_data else None
    data = start.open_data(new, pins)
    start.check_tokenizer(data, parent.path / "tokenizer.json", str(parent.path))
    aside = RunDir(target.path.with_name(f".{target.path.name}.fork"))
    shutil.rmtree(aside.path, ignore_errors=True)  # what a fork that was killed left
    try:
        path = aside.checkpoint_path(found.step)
        path.mkdir(parents=True)
        _copy_checkpoint(found, path, samples=rewinds(parent).get(found.step) if same_data else 0)
        snapshot.copy(parent, aside, found.step)
        start.create(
            aside,
            new,
            data,
            {**identity["imports"], **imports},
            parent={
                "path": str(parent.path),
                "id": identity["id"],
                "step": found.step,
                "tokens": found.tokens,
                **({"stage": stage.name} if stage is not None else {}),
            },
            changes=start.differences(old, new),
        )
        aside.path.rename(target.path)
        sync(target.path.parent)
    except BaseException:
        shutil.rmtree(aside.path, ignore_errors=True)
        raise


def _copy_checkpoint(found: Checkpoint, path: Path, samples: int | None) -> None:
    """The checkpoint's files, linked where the filesystem can; its data go on at `samples`."""
    for name in [*found.manifest["files"], "manifest.json"]:
        snapshot.link(found.path / name, path / name)
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
