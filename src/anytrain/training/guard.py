"""Loss spikes: which batches are so far out that their update is better not made."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from anytrain.training import tables

_SIGMA = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


@dataclass(frozen=True)
class Spike:
    """A batch that was read and whose update was not made. None is no finite number."""

    loss: float | None  # nats/token
    grad_norm: float | None  # before clipping
    limits: dict[str, float | None]  # of both

    def __str__(self) -> str:
        said = {"loss": self.loss, "grad_norm": self.grad_norm}
        return ", ".join(
            f"{name.replace('grad_norm', 'gradient norm')} {_said(value)} "
            f"(limit {_said(self.limits[name])})"
            for name, value in said.items()
        )


class Guard:
    """Judges a batch by the ones before it. A part of the run's state; all processes agree.

    A loss or gradient norm x spikes where x > median + k·1.4826·MAD of the last `window`. What
    spiked is remembered too: a level that stays is soon no spike any more, so a run cannot skip
    for ever. What is no number spikes at any time, but not twice in a row: that is the weights.
    """

    def __init__(self, settings: tables.Guard) -> None:
        self.settings = settings
        self.losses: deque[float] = deque(maxlen=settings.window)
        self.norms: deque[float] = deque(maxlen=settings.window)
        self.lost = False  # whether the last batch gave no number
        self.rewound: int | None = None  # step of the checkpoint that was last gone back to

    def spike(self, loss: float, norm: float) -> Spike | None:
        """What is wrong with a batch, if anything; it is remembered."""
        limits = {"loss": self._limit(self.losses), "grad_norm": self._limit(self.norms)}
        number = math.isfinite(loss) and math.isfinite(norm)
        if number:
            self.losses.append(loss)
            self.norms.append(norm)
        elif self.lost:
            return None
        self.lost = not number
        if number and loss <= limits["loss"] and norm <= limits["grad_norm"]:
            return None
        known = {name: _number(limit) for name, limit in limits.items()}
        return Spike(_number(loss), _number(norm), known)

    def _limit(self, seen: deque[float]) -> float:
        return limit(seen, self.settings.deviations) if len(seen) == seen.maxlen else math.inf

    def state(self) -> dict[str, Any]:
        """Plain data, for `restore`."""
        remembered = {"losses": list(self.losses), "norms": list(self.norms)}
        return remembered | {"lost": self.lost, "rewound": self.rewound}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Become the guard that had this state; without one, begin afresh."""
        state = state or Guard(self.settings).state()
        for remembered, saved in ((self.losses, "losses"), (self.norms, "norms")):
            remembered.clear()
            remembered.extend(state[saved])
        self.lost, self.rewound = state["lost"], state["rewound"]


def limit(seen: Iterable[float], deviations: float) -> float:
    """The median and so many robust deviations; none where most of `seen` are the same."""
    seen = list(seen)
    middle = median(seen)
    spread = _SIGMA * median(abs(x - middle) for x in seen)
    return middle + deviations * spread if spread > 0 else math.inf


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
