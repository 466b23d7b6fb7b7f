"""What tuning chooses: one setting and average for all horizons, and the best of each horizon.

An arm without a horizon is given one setting and one of its weights for all horizons, by the mean
loss over them (as arXiv:2602.03702 does), and beside it the best of each horizon: what knowing the
budget would have chosen. An arm with a horizon, or branches, is tuned for each horizon and read
from the raw weights at its end. Ties go to the first in the grid.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

from anytrain.compare.results import Arm, Choice, Observation
from anytrain.errors import UserError
from anytrain.evaluations import RAW
from anytrain.grammar import duration
from anytrain.study.table import point_text

_Candidate = tuple[str, str]  # setting, weights


def choose(arm: Arm, horizons: Sequence[float], tuned: Iterable[Observation]) -> list[Choice]:
    """The choices of an arm from its observations in tuning.

    A run that diverged has none; a setting that diverged on any seed is not chosen.
    """
    table = _losses(o for o in tuned if _counts(arm, o))
    one = _one(arm, horizons, table) if arm.kind == "free" else []
    return one + _each(arm, horizons, table)


def _counts(arm: Arm, found: Observation) -> bool:
    return arm.kind == "free" or found.weights == RAW


def _losses(rows: Iterable[Observation]) -> dict[float, dict[_Candidate, float]]:
    """Horizon -> candidate -> loss, the mean over tuning seeds; of those that have all of them."""
    by_seed: dict[float, dict[_Candidate, dict[int, float]]] = {}
    seeds = set()
    for o in rows:
        seeds.add(o.seed)
        by_seed.setdefault(o.horizon, {}).setdefault((o.setting, o.weights), {})[o.seed] = o.loss
    return {
        horizon: {c: fmean(of.values()) for c, of in here.items() if of.keys() == seeds}
        for horizon, here in by_seed.items()
    }


def _one(
    arm: Arm, horizons: Sequence[float], table: dict[float, dict[_Candidate, float]]
) -> list[Choice]:
    everywhere = [c for c in table.get(horizons[0], {})
                  if all(c in table.get(h, {}) for h in horizons)]  # fmt: skip
    if not everywhere:
        return []
    means = {c: fmean(table[h][c] for h in horizons) for c in everywhere}
    (setting, weights), loss = min(means.items(), key=lambda item: item[1])
    return [Choice(arm.name, None, setting, weights, loss, edges(arm, setting))]


def _each(
    arm: Arm, horizons: Sequence[float], table: dict[float, dict[_Candidate, float]]
) -> list[Choice]:
    found = []
    for horizon in horizons:
        if table.get(horizon):
            (setting, weights), loss = min(table[horizon].items(), key=lambda item: item[1])
            found.append(Choice(arm.name, horizon, setting, weights, loss, edges(arm, setting)))
    return found


def edges(arm: Arm, setting: str) -> tuple[str, ...]:
    """Keys whose value in `setting` is the least or largest tried with its other values."""
    chosen = next(point for point in arm.points if point_text(point) == setting)
    found = []
    for key, value in chosen.items():
        beside = [point[key] for point in arm.points if {**point, key: value} == chosen]
        unit = _amount(value)[1]
        numbers = [n for n, other in map(_amount, beside) if other == unit and n is not None]
        if len(numbers) > 1 and _amount(value)[0] in (min(numbers), max(numbers)):
            found.append(key)
    return tuple(found)


def _amount(value: int | float | str) -> tuple[float | None, str]:
    """A number and its unit; words that are no amount have no number and no order."""
    if not isinstance(value, str):
        return value, ""
    try:
        found = duration(value)
    except UserError:
        return None, value
    return found.amount, found.unit
