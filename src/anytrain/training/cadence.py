"""When to evaluate and when to keep a checkpoint: functions of where the run is, not of its end."""

from dataclasses import dataclass
from math import ceil, floor, log2, log10

from anytrain.grammar import Quantity
from anytrain.training.config import Recipe
from anytrain.training.run import Clock

COOLDOWN = 0.1  # of a branch's total: the part that checkpoints at 90% are kept for


def reached(moment: Quantity, clock: Clock) -> bool:
    """Whether a run is at a moment or past it."""
    if moment.unit == "seconds":
        raise ValueError(f"{moment} is a time; a place in a run is a number of steps or tokens")
    return (clock.step if moment.unit == "steps" else clock.tokens) >= moment.amount


def log_spaced(step: int, per_decade: int) -> bool:
    """Whether `step` is round(10^(k / per_decade)) for a whole k, from 10 on: 10, 13, 16, 20 …."""
    if per_decade < 1 or step < 10:  # before, there is nothing yet to see
        return False
    k = log10(step) * per_decade
    return any(step == round(10 ** (near / per_decade)) for near in (floor(k), ceil(k)))


@dataclass(frozen=True)
class Cadence:
    """The moments of one recipe, each due at the first step that reaches it."""

    recipe: Recipe

    def evaluation(self, before: Clock, now: Clock) -> str | None:
        """Why to evaluate after this step: asked, units, spaced, or hourly, the longest wait in
        steps or tokens being over; None when it is no moment."""
        if self._crossed(self.recipe.evaluate.at, before, now):
            return "asked"
        if self._unit(before, now, 1.0):
            return "units"
        if log_spaced(now.step, self.recipe.evaluate.per_decade):
            return "spaced"
        return "hourly" if _passed(self.recipe.evaluate.every, before, now) else None

    def stays(self, before: Clock, now: Clock) -> bool:
        """Whether a checkpoint at this step is kept for good: asked, 2^k units, 90% of them."""
        return (
            self._crossed(self.recipe.checkpoint.at, before, now)
            or self._unit(before, now, 1.0)
            or self._unit(before, now, 1.0 - COOLDOWN)
        )

    def checkpoint(self, before: Clock, now: Clock) -> bool:
        """Whether to save after this step, the clock on the wall aside."""
        return _passed(self.recipe.checkpoint.every, before, now) or self.stays(before, now)

    def _crossed(self, moments: tuple[Quantity, ...], before: Clock, now: Clock) -> bool:
        return any(reached(m, now) and not reached(m, before) for m in moments)

    def _unit(self, before: Clock, now: Clock, fraction: float) -> bool:
        """Whether this step reached fraction·2^k units for a whole k >= 0."""
        first = fraction * self.recipe.unit_tokens
        if now.tokens < first:
            return False
        # 2^k·first with the largest k that is reached; 1e-9 forgives log2's rounding
        moment = first * 2.0 ** floor(log2(now.tokens / first) + 1e-9)
        return before.tokens < moment <= now.tokens * (1 + 1e-12)


def _passed(every: Quantity, before: Clock, now: Clock) -> bool:
    """Whether this step reached a multiple of so many steps or tokens; never for a time."""
    if every.unit == "seconds":
        return False
    old, new = (before.step, now.step) if every.unit == "steps" else (before.tokens, now.tokens)
    return new // every.amount > old // every.amount


def previous(clock: Clock, recipe: Recipe) -> Clock:
    """The clock one step earlier, at the present batch."""
    train = recipe.train
    tokens = clock.tokens - train.batch * train.context
    t = tokens / train.tokens_per_step
    return Clock(clock.step - 1, t, tokens, clock.samples - train.batch)
