"""A study file as it stands: the recipe, horizons, seeds, and the arms with their grids. No torch.

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
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass

from anytrain.compare.results import Kind
from anytrain.errors import nearest
from anytrain.grammar import parse_spec
from anytrain.schedules import KINDS, HorizonBound, Shape

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


def point_text(point: Point) -> str:
    """`schedule.peak=0.003 optimizer.beta2=0.95`: a grid point by name."""
    return " ".join(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in point.items())  # fmt: skip
