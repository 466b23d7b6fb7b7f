"""A schedule's rate in the groups of optimizers, and what resuming checks of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from anytrain import schedules
from anytrain.schedules import Schedule


def set_rate(group: dict[str, Any], rate: float) -> None:
    """A parameter group's rate; one that is a tensor, as a captured graph reads it, in place."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class GroupRates:
    """The rate of update t in a group is schedule(t) times the group's own lr over the peak.

    A group's lr is its peak, as it is where a schedule is a factor of it: groups keep their ratios.
    Of a schedule without a peak the first group's lr stands for it.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedule: Schedule) -> None:
        self.optimizers, self.schedule = optimizers, schedule
        self.taken = 0  # updates
        peak = schedules.peak(schedule) or float(optimizers[0].param_groups[0]["lr"])
        self.shares = [[float(g["lr"]) / peak for g in one.param_groups] for one in optimizers]
        self.set()

    def set(self) -> None:
        """Give every group the rate of the next update. BeyondHorizon where the schedule ended."""
        rate = schedules.rate(self.schedule, self.taken, self.taken + 1)
        for optimizer, shares in zip(self.optimizers, self.shares, strict=True):
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                set_rate(group, rate * share)

    def step(self) -> None:
        """An update was taken. Past a schedule's end the last rate stays, for nobody."""
        self.taken += 1
        end = schedules.horizon(self.schedule)
        if end is None or self.taken < math.ceil(end):
            self.set()

    def record(self) -> dict[str, Any]:
        """Plain data: the schedule as text, updates taken, and the rate of the last, or −1."""
        last = schedules.rate(self.schedule, self.taken - 1, self.taken) if self.taken else -1.0
        return {"schedule": schedules.spec(self.schedule), "step": self.taken, "rate": last}


def require_no_jump(schedule: Schedule, record: Mapping[str, Any], where: str) -> None:
    """ValueError where a schedule does not go on from the rate that a training came to."""
    step, rate = int(record["step"]), float(record["rate"])
    if not step or rate < 0:
        return
    mine = schedules.rate(schedule, step - 1, step)
    if not math.isclose(mine, rate, rel_tol=1e-9):
        raise ValueError(
            f"{where} took step {step} at the rate {rate:g} of {record['schedule']}; "
            f"{schedules.spec(schedule)} has {mine:g} there; one that goes on from it, such as the "
            "same or a cooldown of it, is valid, or a new training from its weights"
        )
