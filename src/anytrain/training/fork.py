"""A new run from an old one's complete state: a cooldown, another schedule, other data."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytrain import schedules
from anytrain.data.stream import Pin
from anytrain.errors import UserError
from anytrain.files import sha256, sync
from anytrain.grammar import Quantity, WeightsName
from anytrain.rundir import Checkpoint, RunDir
from anytrain.schedules import Cooldown, HorizonBound, Shape
from anytrain.training import recipes, snapshot, start
from anytrain.training.config import Recipe
from anytrain.training.replay import checkpoint_at
from anytrain.training.rewind import rewinds

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
        if not 0 <= self.final <= 1:
            raise UserError(f"--final {self.final:g}; a fraction of the rate, 0 to 1, is valid")


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
    if name.weights != "best":
        raise UserError(f"{name}: a fork takes the whole state, not {name.weights!r} alone")
    old = recipes.recipe(parent.recipe, str(parent.path))
    when = name.when
    if branch is not None:
        if lost := [s for s in settings if s.startswith("schedule")]:
            raise UserError(f"{lost[0]}: the schedule of a cooldown is its trunk's; fork twice")
        when = _branch_point(parent, old, name, branch)
    table = old.table()
    table["checkpoint"].pop("mirror", None)  # a location holds one run
    table = recipes.override(table, settings)
    for note in start.check_surroundings(parent, {**parent.identity["imports"], **(imports or {})}):
        say(note)
    with checkpoint_at(parent, old, when, out, say) as found:
        if branch is not None:
            table["schedule"] = schedules.spec(_cooldown(old, found, branch, when))
        new = _checked(old, recipes.recipe(table, f"fork of {parent.path}"))
        _create(parent, old, found, target, new, imports or {})
    return new


def _branch_point(parent: RunDir, old: Recipe, name: WeightsName, branch: Branch) -> Quantity:
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
    if branch.end.unit == "steps" and _batch_changed(parent, old):
        raise UserError(
            f"--end {branch.end}: the batch of {name.run} changed, so steps do not tell where a "
            "cooldown ends; say it in tokens"
        )
    point = dataclasses.replace(branch.end, amount=branch.end.amount * (1.0 - branch.fraction))
    point = dataclasses.replace(point, amount=float(round(point.amount, 6)))
    if isinstance(name.when, Quantity) and name.when != point:
        raise UserError(
            f"a cooldown over the last {branch.fraction:.0%} of {branch.end} begins at {point}, "
            f"not at {name.when}; leave out one of the two"
        )
    return point


def _batch_changed(parent: RunDir, old: Recipe) -> bool:
    """Whether steps and t went apart."""
    changed = any("train.batch" in change["settings"] for change in parent.changes())
    return changed or old.train.batch != old.train.reference


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
