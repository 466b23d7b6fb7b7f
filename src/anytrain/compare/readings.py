"""What the chosen model of every arm came to at every horizon, and its difference to the baseline.

A free arm is read twice: "one" is one setting and one average for all horizons, "each" the best
setting and average of each horizon. An arm with a horizon has only "each".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anytrain.compare.paired import Interval, over_seeds, over_sequences
from anytrain.compare.results import Choice, Observation, Results

Variant = Literal["one", "each"]


@dataclass(frozen=True)
class Reading:
    """The reported losses of a choice at a horizon, at least one seed."""

    arm: str
    horizon: float  # units
    variant: Variant
    choice: Choice
    observations: Mapping[int, Observation]  # seed ->

    @property
    def loss(self) -> float:
        """Mean over the seeds, nats/token."""
        return sum(o.loss for o in self.observations.values()) / len(self.observations)

    @property
    def losses(self) -> list[float]:
        return [o.loss for o in self.observations.values()]


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline at equal tokens, seed by seed; below zero the arm is better."""

    reading: Reading
    baseline: Reading
    by_seed: Mapping[int, float]  # nats/token
    seeds: Interval  # given these held-out sequences
    sequences: Interval | None  # over seeds and sequences; None: not kept by sequence

    @property
    def arm(self) -> str:
        return self.reading.arm

    @property
    def horizon(self) -> float:
        return self.reading.horizon


def variants(results: Results, arm: str) -> tuple[Variant, ...]:
    """The ways an arm is read, the one it is judged by first."""
    return ("one", "each") if results.arms[arm].kind == "free" else ("each",)


def same(results: Results, arm: str, horizon: float) -> bool:
    """Whether a free arm's choice for a horizon is its choice for all."""
    one, each = results.choice(arm), results.choice(arm, horizon)
    if one is None or each is None:
        return False
    return (one.setting, one.weights) == (each.setting, each.weights)


def told(results: Results, arm: str) -> tuple[Variant, ...]:
    """`variants`, without "each" where it is "one" at every horizon."""
    if all(same(results, arm, h) for h in results.horizons):
        return ("one",)
    return variants(results, arm)


def reading(
    results: Results, arm: str, horizon: float, variant: Variant | None = None
) -> Reading | None:
    """The reported losses of an arm's choice; None while there are none."""
    variant = variant or variants(results, arm)[0]
    choice = results.choice(arm, None if variant == "one" else horizon)
    found = results.reported(arm, horizon, choice) if choice else {}
    if choice is None or not found:
        return None
    return Reading(arm, horizon, variant, choice, dict(sorted(found.items())))


def difference(
    results: Results,
    arm: str,
    horizon: float,
    variant: Variant | None = None,
    to: str | None = None,  # another arm than the baseline
) -> Difference | None:
    """An arm minus the baseline on the seeds both have; None where they have none in common."""
    ours = reading(results, arm, horizon, variant)
    base = reading(results, to or results.baseline, horizon)
    if ours is None or base is None:
        return None
    by_seed = {
        seed: o.loss - base.observations[seed].loss
        for seed, o in ours.observations.items()
        if seed in base.observations
    }
    if not by_seed:
        return None
    seeds = over_seeds(list(by_seed.values()))
    return Difference(ours, base, by_seed, seeds, _sequences(results, ours, base, list(by_seed)))


def _sequences(results: Results, ours: Reading, base: Reading, seeds: list[int]) -> Interval | None:
    """The interval over sequences too, where every seed kept the losses of the same number."""
    rows = []
    for seed in seeds:
        pair = [
            results.sequences.get((o.run, o.horizon, o.weights))
            for o in (ours.observations[seed], base.observations[seed])
        ]
        if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
            return None
        rows.append(pair[0].astype(np.float64) - pair[1])
    if len({row.shape for row in rows}) != 1:
        return None
    return over_sequences(np.stack(rows))


def differences(
    results: Results, arm: str, variant: Variant | None = None
) -> dict[float, Difference]:
    """Horizon -> difference, of the horizons that have been measured."""
    found = {h: difference(results, arm, h, variant) for h in results.horizons}
    return {h: d for h, d in found.items() if d is not None}


def average(found: Mapping[float, Difference]) -> Interval | None:
    """The mean over horizons, on the seeds that every one of them has."""
    shared = set.intersection(*(set(d.by_seed) for d in found.values())) if found else set()
    if not shared:
        return None
    return over_seeds(
        [sum(d.by_seed[s] for d in found.values()) / len(found) for s in sorted(shared)]
    )


def anytime(results: Results) -> str | None:
    """The free arm whose one choice was the best while tuning: no report has a say in it."""
    found = [c for a in results.arms.values() if a.kind == "free" if (c := results.choice(a.name))]
    return min(found, key=lambda choice: choice.loss).arm if found else None


def branched(results: Results) -> str | None:
    """The first branch arm (WSD), if there is one."""
    arms = [arm for arm in results.arms.values() if arm.kind == "branch"]
    return arms[0].name if arms else None
