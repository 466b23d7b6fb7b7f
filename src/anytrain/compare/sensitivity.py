"""How the tuning loss of an arm depends on its rate, or what else was tuned, at every horizon."""

from collections import defaultdict
from dataclasses import dataclass
from math import isfinite

from anytrain.compare.results import Observation, Results

_RATES = ("peak", "lr", "rate")


@dataclass(frozen=True)
class Sensitivity:
    """Loss above the horizon's best, the other settings at their best for each value."""

    arm: str
    key: str  # schedule.peak
    above: dict[float, dict[float, float]]  # horizon -> value of `key` -> nats/token
    best: dict[float, float]  # horizon -> value of `key`

    @property
    def what(self) -> str:
        """The setting by its name; "rate" of a peak."""
        name = self.key.rpartition(".")[2]
        return "rate" if name in _RATES else name

    @property
    def tried(self) -> list[float]:
        """All values, the smallest first."""
        return sorted({value for row in self.above.values() for value in row})


def parsed(setting: str) -> dict[str, str]:
    """A grid point, "schedule.peak=0.003 optimizer.beta2=0.95", as a table."""
    pairs = (part.partition("=") for part in setting.split())
    return {key: value for key, equals, value in pairs if equals}


def rate_key(results: Results, arm: str) -> str | None:
    """The setting that is a rate, or else the first number that tuning varied."""
    varied: dict[str, set[str]] = defaultdict(set)
    for o in results.observations:
        if o.arm == arm and o.phase == "tune":
            for key, value in parsed(o.setting).items():
                varied[key].add(value)
    keys = [key for key, found in varied.items() if len(found) > 1 and all(map(_number, found))]
    rates = [key for key in keys if key.rpartition(".")[2] in _RATES]
    return next(iter([*rates, *keys]), None)


def sensitivity(results: Results, arm: str) -> Sensitivity | None:
    """None where tuning varied no number, or has not begun."""
    key = rate_key(results, arm)
    if key is None:
        return None
    above: dict[float, dict[float, float]] = {}
    for h in results.horizons:
        profile = _profile(results, arm, h, key)
        if profile:
            least = min(profile.values())
            above[h] = {value: loss - least for value, loss in sorted(profile.items())}
    if not above:
        return None
    best = {h: min(row, key=lambda value: row[value]) for h, row in above.items()}
    return Sensitivity(arm, key, above, best)


def _profile(results: Results, arm: str, horizon: float, key: str) -> dict[float, float]:
    """Value -> the smallest mean loss over the tune seeds, in the weights that were chosen."""
    choice = results.choice(arm) or results.choice(arm, horizon)
    cells: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for o in results.observations:
        if (o.arm, o.phase, o.horizon) == (arm, "tune", horizon):
            cells[o.setting, o.weights].append(o)
    out: dict[float, float] = {}
    for (setting, weights), found in cells.items():
        text = parsed(setting).get(key)
        if text is None or (choice is not None and weights != choice.weights):
            continue
        loss = sum(o.loss for o in found) / len(found)
        if isfinite(loss):  # else it diverged
            value = float(text)
            out[value] = min(loss, out.get(value, loss))
    return out


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
