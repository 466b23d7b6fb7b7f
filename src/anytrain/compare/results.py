"""What a study has measured: the tidy table, the choices, the curves and what they cost.

Plain data, read from the study's directory; the page, the figures and the tables are made of it.
No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["free", "bound", "branch"]  # no horizon; a run for each; branches of a trunk
Phase = Literal["tune", "report"]


@dataclass(frozen=True)
class Arm:
    """One way to train that the study compares."""

    name: str
    kind: Kind
    schedule: str  # as the study file has it, horizon and grid left out
    points: tuple[Mapping[str, int | float | str], ...]  # of its grid, in the file's order
    trunk: str | None = None  # of a branch: the arm it leaves


@dataclass(frozen=True)
class Observation:
    """One row of the tidy table: some weights of one run at one horizon."""

    arm: str
    phase: Phase
    seed: int
    setting: str  # the grid point: schedule.peak=0.003 optimizer.beta2=0.95
    horizon: float  # units
    weights: str  # raw, schedule_free or an average
    tokens: int
    loss: float  # nats/token, on the phase's own half of the held-out sequences
    stderr: float  # over sequences
    run: str  # directory below OUT/runs


@dataclass(frozen=True)
class Choice:
    """What tuning chose for an arm: one for all horizons, or the best of one horizon."""

    arm: str
    horizon: float | None  # units; None: the same for every horizon
    setting: str
    weights: str
    loss: float  # nats/token while tuning; the mean over horizons where there is one for all
    at_edge: tuple[str, ...] = ()  # settings whose best value is the first or last of its grid


@dataclass(frozen=True)
class Curve:
    """Every evaluation of one run."""

    arm: str
    phase: Phase
    seed: int
    setting: str
    run: str
    horizon: float | None  # units where it ends; None: it has no horizon
    forked_at: int | None  # tokens; of a branch
    tokens: tuple[int, ...]
    losses: Mapping[str, tuple[float, ...]]  # weights -> nats/token at each of `tokens`


@dataclass(frozen=True)
class Spent:
    """Tokens trained for an arm; a trunk that arms share counts for each and is paid once."""

    arm: str
    tuning: int  # tokens
    reporting: int  # tokens, all seeds
    one: int  # tokens to have the chosen models of every horizon once, one seed, no tuning


@dataclass(frozen=True)
class Results:
    """A study as far as it is."""

    name: str
    unit: int  # tokens
    horizons: tuple[float, ...]  # units
    baseline: str  # the arm that others are compared with
    tune_seeds: tuple[int, ...]
    report_seeds: tuple[int, ...]
    arms: Mapping[str, Arm]
    observations: tuple[Observation, ...]
    choices: tuple[Choice, ...]
    curves: tuple[Curve, ...]
    spent: tuple[Spent, ...]
    trained: int  # tokens that were trained in all; what arms share counts once
    jobs: tuple[int, int]  # done, known so far
    diverged: tuple[tuple[str, float, int], ...] = ()  # reported (arm, horizon, seed) never reached
    facts: Mapping[str, str] = field(default_factory=dict)  # model, data, batch, device, versions
    # (run, horizon, weights) -> loss of every held-out sequence, nats/token (N,)
    sequences: Mapping[tuple[str, float, str], NDArray[np.float32]] = field(default_factory=dict)

    def choice(self, arm: str, horizon: float | None = None) -> Choice | None:
        """What was chosen for an arm at a horizon, or for all of them; None: not yet."""
        found = (c for c in self.choices if c.arm == arm and c.horizon == horizon)
        return next(found, None)

    def reported(self, arm: str, horizon: float, choice: Choice) -> dict[int, Observation]:
        """Seed -> the reported observation of a choice at a horizon."""
        return {
            o.seed: o
            for o in self.observations
            if o.phase == "report"
            and (o.arm, o.horizon, o.setting, o.weights)
            == (arm, horizon, choice.setting, choice.weights)
        }
