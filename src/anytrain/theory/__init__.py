"""Linear regression, exactly: try a schedule or an averaging rule before paying for a run."""

from typing import TYPE_CHECKING, Any

from anytrain.theory.problem import Problem, Regression, Spectrum, stability_limit
from anytrain.theory.rates import Exponent, Rates, averaged_exponent, rates

if TYPE_CHECKING:
    from anytrain.theory.moments import ScheduleFree
    from anytrain.theory.risk import Diverged, Risk, simulate

__all__ = [
    "Diverged",
    "Exponent",
    "Problem",
    "Rates",
    "Regression",
    "Risk",
    "ScheduleFree",
    "Spectrum",
    "averaged_exponent",
    "rates",
    "simulate",
    "stability_limit",
]


def __getattr__(name: str) -> Any:
    """What simulates loads compiled code, which exponents and problems should not wait for."""
    if name in ("Diverged", "Risk", "ScheduleFree", "simulate"):
        from anytrain.theory import moments, risk

        return getattr(moments if name == "ScheduleFree" else risk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
