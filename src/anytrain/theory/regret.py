"""Anytime regret: what a schedule loses for not knowing how long it will run.

    regret(schedule, average; N₁ … N₂) = max over N of risk(N) / best(N)

best(N) is the least risk of the arms of `baselines`, every setting tuned for N. A regret of 1 would
mean that knowing the horizon buys nothing. The search for the schedule of least regret goes over
families t^(−γ) with settings that are the same for every N, and over averaging rules.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, log10, sqrt
from typing import NamedTuple

import numpy as np

from anytrain import schedules
from anytrain.rules import Rule
from anytrain.schedules import Schedule
from anytrain.theory.baselines import ARMS, Baseline, baselines
from anytrain.theory.plans import (
    BARE_INVERSE_SQRT,
    CONSTANT,
    FREE,
    INVERSE_SQRT,
    RULES,
    Bench,
    Plan,
    power,
    rounded,
)
from anytrain.theory.problem import Array, Problem
from anytrain.theory.rates import rates
from anytrain.theory.search import Found, Values, search

PER_DECADE = 4  # horizons at which ratios are taken
LEAST, MOST = 10, 10_000_000  # steps of a budget
GAIN = 1e-3  # by which another kind of average has to be better than the polynomial one


class Range(NamedTuple):
    """The horizons at which a regret is taken, and the risk there that is to be reached."""

    horizons: tuple[int, ...]  # steps, rising
    best: Array  # (M,)


@dataclass(frozen=True)
class Candidate:
    """One schedule and one average for every horizon, and what they lose at each."""

    family: str
    schedule: Schedule
    rule: Rule
    multiplier: float  # peak × tr H
    horizons: tuple[int, ...]
    risk: tuple[float, ...]  # at the horizons
    ratios: tuple[float, ...]  # risk over the best that knows the horizon
    edges: tuple[str, ...]  # settings at an end of the range that was searched
    rules: dict[str, float]  # the regret with each kind of average, each searched; in strides
    evaluations: int

    @property
    def regret(self) -> float:
        return max(self.ratios)

    @property
    def worst(self) -> int:
        """The horizon with the largest ratio."""
        return self.horizons[int(np.argmax(self.ratios))]


@dataclass(frozen=True)
class Advice:
    """The families from the least regret on, and what they are measured against."""

    problem: Problem
    batch: float
    warmup: bool  # whether schedules, those of the baselines too, may warm up
    baselines: tuple[Baseline, ...]
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate:
        return self.candidates[0]

    def against_decayed(self, candidate: Candidate) -> Array:
        """Risk over that of the best WSD, cosine or linear run without an average (M,)."""
        return np.array(candidate.risk) / [line.decayed.risk for line in self.baselines]


def horizons(low: int, high: int, per_decade: int = PER_DECADE) -> tuple[int, ...]:
    """Whole steps from `low` to `high`, even in their logarithm."""
    if not LEAST <= low <= high <= MOST:
        raise ValueError(
            f"budgets from {low:g} to {high:g} steps; {LEAST} <= low <= high <= {MOST:,} is valid"
        )
    count = 1 + int(np.ceil(per_decade * log10(high / low) - 1e-9))
    return tuple(sorted({round(n) for n in np.geomspace(low, high, count).tolist()}))


def families(problem: Problem) -> tuple[Plan, ...]:
    """Those that `power`, which is searched beside them, contains."""
    gamma = rates(problem.capacity, problem.source).gamma
    own = () if gamma in (0.0, 0.5) else (power("t^−γ*", gamma),)
    return (CONSTANT, BARE_INVERSE_SQRT, INVERSE_SQRT, *own)


def advise(
    problem: Problem,
    low: int,
    high: int,
    *,
    batch: float = 1.0,
    warmup: bool = True,
    workers: int = 1,
    per_decade: int = PER_DECADE,
) -> Advice:
    """The schedule and average of least anytime regret on budgets of `low` to `high` steps."""
    at = horizons(low, high, per_decade)
    bench = Bench(problem, high, batch, warmup)
    lines = baselines(bench, at, ARMS, workers)
    span = Range(at, np.array([line.best.risk for line in lines]))
    found = compare(bench, span, families(problem), workers)
    ranked = sorted(found, key=lambda candidate: candidate.regret)
    return Advice(problem, batch, warmup, tuple(lines), tuple(ranked))


def _middle(span: Range) -> float:
    return sqrt(span.horizons[0] * span.horizons[-1])


class _Searched(NamedTuple):
    kind: str  # of average, a key of RULES
    found: Found
    rules: dict[str, float]


def compare(bench: Bench, span: Range, plans: Sequence[Plan], workers: int = 1) -> list[Candidate]:
    """Each of the plans at its least regret, and `power`, begun at what they came to as well."""

    def run(plan: Plan) -> tuple[Values, Candidate]:
        searched = _search(bench, span, plan)
        one = _candidate(bench, span, plan, searched)
        level = one.schedule(_middle(span)) * bench.trace
        return {**plan.fixed, **searched.found.values, "level": level}, one

    with ThreadPoolExecutor(workers) as pool:
        ends = list(pool.map(run, plans))
    searched = _search(bench, span, FREE, [begin for begin, _ in ends])
    return [*(one for _, one in ends), _candidate(bench, span, FREE, searched)]


def _search(bench: Bench, span: Range, plan: Plan, begin: Sequence[Values] = ()) -> _Searched:
    """The least regret with a polynomial average, and from there with the other kinds."""
    at = span.horizons
    axes, middle = plan.axes(bench, at[0], at[-1]), _middle(span)

    def least(kind: str, begin: Sequence[Values], keep: int) -> Found:
        def regret(values: Values) -> float:
            try:
                schedule = plan.schedule(values, bench, middle)
            except ValueError:
                return inf
            risk = bench.strides.risk(schedule, RULES[kind](values["average"]), at)
            return float(np.max(risk / span.best))

        return search(regret, axes, begin=begin, keep=keep)

    first, *others = RULES
    found = {first: least(first, begin, 2)}
    found |= {kind: least(kind, [found[first].values], 0) for kind in others}
    best = min(found, key=lambda kind: found[kind].least)
    kind = best if found[best].least < (1.0 - GAIN) * found[first].least else first
    evaluations = sum(one.evaluations for one in found.values())
    rules = {name: one.least for name, one in found.items()}
    return _Searched(kind, found[kind]._replace(evaluations=evaluations), rules)


def _candidate(bench: Bench, span: Range, plan: Plan, searched: _Searched) -> Candidate:
    """What was found, its numbers rounded, run step by step."""
    values, at = searched.found.values, span.horizons
    schedule = rounded(plan.schedule(values, bench, _middle(span)))
    rule = rounded(RULES[searched.kind](values["average"]))
    risk = bench.risk(schedule, rule, at)
    peak = schedules.peak(schedule)
    assert peak is not None
    return Candidate(
        plan.name, schedule, rule, peak * bench.trace, at, tuple(risk.tolist()),
        tuple((risk / span.best).tolist()), searched.found.edges, searched.rules,
        searched.found.evaluations,
    )  # fmt: skip
