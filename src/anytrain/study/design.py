"""A study file with its recipe: every run that there can be, checked before the first. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter

from anytrain.compare.results import Arm, Kind
from anytrain.errors import UserError
from anytrain.files import read_toml
from anytrain.study.table import ArmTable, Point, Table, kind_of, point_text
from anytrain.training import recipes
from anytrain.training.checked import checked
from anytrain.training.config import Recipe


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

    def shared(self) -> Recipe:
        """What every arm begins from: the recipe and the study's settings, no arm's own."""
        table = recipes.override(self._recipe, recipes.settings_of(self.table.settings))
        return recipes.recipe(_without_horizon(table), str(self.path))

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
        made = recipes.override(self._recipe, recipes.settings_of(settings))
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
