"""Every schedule, rule and optimizer that the laws are tested on. A new case is one line."""

from typing import Any

from anytrain.rules import AnytimeEma, Ema, Polynomial, PowerEma, Rule, Uniform
from anytrain.schedules import (
    WSD,
    Constant,
    Cooldown,
    Cosine,
    HorizonBound,
    InverseSqrt,
    Linear,
    Power,
    Schedule,
)

SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(3e-3),
    "constant_warmup": Constant(3e-3, warmup=5, initial=0.1),
    "inverse_sqrt": InverseSqrt(1e-2, warmup=4, offset=16),
    "inverse_sqrt_initial": InverseSqrt(1e-2, warmup=4.5, offset=0.5, initial=0.1),
    "power": Power(1e-2, warmup=3, exponent=0.7, offset=8),
    "power_flat": Power(1e-2, warmup=0, exponent=0, offset=8),
}

HORIZON_BOUND: dict[str, HorizonBound] = {
    "cosine": Cosine(horizon=40, peak=3e-3, warmup=4),
    "cosine_final": Cosine(horizon=40, peak=3e-3, warmup=4, final=0.1, initial=0.1),
    "linear": Linear(horizon=40, peak=3e-3, warmup=7, final=0.1),
    "linear_cold": Linear(horizon=17.5, peak=0.7),
    "wsd": WSD(horizon=40, peak=3e-3, warmup=4),
    "wsd_sqrt": WSD(horizon=40, peak=3e-3, warmup=4, decay=0.3, shape="sqrt", final=0.1),
    "wsd_cosine": WSD(horizon=30, peak=3e-3, decay=1.0, shape="cosine"),
    "wsd_square": WSD(horizon=30, peak=3e-3, decay=0.5, shape="square"),
    "cooldown": Cooldown(horizon=40, start=36, trunk=InverseSqrt(1e-2, warmup=4, offset=16)),
    "cooldown_final": Cooldown(
        horizon=40, start=0, trunk=Constant(3e-3), shape="linear", final=0.1
    ),
}

RULES: dict[str, Rule] = {
    "anytime25": AnytimeEma(25),
    "anytime0.5": AnytimeEma(0.5),
    "polynomial0": Polynomial(0),
    "polynomial1": Polynomial(1),
    "polynomial16": Polynomial(16),
    "window4": Polynomial(3, shift=0),
    "power0.1": PowerEma(0.1),
    "power_widest": PowerEma(12**-0.5),
    "uniform": Uniform(),
    "uniform_tail": Uniform(start=6),
    "ema": Ema(half_life=5),
}

# [optimizer] tables of a recipe
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"kind": "adamw", "weight_decay": 0.1},
    "adamw_decay_all": {"kind": "adamw", "beta2": 0.99, "weight_decay": 0.1, "decay_all": True},
    "muon": {"kind": "muon", "adamw_peak": 3e-3, "weight_decay": 0.1},
    "schedule_free": {"kind": "schedule_free", "beta2": 0.99, "weight_decay": 0.1},
    "sgd": {"kind": "sgd", "weight_decay": 1e-3},
    "sgd_plain": {"kind": "sgd", "beta1": 0.0},
}
