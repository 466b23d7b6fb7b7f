"""Pretrain a language model without deciding when to stop; release the best model at any moment."""

from typing import TYPE_CHECKING, Any

from anytrain.rules import AnytimeEma, Ema, Polynomial, PowerEma, Rule, Uniform, weights
from anytrain.schedules import (
    WSD,
    BeyondHorizon,
    Constant,
    Cooldown,
    Cosine,
    HorizonBound,
    InverseSqrt,
    Linear,
    Power,
    Schedule,
)

if TYPE_CHECKING:
    from anytrain.averaging import Averages

__version__ = "0.1.0"

__all__ = [
    "WSD",
    "AnytimeEma",
    "Averages",
    "BeyondHorizon",
    "Constant",
    "Cooldown",
    "Cosine",
    "Ema",
    "HorizonBound",
    "InverseSqrt",
    "Linear",
    "Polynomial",
    "Power",
    "PowerEma",
    "Rule",
    "Schedule",
    "Uniform",
    "__version__",
    "weights",
]


def __getattr__(name: str) -> Any:
    """`Averages` needs torch, which a verb that prints a status should not wait for."""
    if name == "Averages":
        from anytrain.averaging import Averages

        return Averages
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
