"""A schedule or a rule along the steps of a simulation: (T,), float64."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np

from anytrain import schedules
from anytrain.rules import Rule
from anytrain.schedules import HorizonBound, Schedule
from anytrain.theory.problem import Array

Rated = Schedule | Callable[[int], float] | Sequence[float] | Array
Averaged = Rule | Callable[[int], float] | Sequence[float] | Array


def rates_along(schedule: Rated, steps: int) -> Array:
    """η of steps 1 … T. A horizon has to reach that far; rates are finite and not below 0."""
    end = schedule.horizon if isinstance(schedule, HorizonBound) else None
    if end is not None and steps > ceil(end):
        raise ValueError(
            f"steps = {steps} lies beyond the horizon of {end:g} steps of {schedule!r}; "
            f"at most {ceil(end)} steps are valid"
        )
    whole = steps if end is None else min(steps, int(end))
    eta = _along("schedule", schedule, whole)
    if whole < steps and isinstance(schedule, HorizonBound):  # it ends between two steps
        eta = np.append(eta, schedules.rate(schedule, steps - 1, steps))
    wrong = np.flatnonzero(~(np.isfinite(eta) & (eta >= 0)))
    if wrong.size:
        raise ValueError(
            f"the rate of step {wrong[0] + 1} is {eta[wrong[0]]}; finite and 0 or more is valid"
        )
    return eta


def averaging_along(name: str, rule: Averaged, steps: int) -> Array:
    """ρ of steps 1 … T, between 0 and 1."""
    rho = _along(f"rule {name!r}", rule, steps)
    wrong = np.flatnonzero(~((rho >= 0) & (rho <= 1)))
    if wrong.size:
        raise ValueError(
            f"ρ of {name!r} is {rho[wrong[0]]} at step {wrong[0] + 1}; 0 to 1 is valid"
        )
    return rho


def _along(what: str, value: Any, steps: int) -> Array:
    if callable(value):
        return np.fromiter(map(value, range(1, steps + 1)), dtype=np.float64, count=steps)
    values = np.ascontiguousarray(value, dtype=np.float64)
    if values.ndim != 1 or values.size < steps:
        raise ValueError(f"{what} has shape {values.shape}; a value a step, {steps}, is valid")
    return values[:steps]
