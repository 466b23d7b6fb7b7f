"""What tuning chooses: one setting and average for all horizons, and the best of each horizon.

An arm without a horizon is given one setting and one of its weights for all horizons, by the mean
loss over them (as arXiv:2602.03702 does), and beside it the best of each horizon: what knowing the
budget would have chosen. An arm with a horizon, or branches, is tuned for each horizon and read
from the raw weights at its end. Ties go to the first in the grid.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

from anytrain.compare.results import Arm, Choice, Observation
from anytrain.evaluations import RAW

_Candidate = tuple[str, str]  # setting, weights


def choose(arm: Arm, horizons: Sequence[float], tuned: Iterable[Observation]) -> list[Choice]:
    """The choices of an arm from its observations in tuning.

    A run that diverged has none, and is never chosen.
    """
    table = _losses(o for o in tuned if _counts(arm, o))
    one = _one(arm, horizons, table) if arm.kind == "free" else []
    return one + _each(arm, horizons, table)


def _counts(arm: Arm, found: Observation) -> bool:
    return arm.kind == "free" or found.weights == RAW


def _losses(rows: Iterable[Observation]) -> dict[float, dict[_Candidate, float]]:
    """Horizon -> candidate -> loss, the mean over tuning seeds."""
    seeds: dict[float, dict[_Candidate, list[float]]] = {}
    for o in rows:
        here = seeds.setdefault(o.horizon, {})
        here.setdefault((o.setting, o.weights), []).append(o.loss)
    return {h: {c: fmean(v) for c, v in of.items()} for h, of in seeds.items()}


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
    """Keys whose value in `setting` is the least or largest number of a grid of several."""
    values = dict(part.split("=", 1) for part in setting.split())
    found = []
    for key, grid in arm.grid.items():
        numbers = sorted(float(v) for v in grid if isinstance(v, int | float))
        if len(numbers) > 1 and float(values[key]) in (numbers[0], numbers[-1]):
            found.append(key)
    return tuple(found)
