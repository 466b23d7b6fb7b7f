"""A study file: model, data, unit, horizons, seeds, and the arms with their grids. No torch.

name = "every-horizon"
recipe = "recipe.toml"             # a shipped recipe or a file beside this one
horizons = [1, 2, 4, 8]            # units
baseline = "cosine"

[seeds]
tune = [0]
report = [1, 2, 3, 4, 5]

[arms.constant]                    # no horizon: one run a setting, read at every horizon
schedule = "constant:warmup=200-steps"
grid = { "schedule.peak" = [3e-3, 6e-3, 1.2e-2] }

[arms.cosine]                      # a horizon: a run for each, which the study fills in
schedule = "cosine:warmup=200-steps,final=0.1"
grid = { "schedule.peak" = [3e-3, 6e-3, 1.2e-2] }

[arms.wsd]                         # branches of another arm's runs, the last tenth decayed
trunk = "constant"
cooldown = 0.1
"""

from collections.abc import Mapping
from dataclasses import field
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from anytrain.compare.results import Arm, Kind
from anytrain.errors import UserError, nearest
from anytrain.files import read_toml
from anytrain.grammar import parse_spec
from anytrain.schedules import KINDS, HorizonBound, Shape
from anytrain.training import recipes
from anytrain.training.checked import checked
from anytrain.training.config import Recipe

_STRICT = ConfigDict(extra="forbid", strict=True)
_OURS = ("train.seed", "evaluate.split", "evaluate.each", "evaluate.at", "schedule.horizon")

_SHARED = ("data.", "evaluate.", "train.context")  # what losses are of

Point = Mapping[str, int | float | str]  # setting -> value: one point of a grid
Grid = dict[str, list[int | float | str]]  # setting -> values, every combination of them


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Seeds:
    """Of initialisation and data order: tuning and reporting share none."""

    tune: list[int] = field(default_factory=lambda: [0])
    report: list[int] = field(default_factory=lambda: [1, 2, 3])

    def __post_init__(self) -> None:
        for name in ("tune", "report"):
            seeds = getattr(self, name)
            if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
                raise ValueError(f"seeds.{name} = {seeds}; one or more different seeds are valid")
        if shared := set(self.tune) & set(self.report):
            raise ValueError(
                f"seeds.tune and seeds.report share {sorted(shared)}: a setting chosen on a seed "
                "would be reported on it; seeds of their own are valid"
            )


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class ArmTable:
    """One arm: a schedule, or a trunk and how it is decayed."""

    schedule: str | None = None  # without its horizon
    trunk: str | None = None  # the arm whose runs are branched from
    cooldown: float = 0.1  # of a branch: the last part of each horizon that is decayed
    shape: Shape = "linear"  # of the decay
    final: float = 0.0  # of a branch: fraction of the rate at its end
    settings: dict[str, Any] = field(default_factory=dict)  # key.path -> value
    grid: Grid | list[Grid] = field(default_factory=dict)  # one, or several taken together

    def __post_init__(self) -> None:
        if (self.schedule is None) == (self.trunk is None):
            raise ValueError("an arm needs either schedule or trunk, and not both")
        if self.trunk is not None and (self.grid or self.settings):
            raise ValueError("an arm with a trunk has the trunk's grid and settings, no own ones")
        if not 0 < self.cooldown < 1:
            raise ValueError(f"cooldown = {self.cooldown:g}; above 0 and below 1 is valid")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final = {self.final:g}; a fraction of the rate, 0 to 1, is valid")
        for grid in self.grids:
            if grid.keys() != self.grids[0].keys():
                raise ValueError(
                    f"grid: {', '.join(grid)} beside {', '.join(self.grids[0])}; the same settings "
                    "in every one of several grids are valid"
                )
            for key, values in grid.items():
                if not values or len(set(values)) < len(values):
                    raise ValueError(
                        f"grid {key!r} = {values}; one or more different values are valid"
                    )

    @property
    def grids(self) -> list[Grid]:
        """One grid, or several, of which the points are taken together."""
        return self.grid if isinstance(self.grid, list) else [self.grid]

    @property
    def keys(self) -> list[str]:
        """The settings that the grid tries, in the file's order."""
        return list(self.grids[0]) if self.grids else []

    @property
    def points(self) -> list[Point]:
        """Every point of the grid once, the last key fastest."""
        made: list[Point] = []
        for grid in self.grids:
            for values in product(*(grid[key] for key in self.keys)):
                point = dict(zip(self.keys, values, strict=True))
                if point not in made:
                    made.append(point)
        return made


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Table:
    """The study file as it stands."""

    name: str
    recipe: str
    horizons: list[float]  # units
    arms: dict[str, ArmTable]
    baseline: str | None = None  # None: the first arm with a horizon
    seeds: Seeds = Seeds()
    settings: dict[str, Any] = field(default_factory=dict)  # for every run
    per_doubling: int = 2  # evaluations of a run, from a quarter unit on

    def __post_init__(self) -> None:
        found = self.horizons
        if not found or sorted(set(found)) != found or not found[0] > 0 or not isfinite(found[-1]):
            raise ValueError(f"horizons = {found}; rising numbers of units above 0 are valid")
        if not self.arms:
            raise ValueError("arms: there is none; one or more are valid")
        if self.per_doubling < 1:
            raise ValueError(f"per_doubling = {self.per_doubling}; 1 or more is valid")
        for name, arm in self.arms.items():
            self._check(name, arm)
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"baseline = {self.baseline!r}{nearest(self.baseline, self.arms)}")

    def _check(self, name: str, arm: ArmTable) -> None:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"arms.{name}: letters, digits, - and _ are valid in a name")
        if arm.trunk is not None:
            if arm.trunk not in self.arms:
                raise ValueError(
                    f"arms.{name}: trunk = {arm.trunk!r}{nearest(arm.trunk, self.arms)}"
                )
            if kind_of(self.arms[arm.trunk]) != "free":
                free = [key for key, other in self.arms.items() if kind_of(other) == "free"]
                raise ValueError(
                    f"arms.{name}: trunk = {arm.trunk!r} has a horizon itself; an arm without one "
                    f"is valid: {', '.join(free) or 'there is none'}"
                )
        for key, value in [*arm.settings.items(), *self.settings.items()]:
            if not isinstance(value, bool | int | float | str):
                raise ValueError(
                    f"arms.{name}: the setting {key} = {value}; 'key.path' = value, the key in "
                    "quotes, is valid"
                )
        for key in [*arm.settings, *arm.keys]:
            if key.startswith(_SHARED):
                raise ValueError(
                    f"arms.{name}: {key} is what all arms share, or their losses would be of other "
                    f"text; in the study's own settings it is valid"
                )
        for key in [*arm.settings, *arm.keys, *self.settings]:
            if key in _OURS or (key.startswith("averages") and key in arm.keys):
                raise ValueError(f"arms.{name}: {key} is set by the study")


def kind_of(arm: ArmTable) -> Kind:
    """Whether an arm's runs have no horizon, have one, or are branches."""
    if arm.schedule is None:
        return "branch"
    cls = KINDS.get(str(parse_spec(arm.schedule)["kind"]))
    return "bound" if cls is not None and issubclass(cls, HorizonBound) else "free"


class Design:
    """A study file with its recipe, checked: which runs there can be, and what they are.

    Raises a UserError that names the file, the key and what would be valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = checked(Table, read_toml(path), str(path))
        beside = path.parent / self.table.recipe
        self._recipe = recipes.read_table(str(beside) if beside.is_file() else self.table.recipe)
        self.first = self.recipe(*self._any())
        self.unit = self.first.unit_tokens
        self._check_runs()
        self._check_horizons()

    def _any(self) -> tuple[str, Point, float]:
        arm = next(name for name in self.table.arms if self.kind(name) != "branch")
        return arm, self.points(arm)[0], self.table.horizons[-1]

    def _check_runs(self) -> None:
        """Every run there can be is one that can begin, and has the study's unit."""
        for arm in self.table.arms:
            if self.kind(arm) == "branch":
                continue
            for point in self.points(arm):
                for horizon in self.table.horizons:
                    made = self.recipe(arm, point, horizon)
                    if made.unit_tokens != self.unit:
                        raise UserError(
                            f"{self.path}: arms.{arm}: unit = {made.unit} is {made.unit_tokens} "
                            f"tokens at {point_text(point)} and {self.unit} elsewhere; a unit in "
                            "tokens, or train.reference_batch, is valid"
                        )
                    if self.kind(arm) == "free":
                        break

    def _check_horizons(self) -> None:
        """Room for two steps, and for a step of each decay."""
        per_step = self.first.train.tokens_per_step
        for horizon in self.table.horizons:
            if horizon * self.unit < 2 * per_step:
                raise UserError(
                    f"{self.path}: a horizon of {horizon:g} units is {horizon * self.unit:.0f} "
                    f"tokens; two steps, {2 * per_step} tokens, or more are valid"
                )

        for name, arm in self.table.arms.items():
            for horizon in self.table.horizons if arm.trunk is not None else ():
                until = round(horizon * self.unit)
                if -(-round(until * (1.0 - arm.cooldown)) // per_step) * per_step >= until:
                    raise UserError(
                        f"{self.path}: arms.{name}: cooldown = {arm.cooldown:g} of a horizon of "
                        f"{horizon:g} units is not one step of {per_step} tokens; a longer one "
                        "is valid"
                    )

    def files(self) -> dict[str, str]:
        """The design as the files of a study's directory: what `Design` reads back the same."""
        table = TypeAdapter(Table).dump_python(self.table, exclude_none=True)
        table["recipe"] = "recipe.toml"
        return {"study.toml": tomli_w.dumps(table), "recipe.toml": tomli_w.dumps(self._recipe)}

    def kind(self, arm: str) -> Kind:
        return kind_of(self.table.arms[arm])

    def points(self, arm: str) -> list[Point]:
        """The grid of an arm; of a branch, its trunk's."""
        table = self.table.arms[arm]
        return self.table.arms[table.trunk].points if table.trunk is not None else table.points

    @property
    def baseline(self) -> str:
        """The arm to compare with: the file's, or the first with a horizon, or the first."""
        arms = list(self.table.arms)
        bound = [name for name in arms if self.kind(name) == "bound"]
        return self.table.baseline or (bound or arms)[0]

    def arms(self) -> dict[str, Arm]:
        """The arms as results name them."""
        return {
            name: Arm(
                name,
                self.kind(name),
                table.schedule or _branch_text(table),
                tuple(self.points(name)),
                table.trunk,
            )
            for name, table in self.table.arms.items()
        }

    @property
    def horizons(self) -> list[int]:
        """In tokens."""
        return [round(horizon * self.unit) for horizon in self.table.horizons]

    def moments(self) -> list[int]:
        """Tokens at which a run is evaluated: horizons, and between them from a quarter unit on."""
        asked, count = set(self.horizons), self.table.per_doubling
        number = 0
        while (moment := round(self.unit / 4 * 2 ** (number / count))) < max(self.horizons):
            asked.add(moment)
            number += 1
        return sorted(asked)

    def recipe(self, arm: str, point: Point, horizon: float) -> Recipe:
        """The recipe of an arm at a grid point; `horizon` (units) enters where it has one."""
        table = self.table.arms[arm]
        assert table.schedule is not None
        settings = {
            **self.table.settings, "schedule": table.schedule, **table.settings, **point
        }  # fmt: skip
        made = recipes.override(self._recipe, [_setting(k, v) for k, v in settings.items()])
        if self.kind(arm) == "bound":
            unit = recipes.recipe(_without_horizon(made), str(self.path)).unit_tokens
            ends = f"schedule.horizon={round(horizon * unit)}-tokens"
            made = recipes.override(made, [ends])
        return recipes.recipe(made, f"{self.path}: arms.{arm}")


def _without_horizon(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same recipe under a schedule that needs no horizon: to know its unit."""
    return {**table, "schedule": "constant:peak=1"}


def _branch_text(table: ArmTable) -> str:
    return f"{table.trunk}, the last {table.cooldown:.0%} {table.shape} to {table.final:g}"


def _setting(key: str, value: Any) -> str:
    """`key.path=value` as the recipes' own reader takes it."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, int | float) else f"{key}={value}"


def point_text(point: Point) -> str:
    """`schedule.peak=0.003 optimizer.beta2=0.95`: a grid point by name."""
    return " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in point.items())  # fmt: skip
