"""Schedules and averages in a training loop of one's own.

scheduler = Scheduler(optimizer, InverseSqrt(peak=3e-3, warmup=1000, offset=20_000))
averages = Averages(model, {"ema25": AnytimeEma(25)})
attach(averages, optimizer)
for batch in batches:
    loss(model, batch).backward()
    optimizer.step()             # the averages follow
    scheduler.step()
    optimizer.zero_grad()
"""

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from anytrain import schedules
from anytrain.averaging import Averages
from anytrain.integrations.group_rates import set_rate
from anytrain.schedules import Schedule


class Scheduler(LRScheduler):
    """The rate of update number t is schedule(t), t counted from 1, times a group's own factor.

    The factor is the group's initial rate over the optimizer's default one: groups keep their
    ratios, and the schedule says the absolute rate of a group that named none. The rate of the
    first update is set at once, the next one's by every `step()`. `step` updates were taken before.

    Its state is how many updates were taken and the schedule as text. Another schedule than the
    saved one is refused, where PyTorch's own schedulers go on with the old one's numbers: to change
    it on purpose, begin `Scheduler(optimizer, other, step=N)`.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, step: int = 0) -> None:
        """Set the rate of the next update. ValueError for rates or steps that cannot be."""
        if step < 0:
            raise ValueError(f"step = {step}; the number of updates taken, 0 or more, is valid")
        usual = float(optimizer.defaults["lr"])
        if not usual > 0:
            raise ValueError(
                f"the optimizer's lr = {usual}; any number above 0 is valid: groups keep their "
                "ratio to it, and the schedule says the rate"
            )
        self.schedule = schedule
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
            raise ValueError(
                f"the state is of {state_dict['schedule']}, here is {mine}; the same is valid, or "
                f"Scheduler(optimizer, schedule, step={state_dict['step']}) to change it"
            )
        self.last_epoch = int(state_dict["step"])
        for group, value in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            set_rate(group, float(value))
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


_attached: WeakSet[Averages] = WeakSet()


class Attached:
    """Averages that follow an optimizer, until `remove()`."""

    def __init__(self, averages: Averages, handle: Any) -> None:
        self.averages, self.handle = averages, handle
        _attached.add(averages)

    def remove(self) -> None:
        """Let go; a second time does nothing."""
        self.handle.remove()
        _attached.discard(self.averages)


def attach(
    averages: Averages, optimizer: Optimizer, dt: Callable[[], float] | None = None
) -> Attached:
    """Move `averages` after every step that `optimizer` takes, by `register_step_post_hook`.

    `dt` says how far a step advanced t: 1 if absent, or the ratio of its batch to the reference
    batch. A step that a GradScaler leaves out for infinite gradients moves nothing. Of several
    optimizers that step together attach to one, the last. Raises ValueError where the averages
    follow an optimizer already: they would move twice a step.
    """
    if averages in _attached:
        raise ValueError("these averages follow an optimizer already; remove() that first")

    def moved(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        # a fused optimizer is called with the infinities and leaves its weights itself
        found = getattr(stepped, "found_inf", None)
        if found is None or not bool(found):
            averages.update(1.0 if dt is None else dt())

    return Attached(averages, optimizer.register_step_post_hook(moved))
