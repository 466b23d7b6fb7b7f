"""`Scheduler`: a schedule of ours where PyTorch has its learning-rate schedulers."""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from anytrain import schedules
from anytrain.schedules import Schedule


class Scheduler(LRScheduler):
    """The rate of update number t is schedule(t), t counted from 1, times a group's own factor.

    The factor is the group's initial rate over the optimizer's default one. The rate of the first
    update is set at once, the next one's by every `step()`; `step` updates were taken already.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, step: int = 0) -> None:
        self.schedule = schedule
        usual = float(optimizer.defaults["lr"])
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.factors = [float(group["initial_lr"]) / usual for group in optimizer.param_groups]
        super().__init__(optimizer, step - 1)

    def get_lr(self) -> list[float | Tensor]:
        """Of every group for the next update; that of the last one where a schedule ends.

        Raises BeyondHorizon where an update was taken past its end.
        """
        end = schedules.horizon(self.schedule)
        taken = self.last_epoch
        if end is not None and taken == math.ceil(end):
            taken -= 1  # nothing comes after it, though PyTorch asks
        value = schedules.rate(self.schedule, taken, taken + 1)
        return [value * factor for factor in self.factors]

    def state_dict(self) -> dict[str, Any]:
        """Plain data: updates taken, and the schedule as text."""
        return {"step": self.last_epoch, "schedule": schedules.spec(self.schedule)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the updates that were taken. ValueError for another schedule's state."""
        mine = schedules.spec(self.schedule)
        if state_dict["schedule"] != mine:
            raise ValueError(f"the state is of {state_dict['schedule']}, here is {mine}")
        self.last_epoch = int(state_dict["step"])
        for group, value in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
