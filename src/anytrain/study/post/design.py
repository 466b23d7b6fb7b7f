"""A study file of kind post-training: base models, what they are fine-tuned on, how. No torch.

kind = "post-training"
name = "wso"
recipe = "recipe.toml"
tokens = "8M-tokens"               # of pre-training
seeds = [1, 2, 3]                  # of pre-training; fine-tuning takes the same

[bases.wso]                        # warm-up, stable, only
schedule = "constant:peak=6e-3,warmup=400-steps"

[bases.wsd-0]                      # the same run, its last quarter decayed
of = "wso"
cooldown = 0.25
final = 0.0

[bases.cosine-10]                  # ends at `tokens`
schedule = "cosine:peak=6e-3,warmup=400-steps,final=0.1"

[bases.wso-ema25]                  # an average of the run
of = "wso"
weights = "ema25"

[bases.wso-wsm]                    # its checkpoints over the last quarter, merged
of = "wso"
merge = "wsm:shape=linear"
span = 0.25

[bases.wso-mid]                    # mid-training on other data from the last rate on
of = "wso"
data = "data/other"
more = "2M-tokens"
final = 1.0

[tasks.arithmetic]
data = "data/pairs/arithmetic.jsonl"

[finetune]
lr = [1e-4, 3e-4, 1e-3]            # a task may have an lr of its own
tune = "every seed"                # or "first seed": its rates are taken for the others

[sharpness]
probes = 50
tokens = "16k-tokens"
tasks = true                       # on the rows of every task too
"""

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from anytrain.errors import UserError, nearest
from anytrain.files import read_toml
from anytrain.grammar import Quantity, duration, parse_spec
from anytrain.schedules import KINDS, HorizonBound, Shape
from anytrain.training import recipes
from anytrain.training.checked import checked
from anytrain.training.config import Recipe

_STRICT = ConfigDict(extra="forbid", strict=True)
Way = Literal["train", "decay", "mid", "average", "merge"]


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Base:
    """One set of weights to fine-tune: a run of its own, or made of another base's run."""

    schedule: str | None = None  # of a run of its own, without its horizon
    settings: dict[str, Any] = field(default_factory=dict)  # of it; key.path -> value
    of: str | None = None  # the base whose run it is made of
    cooldown: float | None = None  # the last part of that run, decayed
    shape: Shape = "linear"  # of the decay
    final: float | None = None  # fraction of the rate at its end: 0, and of mid-training 1
    weights: str | None = None  # an average of that run, at its end
    merge: str | None = None  # a rule for its checkpoints over the last `span`
    span: float = 0.25
    data: str | None = None  # other data to go on with: mid-training
    more: str | None = None  # of mid-training: tokens

    def __post_init__(self) -> None:
        ways = [w for w in ("cooldown", "weights", "merge", "data") if getattr(self, w) is not None]
        if (self.schedule is None) == (self.of is None):
            raise ValueError("a base needs either schedule or of, and not both")
        if len(ways) != (0 if self.of is None else 1):
            raise ValueError(
                "a base of another one is one of cooldown, weights, merge or data"
                if self.of is not None
                else f"{ways[0]} goes with of, the base whose run it is made of"
            )
        for key in ("cooldown", "span"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{key} = {value:g}; above 0 and below 1 is valid")
        if self.final is not None and not 0 <= self.final <= 1:
            raise ValueError(f"final = {self.final:g}; a fraction of the rate, 0 to 1, is valid")
        if (self.data is None) != (self.more is None):
            raise ValueError("data and more, the tokens of mid-training, go together")

    @property
    def way(self) -> Way:
        """What makes it."""
        if self.schedule is not None:
            return "train"
        ways: dict[str, Way] = {"cooldown": "decay", "weights": "average", "merge": "merge"}
        return next((way for key, way in ways.items() if getattr(self, key) is not None), "mid")


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Task:
    """Chat rows to fine-tune on, and what says how well that went."""

    data: str  # a JSONL file
    metric: Literal["exact_match", "choice", "loss"] = "exact_match"
    lr: list[float] | None = None  # in place of the study's: small sets want other rates
    settings: dict[str, Any] = field(default_factory=dict)  # `anytrain finetune`'s option -> value

    def __post_init__(self) -> None:
        if self.lr is not None:
            _check_rates(self.lr)


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Finetune:
    """The sweep that every base goes through on every task."""

    lr: list[float]
    tune: Literal["every seed", "first seed"] = "every seed"  # of pre-training
    settings: dict[str, Any] = field(default_factory=dict)  # `anytrain finetune`'s option -> value

    def __post_init__(self) -> None:
        _check_rates(self.lr)


def _check_rates(lr: list[float]) -> None:
    if not lr or not all(value > 0 for value in lr):
        raise ValueError(f"lr = {lr}; one or more rates above 0 are valid")


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sharpness:
    """How the curvature of every base is measured, on held-out pre-training data."""

    probes: int = 50
    tokens: str = "16k-tokens"
    tasks: bool = False  # on the rows of every task too, before they are learnt

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise ValueError(f"probes = {self.probes}; 2 or more are valid")


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class Table:
    """The study file as it stands."""

    kind: Literal["post-training"]
    name: str
    recipe: str
    tokens: str  # of pre-training
    bases: dict[str, Base]
    tasks: dict[str, Task]
    finetune: Finetune
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    sharpness: Sharpness | None = None  # None: not measured
    settings: dict[str, Any] = field(default_factory=dict)  # for every run; key.path -> value

    def __post_init__(self) -> None:
        if not self.bases or not self.tasks:
            raise ValueError("bases and tasks: one or more of each are valid")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds = {self.seeds}; one or more different seeds are valid")
        for name, base in self.bases.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"bases.{name}: letters, digits, - and _ are valid in a name")
            if base.of is None:
                continue
            if base.of not in self.bases:
                raise ValueError(f"bases.{name}: of = {base.of!r}{nearest(base.of, self.bases)}")
            if self.bases[base.of].way not in ("train", "decay", "mid"):
                raise ValueError(
                    f"bases.{name}: of = {base.of!r} is no run; a base with a schedule, a "
                    "cooldown or data is valid"
                )
            self._check_circle(name)

    def _check_circle(self, name: str) -> None:
        seen, at = [name], self.bases[name].of
        while at is not None and at in self.bases:
            if at in seen:
                raise ValueError(f"bases.{name}: of goes round in a circle, {' of '.join(seen)}")
            seen.append(at)
            at = self.bases[at].of


class Design:
    """The study file with its recipe, checked. Raises a UserError with the file and the key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = checked(Table, read_toml(path), str(path))
        beside = path.parent / self.table.recipe
        self._recipe = recipes.read_table(str(beside) if beside.is_file() else self.table.recipe)
        self.tokens = self._tokens(self.table.tokens, "tokens")
        for task in self.table.tasks.values():
            if not Path(task.data).is_file():
                raise UserError(f"{path}: there is no file {task.data}")
        for name, base in self.table.bases.items():
            if base.way == "train":
                self.recipe(name, self.table.seeds[0])
            self.ends(name)

    def _tokens(self, text: str, what: str) -> Quantity:
        found = duration(text, what=f"{self.path}: {what}")
        if found.unit != "tokens":
            raise UserError(f"{self.path}: {what} = {text!r}; tokens are valid, as 8M-tokens")
        return found

    def tuned_by(self, seed: int) -> int:
        """The seed that chooses the rates of a seed's fine-tuning."""
        return self.table.seeds[0] if self.table.finetune.tune == "first seed" else seed

    def ends(self, name: str) -> Quantity:
        """Tokens that a base has seen."""
        base = self.table.bases[name]
        if base.way == "train":
            return self.tokens
        assert base.of is not None
        before = self.ends(base.of)
        if base.more is None:
            return before
        return Quantity(before.amount + self._tokens(base.more, f"bases.{name}.more").amount,
                        "tokens")  # fmt: skip

    def ends_by_itself(self, name: str) -> bool:
        """Whether a base with a run of its own has a schedule with a horizon."""
        kind = KINDS.get(str(parse_spec(self.table.bases[name].schedule or "")["kind"]))
        return kind is not None and issubclass(kind, HorizonBound)

    def recipe(self, name: str, seed: int) -> Recipe:
        """Of a base with a run of its own; a schedule with a horizon ends where the study says."""
        base = self.table.bases[name]
        assert base.schedule is not None
        spec = parse_spec(base.schedule)
        if self.ends_by_itself(name):
            spec["horizon"] = str(self.tokens)
        settings = {**self.table.settings, **base.settings, "train.seed": seed}
        table = dict(self._recipe, schedule=spec, name=f"{name}-s{seed}")
        table = recipes.override(table, recipes.settings_of(settings))
        return recipes.recipe(table, f"{self.path}: bases.{name}")

    def files(self) -> dict[str, str]:
        """The design as files that `Design` reads back the same."""
        table = TypeAdapter(Table).dump_python(self.table, exclude_none=True)
        table["recipe"] = "recipe.toml"
        return {"study.toml": tomli_w.dumps(table), "recipe.toml": tomli_w.dumps(self._recipe)}
