"""What a fork goes on as: a cooldown of its trunk, or mid-training on other data."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol

from anytrain.errors import UserError
from anytrain.grammar import Quantity, WeightsName
from anytrain.rundir import Checkpoint, RunDir
from anytrain.schedules import Constant, HorizonBound, Schedule, Shape
from anytrain.schedules import Cooldown as Decay
from anytrain.training.config import Recipe

When = Quantity | Literal["latest"]


class Stage(Protocol):
    """Where a fork begins, and the rate it goes on with."""

    @property
    def name(self) -> str: ...

    def begins(self, parent: RunDir, old: Recipe, name: WeightsName) -> When:
        """The moment of `parent` to fork at."""
        ...

    def schedule(self, parent: RunDir, old: Recipe, found: Checkpoint) -> Schedule:
        """The rate from `found` on."""
        ...

    def check(self, old: Recipe, new: Recipe) -> None:
        """Raises UserError where the fork's recipe is no such stage."""
        ...


@dataclass(frozen=True)
class Cooldown:
    """The last `fraction` of a run that ends at `end`, decayed."""

    fraction: float  # of the branch's total, so that everything compares at equal total tokens
    end: Quantity | None  # None: where a fork at WHEN would end
    shape: Shape = "sqrt"
    final: float = 0.0  # fraction of the rate at its start
    name = "cooldown"

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UserError(f"--cooldown {self.fraction:g}; above 0% and below 100% is valid")
        _check_final(self.final)

    def begins(self, parent: RunDir, old: Recipe, name: WeightsName) -> When:
        """At (1 − fraction) of its end."""
        if isinstance(old.built_schedule(), HorizonBound):
            raise UserError(
                f"{name.run} trains with {old.schedule}, which ends by itself; a cooldown forks "
                "from a schedule without a horizon"
            )
        if self.end is None and isinstance(name.when, str):
            raise UserError("a cooldown needs --end MOMENT, or RUN@WHEN to begin at")
        if self.end is None:
            assert isinstance(name.when, Quantity)
            return name.when
        _check_end(self.end, parent, old, name)
        point = dataclasses.replace(self.end, amount=self.end.amount * (1.0 - self.fraction))
        point = dataclasses.replace(point, amount=float(round(point.amount, 6)))
        if isinstance(name.when, Quantity) and name.when != point:
            raise UserError(
                f"a cooldown over the last {self.fraction:.0%} of {self.end} begins at {point}, "
                f"not at {name.when}; leave out one of the two"
            )
        return point

    def schedule(self, parent: RunDir, old: Recipe, found: Checkpoint) -> Schedule:
        """The trunk's rate at its start, decayed to `final` of it."""
        begin = float(found.manifest["t"])
        if self.end is None:
            end = begin / (1.0 - self.fraction)
        else:
            end = self.end.steps(old.train.tokens_per_step)
        trunk = old.built_schedule()
        return Decay(horizon=end, trunk=trunk, start=begin, shape=self.shape, final=self.final)

    def check(self, old: Recipe, new: Recipe) -> None:
        """Any data will do."""


@dataclass(frozen=True)
class Mid:
    """Mid-training: other data from the last rate on, with no warmup of its own.

    η(t) = η(T)·((1 − α)(T + M − t)/M + α) for T < t <= T + M (arXiv:2603.16127, section 3.3),
    η(T) the rate of the last step before it; with α = 1 the rate stays and there is no end M.
    """

    end: Quantity | None = None  # T + M, of the run's whole length
    final: float = 1.0  # α_mid
    name = "mid"  # as run.json says it

    def __post_init__(self) -> None:
        _check_final(self.final)
        if self.final < 1 and self.end is None:
            raise UserError(
                f"--stage mid --final {self.final:g} decays, and needs --end MOMENT to know until "
                "when; without --final the rate stays where it was"
            )
        if self.final == 1 and self.end is not None:
            raise UserError(
                f"--stage mid --end {self.end} has nothing to decay to; --final α below 1 goes "
                "with it. A constant rate has no end: train it --until where you like"
            )

    def begins(self, parent: RunDir, old: Recipe, name: WeightsName) -> When:
        """Where it is told to."""
        if self.end is not None:
            _check_end(self.end, parent, old, name)
        return name.when

    def schedule(self, parent: RunDir, old: Recipe, found: Checkpoint) -> Schedule:
        """The last rate: for ever, or decayed linearly."""
        last, begin = float(found.manifest["lr"]), float(found.manifest["t"])
        if not last > 0:
            raise UserError(
                f"{parent.path}: the learning rate at step {found.step} is 0 ({old.schedule}); "
                "mid-training goes on from the last rate without a new warmup, so a moment, or a "
                "run, whose rate is above 0 is valid (α_pre = 0.1)"
            )
        trunk = Constant(last)
        if self.end is None:
            return trunk
        end = self.end.steps(old.train.tokens_per_step)
        if not end > begin:
            raise UserError(
                f"--end {self.end} is step {end:g} and {parent.path} is at step {begin:g} there "
                "already; a later one is valid"
            )
        return Decay(horizon=end, trunk=trunk, start=begin, shape="linear", final=self.final)

    def check(self, old: Recipe, new: Recipe) -> None:
        """Other data are what it is for."""
        if old.data == new.data:
            raise UserError(
                "--stage mid goes on with other data; data.path=DIRECTORY or data.mixture={…} is "
                "valid, and without --stage a fork keeps its data"
            )


def _check_final(final: float) -> None:
    if not 0 <= final <= 1:
        raise UserError(f"--final {final:g}; a fraction of the rate, 0 to 1, is valid")


def _check_end(end: Quantity, parent: RunDir, old: Recipe, name: WeightsName) -> None:
    """Steps tell where a run ends only while its batch stayed the same."""
    changed = any("train.batch" in change["settings"] for change in parent.changes())
    if end.unit == "steps" and (changed or old.train.batch != old.train.reference):
        raise UserError(
            f"--end {end}: the batch of {name.run} changed, so steps do not tell where it ends; "
            "say it in tokens"
        )
