"""What a study has to train: every run and branch once, whatever shares it. No torch.

A run is named by what decides its weights (recipe, seed, half of the held-out sequences), so an
arm that is added, a horizon or an evaluation more finds the runs that are there. Tuning trains
every grid point on the tuning seeds; what it chose is trained on the reporting seeds.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from anytrain import schedules
from anytrain.compare.results import Choice, Phase
from anytrain.errors import UserError
from anytrain.grammar import Quantity
from anytrain.schedules import Shape
from anytrain.study.design import Design
from anytrain.study.table import Point, point_text
from anytrain.training.config import Recipe
from anytrain.training.tables import Snapshots, Split

# Tables of a recipe that decide no weights.
_BESIDE = ("name", "averages", "evaluate", "checkpoint", "snapshots", "log", "unit")
_READ = 4  # evaluations of a branch
_RARELY = Quantity(1e9, "seconds")


@dataclass(frozen=True)
class Leave:
    """How a branch leaves its trunk."""

    trunk: str  # the run
    begins: int  # tokens
    cooldown: float  # fraction of `until`
    shape: Shape
    final: float


@dataclass(frozen=True)
class Job:
    """One run or branch, and how far it has to be trained."""

    name: str  # directory below OUT/runs
    recipe: Recipe  # of a branch: its trunk's
    until: int  # tokens
    leave: Leave | None = None
    keeps: frozenset[int] = frozenset()  # tokens: checkpoints that branches begin at
    rebuilds: Mapping[str, str] | None = None  # name -> rule: no training, see `later`

    @property
    def of(self) -> str:
        """The run that it is, or that it adds averages to."""
        return self.name.partition("~")[0]

    @property
    def cost(self) -> int:
        """Tokens trained."""
        if self.rebuilds is not None:
            return 0
        return self.until - (self.leave.begins if self.leave else 0)

    @property
    def rank(self) -> float:
        """The longest begins first."""
        return self.cost

    def to_json(self) -> dict[str, Any]:
        """What the process that trains it reads."""
        leave = None if self.leave is None else vars(self.leave)
        return {"name": self.name, "recipe": self.recipe.table(), "until": self.until,
                "leave": leave, "rebuilds": self.rebuilds, "keeps": sorted(self.keeps)}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """What an arm reads of a run."""

    job: str
    arm: str
    phase: Phase
    seed: int
    setting: str
    horizons: tuple[float, ...]  # units: where it is read; of a run with a horizon, that one


@dataclass
class Plan:
    """The jobs known so far, and who uses them."""

    jobs: dict[str, Job] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)

    def add(self, job: Job) -> Job:
        """The job, merged with one of the same run: as far as the further, keeping for both."""
        if job.name in self.jobs:
            there = self.jobs[job.name]
            averages = _both(job.name, there.recipe.averages, job.recipe.averages)
            there = replace(there, recipe=replace(there.recipe, averages=averages))
            job = replace(there, until=max(there.until, job.until), keeps=there.keeps | job.keeps)
        self.jobs[job.name] = job
        return job


def _both(name: str, first: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The averages that two arms ask of one run."""
    for key in first.keys() & more.keys():
        if first[key] != more[key]:
            raise UserError(
                f"average {key!r} of {name} is {first[key]} in one arm and {more[key]} in another, "
                "and both read the same run; two names are valid"
            )
    return {**first, **more}


def plan(design: Design, choices: Iterable[Choice] = ()) -> Plan:
    """Every job of tuning, and of reporting as far as something was chosen."""
    made, chosen = Plan(), list(choices)
    arms = sorted(design.table.arms, key=lambda arm: design.kind(arm) == "branch")
    for arm in arms:
        for seed in design.table.seeds.tune:
            for point in design.points(arm):
                _all_horizons(made, design, arm, "tune", seed, point)
    for arm in arms:
        for seed in design.table.seeds.report:
            for choice in chosen:
                if choice.arm == arm:
                    _report(made, design, arm, seed, choice)
    made.jobs = {name: _finished(design, job) for name, job in made.jobs.items()}
    return made


def _report(made: Plan, design: Design, arm: str, seed: int, choice: Choice) -> None:
    """What was chosen, on another seed: for all horizons or up to the one it was chosen for."""
    point = next(p for p in design.points(arm) if point_text(p) == choice.setting)
    if choice.horizon is None:
        _all_horizons(made, design, arm, "report", seed, point)
    else:
        _read(made, design, arm, "report", seed, point, (choice.horizon,))


def _all_horizons(
    made: Plan, design: Design, arm: str, phase: Phase, seed: int, point: Point
) -> None:
    horizons = tuple(design.table.horizons)
    if design.kind(arm) == "free":
        _read(made, design, arm, phase, seed, point, horizons)
        return
    for horizon in horizons:
        _read(made, design, arm, phase, seed, point, (horizon,))


def _read(
    made: Plan,
    design: Design,
    arm: str,
    phase: Phase,
    seed: int,
    point: Point,
    horizons: tuple[float, ...],
) -> None:
    """One run of an arm, read at some horizons; further than the last it need not go."""
    last = horizons[-1]
    until = round(last * design.unit)
    table = design.table.arms[arm]
    trunk = table.trunk or arm
    recipe = _recipe(design, trunk, phase, seed, point, last)
    name = _name(recipe, phase)
    if table.trunk is None:
        job = made.add(Job(name, recipe, until))
    else:
        begins = round(until * (1.0 - table.cooldown))
        made.add(Job(name, recipe, begins, keeps=frozenset([begins])))
        leave = Leave(name, begins, table.cooldown, table.shape, table.final)
        how = digest([table.cooldown, table.shape, table.final])
        job = made.add(Job(f"{name}+cooldown-{until}-{how}", recipe, until, leave))
    use = Use(job.name, arm, phase, seed, point_text(point), horizons)
    if use not in made.uses:
        made.uses.append(use)


def _recipe(
    design: Design, arm: str, phase: Phase, seed: int, point: Point, horizon: float
) -> Recipe:
    """The run's own recipe: seed, and the half of the held-out sequences of its phase."""
    made = design.recipe(arm, point, horizon)
    free = design.kind(arm) == "free"
    half: Split = "selection" if phase == "tune" else "report"
    evaluate = replace(made.evaluate, split=half, each=True, per_decade=0, share=1.0, every=_RARELY)
    return replace(
        made,
        train=replace(made.train, seed=seed),
        evaluate=evaluate,
        averages=made.averages if free else {},
        snapshots=(made.snapshots or Snapshots()) if free else None,
    )


def _finished(design: Design, job: Job) -> Job:
    """With the moments of evaluations and checkpoints, which depend on all that use it."""
    recipe = job.recipe
    free = job.leave is None and schedules.horizon(recipe.built_schedule()) is None
    at = design.moments() if job.leave is None else _along(job.leave.begins, job.until)
    evaluate = replace(recipe.evaluate, at=_quantities(at))
    keeps = job.keeps | (set(design.horizons) if free else set())  # rebuilt from afterwards
    keep = replace(recipe.checkpoint, at=_quantities(sorted(keeps)))
    if job.leave is not None:  # the trunk's averages and snapshots are not the branch's
        recipe = replace(recipe, averages={}, snapshots=None)
    return replace(job, recipe=replace(recipe, name=job.name, evaluate=evaluate, checkpoint=keep))


def _along(begins: int, until: int) -> list[int]:
    """Tokens at which a branch is evaluated: a law of decay is not fitted to its end alone."""
    return [begins + round((until - begins) * k / _READ) for k in range(1, _READ + 1)]


def _quantities(moments: Iterable[int]) -> tuple[Quantity, ...]:
    return tuple(Quantity(float(tokens), "tokens") for tokens in moments)


def _name(recipe: Recipe, phase: Phase) -> str:
    """`constant-peak=0.006-tune0-3fa2b1c9`: kind, seed, and a digest of what decides weights."""
    table = {key: value for key, value in recipe.table().items() if key not in _BESIDE}
    half = recipe.evaluate.split, str(recipe.evaluate.tokens)
    kind, _, rest = recipe.schedule.partition(":")
    peak = next((p for p in rest.split(",") if p.startswith("peak=")), "").removeprefix("peak=")
    short = f"{kind}-{peak}" if peak else kind
    return f"{short}-{phase}{recipe.train.seed}-{digest([table, half])}"


def digest(value: Any) -> str:
    """Eight hexadecimal digits of plain data."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
