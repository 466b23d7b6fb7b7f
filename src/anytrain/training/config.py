"""A recipe: every setting of a run. TOML in, TOML out; an unknown key is an error.

Durations and moments, schedules and rules are text in the common grammar (`anytrain.grammar`).
Absent is `None`. No torch.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, cast

import tomli_w
from pydantic.dataclasses import dataclass as checked

from anytrain import rules as rule_book
from anytrain import schedules
from anytrain.grammar import Quantity
from anytrain.models.shape import DecoderShape
from anytrain.rules import PowerEma, Rule
from anytrain.schedules import Schedule
from anytrain.training.tables import (
    STRICT,
    Data,
    Duration,
    Evaluate,
    Guard,
    Keep,
    Log,
    Optimizer,
    Parallel,
    Snapshots,
    Train,
)


@checked(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """Every setting of a run."""

    name: str
    schedule: str  # such as constant:peak=3e-3,warmup=5000-steps
    model: DecoderShape
    data: Data
    train: Train
    unit: Duration | None = None  # None: 20 tokens a non-embedding parameter
    start_from: str | None = None  # weights to begin with, as `--from` names them
    averages: dict[str, str] = field(  # name -> rule; absent: anytime EMAs of five widths
        default_factory=lambda: {n: rule_book.spec(r) for n, r in rule_book.DEFAULTS.items()}
    )
    optimizer: Optimizer = Optimizer()
    evaluate: Evaluate = Evaluate()
    checkpoint: Keep = Keep()
    snapshots: Snapshots | None = None
    guard: Guard | None = None
    log: Log = Log()
    parallel: Parallel = Parallel()

    def built_schedule(self) -> Schedule:
        """lr(t) as an object."""
        return schedules.schedule(self.schedule, self.train.tokens_per_step)

    def built_rules(self) -> dict[str, Rule]:
        """Names to averaging rules, as objects."""
        per_step = self.train.tokens_per_step
        return {name: rule_book.rule(spec, per_step) for name, spec in self.averages.items()}

    def built_tracks(self) -> dict[str, PowerEma]:
        """The averages that snapshots are taken of; each is named by its width."""
        widths = self.snapshots.tracks if self.snapshots else ()
        return {repr(width): PowerEma(width) for width in widths}

    @property
    def running(self) -> int:
        """How many copies of the weights are averaged beside them, tracks included."""
        return len(self.averages) + len(self.built_tracks())

    @property
    def unit_tokens(self) -> int:
        """1×, in tokens: the recipe's, or 20 tokens a non-embedding parameter."""
        if self.unit is None:
            return 20 * self.model.non_embedding
        if self.unit.unit == "steps":
            return round(self.unit.amount * self.train.tokens_per_step)
        return round(self.unit.amount)

    def table(self) -> dict[str, Any]:
        """The recipe as plain data, absent settings left out: what `toml` writes."""
        return cast("dict[str, Any]", _plain(self))

    def toml(self) -> str:
        """The text that `recipes.recipe` reads back into an equal recipe."""
        return tomli_w.dumps(self.table())


def _plain(value: Any) -> Any:
    if isinstance(value, Quantity):
        return str(value)
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
