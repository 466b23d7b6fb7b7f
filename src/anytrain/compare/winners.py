"""Which average of a horizon-free run is best at which horizon, and what raw weights lack."""

from collections import defaultdict
from dataclasses import dataclass
from math import isfinite

from anytrain.compare.results import Choice, Results
from anytrain.evaluations import RAW


@dataclass(frozen=True)
class Winners:
    """The weights of the chosen setting, mean over the report seeds, above the horizon's best."""

    choice: Choice
    above: dict[float, dict[str, float]]  # horizon -> weights -> nats/token
    best: dict[float, str]  # horizon -> weights

    @property
    def raw(self) -> dict[float, float]:
        """Horizon -> raw weights' loss minus the chosen average's."""
        chosen = self.choice.weights
        return {
            h: row[RAW] - row[chosen]
            for h, row in self.above.items()
            if RAW in row and chosen in row and chosen != RAW
        }

    @property
    def highest(self) -> float:
        return max(value for row in self.above.values() for value in row.values())

    def gain(self) -> float:
        """Raw minus the chosen average, the mean over horizons."""
        return sum(self.raw.values()) / len(self.raw)


def winners(results: Results, arm: str) -> Winners | None:
    """Of a free arm at its one setting; None while nothing of it is reported."""
    choice = results.choice(arm)
    if choice is None:
        return None
    losses: dict[tuple[float, str], list[float]] = defaultdict(list)
    for o in results.observations:
        if (o.arm, o.phase, o.setting) == (arm, "report", choice.setting) and isfinite(o.loss):
            losses[o.horizon, o.weights].append(o.loss)
    above: dict[float, dict[str, float]] = {}
    for h in results.horizons:
        row = {w: sum(v) / len(v) for (at, w), v in losses.items() if at == h}
        if row:
            above[h] = {w: loss - min(row.values()) for w, loss in row.items()}
    if not above:
        return None
    best = {h: min(row, key=lambda w: row[w]) for h, row in above.items()}
    return Winners(choice, above, best)
