"""The best risk that is known at each horizon, when every setting is tuned for that horizon.

The arms: WSD over its decay, cosine and linear to 0, read at their last iterate, as they are run;
WSD, a constant rate and a power law, read from an average with weights s^p. All over peak, warmup
and p, by search. The power law contains the constant rate, so no schedule of its kind that serves
many horizons can be below the best of the arms at one of them.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import inf

from anytrain.rules import Rule
from anytrain.schedules import Schedule
from anytrain.theory.plans import AVERAGED, DECAYED, RULES, Bench, Plan, rounded
from anytrain.theory.search import Values, search

ARMS = (*DECAYED, *AVERAGED)


@dataclass(frozen=True)
class Tuned:
    """An arm with the settings that are best at one horizon."""

    name: str
    schedule: Schedule
    rule: Rule | None  # None: the last iterate
    risk: float  # ½ Σ λ E[(w̄ − w*)²] at the horizon
    edges: tuple[str, ...]  # settings at an end of the range that was searched
    evaluations: int


@dataclass(frozen=True)
class Baseline:
    """Every arm at one horizon, the best one first."""

    horizon: int  # steps
    arms: tuple[Tuned, ...]

    @property
    def best(self) -> Tuned:
        return self.arms[0]

    @property
    def decayed(self) -> Tuned:
        """The best without an average: what is run where the horizon is known."""
        return next(arm for arm in self.arms if arm.rule is None)


def baselines(
    bench: Bench, horizons: Sequence[int], arms: Sequence[Plan] = ARMS, workers: int = 1
) -> list[Baseline]:
    """All arms at all horizons: searched in strides, what they came to run step by step."""

    def run(task: tuple[int, Plan]) -> Tuned:
        return tune(bench, task[1], task[0])

    with ThreadPoolExecutor(workers) as pool:  # the long ones first, so that none is left over
        tasks = sorted(product(horizons, arms), key=lambda task: -task[0])
        tuned = list(pool.map(run, tasks))
    found: dict[int, list[Tuned]] = {}
    for (horizon, _), arm in zip(tasks, tuned, strict=True):
        found.setdefault(horizon, []).append(arm)
    return [
        Baseline(horizon, tuple(sorted(found[horizon], key=lambda arm: arm.risk)))
        for horizon in horizons
    ]


def tune(bench: Bench, plan: Plan, horizon: int) -> Tuned:
    """The settings of one arm with the least risk at one horizon."""
    reference = float(horizon)

    def risk(values: Values) -> float:
        try:
            schedule = plan.schedule(values, bench, reference)
        except ValueError:
            return inf
        rule = RULES["polynomial"](values["average"]) if plan.averaged else None
        return float(bench.strides.risk(schedule, rule, (horizon,))[0])

    found = search(risk, plan.axes(bench, horizon, horizon))
    schedule = rounded(plan.schedule(found.values, bench, reference))
    rule = rounded(RULES["polynomial"](found.values["average"])) if plan.averaged else None
    least = float(bench.risk(schedule, rule, (horizon,))[0])
    return Tuned(plan.name, schedule, rule, least, found.edges, found.evaluations)
