"""A made-up study: five arms, horizons 1, 2, 4 and 8, five report seeds, with known differences."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from anytrain.compare.results import Arm, Choice, Curve, Kind, Observation, Phase, Results, Spent

UNIT = 4_096_000  # tokens
HORIZONS = (1.0, 2.0, 4.0, 8.0)
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
BEST = {"constant": 2e-3, "inverse_sqrt": 4e-3, "cosine": 4e-3, "linear": 4e-3, "wsd": 2e-3}
AVERAGES = {"raw": 0.08, "ema6": 0.012, "ema12": 0.004, "ema25": 0.0, "ema50": 0.006}
KINDS: dict[str, Kind] = {
    "constant": "free",
    "inverse_sqrt": "free",
    "cosine": "bound",
    "linear": "bound",
    "wsd": "branch",
}
# nats/token above the base curve, at each horizon
GAPS = {
    "constant": (-0.030, -0.006, 0.000, 0.004),
    "inverse_sqrt": (-0.028, -0.008, -0.003, -0.001),
    "cosine": (0.0, 0.0, 0.0, 0.0),
    "linear": (-0.004, -0.003, -0.002, -0.002),
    "wsd": (-0.026, -0.004, 0.002, 0.003),
}
SEEDS, SEQUENCES = (11, 12, 13, 14, 15), 48


def base(units: float) -> float:
    """The loss of a tuned cosine, nats/token."""
    return 2.4 + 1.6 * (units + 0.05) ** -0.3


def gap(arm: str, units: float) -> float:
    return float(np.interp(np.log2(units), np.log2(HORIZONS), GAPS[arm]))


def rate_of(setting: str) -> float:
    return float(setting.partition("=")[2])


def averages(arm: str) -> dict[str, float]:
    """Weights that an arm is read from -> how much worse than its best."""
    if KINDS[arm] != "free":
        return {"raw": 0.0}
    return AVERAGES


def loss(arm: str, rate: float, weights: str, units: float) -> float:
    """Without noise: a bowl in log rate, wider averages better early."""
    tilt = {"ema6": -0.014, "ema50": 0.004, "ema12": -0.006}.get(weights, 0.0)
    early = tilt * (2 - np.log2(units)) / 2
    bowl = 0.012 * np.log2(rate / BEST[arm]) ** 2
    return float(base(units) + gap(arm, units) + averages(arm)[weights] + early + bowl)


def _observations(noise: np.random.Generator) -> Iterator[Observation]:
    shared = {(s, h): float(noise.normal(0, 0.004)) for s in (0, *SEEDS) for h in HORIZONS}
    for arm in KINDS:
        phases: tuple[tuple[Phase, tuple[int, ...], tuple[float, ...]], ...] = (
            ("tune", (0,), RATES),
            ("report", SEEDS, (BEST[arm],)),
        )
        for phase, seeds, rates in phases:
            for seed in seeds:
                for rate in rates:
                    for h in HORIZONS:
                        own = float(noise.normal(0, 0.0015)) + shared[seed, h]
                        for weights in averages(arm):
                            run = f"{arm}/{phase}-{seed}-{rate:g}"
                            run += "" if KINDS[arm] == "free" else f"-{h:g}"
                            value = loss(arm, rate, weights, h) + own
                            setting = f"schedule.peak={rate:g}"
                            yield Observation(
                                *(arm, phase, seed, setting, h, weights),
                                *(int(h * UNIT), value, 0.011, run),
                            )


def _choices() -> Iterator[Choice]:
    for arm, kind in KINDS.items():
        weights = "ema25" if kind == "free" else "raw"
        setting = f"schedule.peak={BEST[arm]:g}"
        for h in HORIZONS:
            # the averages tilt: a narrower one is best at the smallest horizon
            best = min(averages(arm), key=lambda name: loss(arm, BEST[arm], name, h))
            yield Choice(arm, h, setting, best, loss(arm, BEST[arm], best, h))
        if kind == "free":
            mean = sum(loss(arm, BEST[arm], weights, h) for h in HORIZONS) / len(HORIZONS)
            yield Choice(arm, None, setting, weights, mean)


def _curves(noise: np.random.Generator) -> Iterator[Curve]:
    for arm, kind in KINDS.items():
        ends: tuple[float | None, ...] = (None,) if kind == "free" else HORIZONS
        for seed in SEEDS:
            for end in ends:
                last = end or HORIZONS[-1]
                units = [last * 2 ** (-k / 4) for k in range(24, -1, -1)]
                units = [u for u in units if u >= 0.2]
                forked = int(0.9 * last * UNIT) if kind == "branch" else None
                if forked is not None:
                    units = [0.9 * last, 0.95 * last, last]
                losses: dict[str, tuple[float, ...]] = {}
                for weights in averages(arm):
                    before = [0.2 * (1 - u / last) if end else 0.0 for u in units]
                    losses[weights] = tuple(
                        loss(arm, BEST[arm], weights, max(u, 0.2)) + late + noise.normal(0, 0.002)
                        for u, late in zip(units, before, strict=True)
                    )
                run = f"{arm}/report-{seed}-{BEST[arm]:g}" + (f"-{end:g}" if end else "")
                tokens = tuple(int(u * UNIT) for u in units)
                setting = f"schedule.peak={BEST[arm]:g}"
                yield Curve(arm, "report", seed, setting, run, end, forked, tokens, losses)


def _spent() -> Iterator[Spent]:
    for arm, kind in KINDS.items():
        units = {"free": 8.0, "bound": 15.0, "branch": 8.0 + 1.5}[kind]
        one = int(units * UNIT)
        yield Spent(arm, len(RATES) * one, len(SEEDS) * one, one)


def study(seed: int = 0) -> Results:
    """The whole study, with noise from a seed."""
    noise = np.random.default_rng(seed)
    observations = tuple(_observations(noise))
    hard = noise.normal(0, 0.3, SEQUENCES)  # of the sequences; cancels in a difference
    sequences = {}
    for o in observations:
        if o.phase == "report":
            rest = noise.normal(0, 0.02, SEQUENCES)
            losses = o.loss + (hard - hard.mean()) + (rest - rest.mean())
            sequences[o.run, o.horizon, o.weights] = losses.astype(np.float32)
    spent = tuple(_spent())
    return Results(
        name="made-up",
        unit=UNIT,
        horizons=HORIZONS,
        baseline="cosine",
        tune_seeds=(0,),
        report_seeds=SEEDS,
        arms={
            arm: Arm(
                arm,
                kind,
                arm,
                tuple({"schedule.peak": rate} for rate in RATES),
                "constant" if arm == "wsd" else None,
            )
            for arm, kind in KINDS.items()
        },
        observations=observations,
        choices=tuple(_choices()),
        curves=tuple(_curves(noise)),
        spent=spent,
        trained=sum(s.tuning + s.reporting for s in spent),
        jobs=(120, 120),
        facts={"model": "decoder, 2 layers", "batch": "16 × 128 tokens", "device": "cpu"},
        sequences=sequences,
    )


def begun() -> Results:
    """The same study, tuned but not reported."""
    whole = study()
    tuned = tuple(o for o in whole.observations if o.phase == "tune")
    return replace(whole, observations=tuned, curves=(), sequences={}, jobs=(40, 120))
