"""The frontier: at 1, 2, 4, 8 … units, what raw weights, averages and decayed runs reach.

Everything is compared at equal total tokens. A run with a horizon (cosine, linear, WSD, or a
cooldown branched from the trunk) counts once, with the raw weights at the horizon it ended at,
and its tokens include those of the trunk before the branch. Only measured losses enter: a moment
without an evaluation stays empty.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from anytrain.errors import UserError
from anytrain.evaluations import RAW, Evaluation, best_so_far, evaluations
from anytrain.files import Record
from anytrain.grammar import duration, parse_spec
from anytrain.rundir import RunDir
from anytrain.schedules import KINDS, HorizonBound

# --- what the recipe says --------------------------------------------------------------------


def tokens_per_step(recipe: Record) -> int:
    """Tokens of one step at the reference batch, which is what durations resolve through."""
    train = recipe["train"]
    return int(train.get("reference_batch") or train["batch"]) * int(train["context"])


def unit_tokens(recipe: Record) -> int:
    """1×, in tokens."""
    if "unit" not in recipe:
        raise UserError("recipe.toml has no unit; a run's recipe names one, such as 250-steps")
    return round(
        duration(recipe["unit"], what="unit").steps(tokens_per_step(recipe))
        * tokens_per_step(recipe)
    )


def schedule_table(recipe: Record) -> dict[str, Any]:
    """The schedule as {"kind": …, parameter: text}; classes of a user's own need no import."""
    spec = recipe["schedule"]
    return parse_spec(spec) if isinstance(spec, str) else dict(spec)


def horizon_kind(recipe: Record) -> str | None:
    """`cooldown`, `cosine`, `wsd`, `linear`: the schedule's kind if it has a horizon."""
    kind = schedule_table(recipe)["kind"]
    cls = KINDS.get(kind)
    return kind if cls is not None and issubclass(cls, HorizonBound) else None


def warmup_tokens(recipe: Record) -> float:
    """Where the warmup ends, in tokens; 0 where the schedule names none."""
    table = schedule_table(recipe)
    trunk = table.get("trunk", table)
    if not isinstance(trunk, dict) or "warmup" not in trunk:
        return 0.0
    per_step = tokens_per_step(recipe)
    return duration(str(trunk["warmup"]), what="warmup").steps(per_step) * per_step


# --- runs side by side -----------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """A run with a horizon, read where it ended."""

    name: str
    kind: str  # cooldown, cosine, wsd, linear
    schedule: str
    end: Evaluation
    path: tuple[Evaluation, ...]  # its own evaluations, from the branching on
    forked_at: int | None = None  # tokens, where it left its parent

    @property
    def loss(self) -> float:
        """Raw weights at the horizon, nats/token."""
        return self.end.losses[RAW]


@dataclass(frozen=True)
class Row:
    """One moment of the trunk and what others reach with the same tokens."""

    tokens: int
    units: float
    step: int | None  # None: the trunk was not evaluated here
    losses: dict[str, float]  # weights -> nats/token; raw and every average measured here
    stderr: dict[str, float]
    decayed: dict[str, Branch]  # kind -> the best that ended here
    others: dict[str, tuple[str, float]]  # other run -> its best weights here

    @property
    def best(self) -> tuple[str, float] | None:
        return min(self.losses.items(), key=lambda item: item[1]) if self.losses else None

    def minus(self, kind: str) -> float | None:
        """Best − decayed, nats/token: below 0, the run without a horizon leads."""
        if self.best is None or kind not in self.decayed:
            return None
        return self.best[1] - self.decayed[kind].loss

    @property
    def minus_raw(self) -> float | None:
        """Best − raw, nats/token: what averaging gains."""
        if self.best is None or RAW not in self.losses:
            return None
        return self.best[1] - self.losses[RAW]


@dataclass(frozen=True)
class Frontier:
    """A trunk, its moments, and the runs beside it."""

    name: str
    run: RunDir
    unit: int  # tokens
    evaluations: tuple[Evaluation, ...]
    rows: tuple[Row, ...]
    branches: tuple[Branch, ...]  # by tokens
    others: dict[str, tuple[Evaluation, ...]]  # other runs without a horizon
    notes: tuple[str, ...]  # sentences on what was left out or cannot be compared

    @cached_property
    def weights(self) -> list[str]:
        """`raw`, then every average, in the order in which the run names them."""
        names = dict.fromkeys(n for e in self.evaluations for n in e.losses if n != RAW)
        return [RAW, *names] if self.evaluations else []

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds of decayed runs that a row is compared with."""
        return list(dict.fromkeys(kind for row in self.rows for kind in row.decayed))

    @property
    def best(self) -> Evaluation | None:
        return best_so_far(self.evaluations)


def frontier(trunk: RunDir, beside: Sequence[RunDir] = ()) -> Frontier:
    """The trunk at every power-of-two multiple of its unit, where a branch ended, and now."""
    recipe = trunk.recipe
    unit = unit_tokens(recipe)
    slack = max(trunk.tokens_per_step, tokens_per_step(recipe))  # a step may overshoot by one
    measured = evaluations(trunk)
    names = _names([trunk, *beside])
    branches: list[Branch] = []
    others: dict[str, tuple[Evaluation, ...]] = {}
    notes: list[str] = []
    for name, run in zip(names[1:], beside, strict=True):
        found = evaluations(run)
        notes += _differences(name, found, measured)
        if (run.identity.get("parent") or {}).get("stage") == "mid":
            notes.append(f"{name} is mid-training: its losses are of its own data")
            others[name] = tuple(found)
            continue
        if horizon_kind(run.recipe) is None:
            others[name] = tuple(found)
            continue
        branch = _branch(name, run, found)
        if isinstance(branch, Branch):
            branches.append(branch)
        else:
            notes.append(branch)
    branches.sort(key=lambda branch: branch.end.tokens)
    rows = [
        _row(moment, unit, slack, measured, branches, others)
        for moment in _moments(unit, slack, measured, branches)
    ]
    rows = [row for row in rows if row.losses or row.decayed]
    return Frontier(
        names[0], trunk, unit, tuple(measured), tuple(rows), tuple(branches), others, tuple(notes)
    )


def _names(runs: Sequence[RunDir]) -> list[str]:
    """The last part of each path, or all of it where two runs share their last part."""
    short = [run.path.resolve().name for run in runs]
    return [s if short.count(s) == 1 else str(r.path) for s, r in zip(short, runs, strict=True)]


def _branch(name: str, run: RunDir, found: list[Evaluation]) -> Branch | str:
    """A run with a horizon, if it got there; else the sentence that says how far it is."""
    recipe, per_step = run.recipe, tokens_per_step(run.recipe)
    table = schedule_table(recipe)
    horizon = duration(str(table["horizon"]), what="horizon").steps(per_step)  # steps
    reached = [e for e in found if RAW in e.losses]
    progress = 0.0
    if reached:
        last = reached[-1]
        progress = last.t if last.t is not None else last.tokens / per_step
    if not reached or progress < horizon - 0.5:
        return f"{name} is left out: it is at step {progress:g} of its horizon of {horizon:g}"
    parent = run.identity.get("parent") or {}
    fork = parent.get("tokens")
    path = tuple(e for e in reached if fork is None or e.tokens >= fork)
    spec = recipe["schedule"]
    text = spec if isinstance(spec, str) else json.dumps(spec)
    return Branch(name, str(table["kind"]), text, reached[-1], path, fork)


def _differences(name: str, found: list[Evaluation], trunk: list[Evaluation]) -> list[str]:
    sizes = [{e.validated for e in run if e.validated is not None} for run in (found, trunk)]
    if all(sizes) and not sizes[0] & sizes[1]:
        ours, theirs = max(sizes[1]), max(sizes[0])
        return [
            f"{name} is validated on {theirs} tokens and the trunk on {ours}: "
            "their losses are not of the same text"
        ]
    return []


def _moments(
    unit: int, slack: int, measured: list[Evaluation], branches: Sequence[Branch]
) -> list[int]:
    """Tokens of every row: 2^k units reached, horizons of branches off those, and the last one."""
    ends = [branch.end.tokens for branch in branches]
    last = [measured[-1].tokens] if measured else []
    reach = max(ends + last, default=0)
    marks: list[int] = []
    while unit << len(marks) <= reach:
        marks.append(unit << len(marks))
    for tokens in ends + last:
        if not any(0 <= tokens - mark < slack for mark in marks):
            marks.append(tokens)
    return sorted(marks)


def _row(
    tokens: int,
    unit: int,
    slack: int,
    measured: list[Evaluation],
    branches: Sequence[Branch],
    others: dict[str, tuple[Evaluation, ...]],
) -> Row:
    here = _at(measured, tokens, slack)
    decayed: dict[str, Branch] = {}
    for branch in branches:
        rival = decayed.get(branch.kind)
        if 0 <= branch.end.tokens - tokens < slack and (rival is None or branch.loss < rival.loss):
            decayed[branch.kind] = branch
    beside = {name: _at(found, tokens, slack) for name, found in others.items()}
    return Row(
        tokens,
        tokens / unit,
        here.step if here else None,
        here.losses if here else {},
        here.stderr if here else {},
        decayed,
        {name: found.best for name, found in beside.items() if found},
    )


def _at(found: Iterable[Evaluation], tokens: int, slack: int) -> Evaluation | None:
    """The evaluation of the first step that reaches `tokens`, if there was one."""
    return next((e for e in found if 0 <= e.tokens - tokens < slack), None)
