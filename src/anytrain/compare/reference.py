"""What the paper measured: its losses at every horizon, to lay a study beside."""

import csv
from dataclasses import dataclass
from importlib.resources import files

ARMS = ("constant", "inverse_sqrt", "wsd")
BASELINE = "cosine"


@dataclass(frozen=True)
class Reference:
    """One model at one horizon, one seed (arXiv:2602.03702, figure 2)."""

    source: str  # arXiv id
    model: str
    horizon: float  # multiples of the model's compute-optimal tokens
    tokens: int
    losses: dict[str, float]  # arm -> nats/token

    def minus_baseline(self, arm: str) -> float:
        return self.losses[arm] - self.losses[BASELINE]


def reference() -> tuple[Reference, ...]:
    """Every row of reference.csv, in its order."""
    text = files("anytrain.compare").joinpath("reference.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Reference(
            row["source"],
            row["model"],
            float(row["horizon"]),
            int(row["tokens"]),
            {arm: float(row[arm]) for arm in (BASELINE, *ARMS)},
        )
        for row in csv.DictReader(lines)
    )
