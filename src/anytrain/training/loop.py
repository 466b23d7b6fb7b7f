"""The loop: one optimizer step for each `next()`, for ever."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from anytrain import schedules
from anytrain.errors import UserError
from anytrain.schedules import Schedule
from anytrain.training.run import Run


@dataclass(frozen=True)
class Record:
    """One step, after it was taken."""

    step: int
    tokens: int
    t: float  # steps at the reference batch
    lr: float
    loss: float  # nats/token, before the step
    grad_norm: float  # before clipping


class Diverged(UserError):
    """The loss or its gradient stopped being a number; the step was not taken."""


def train(run: Run, batches: Iterable[Tensor], lr: Schedule) -> Iterator[Record]:
    """One optimizer step for each batch of tokens (B, T + 1), for ever.

    The caller stops asking when it has enough. `run` is consistent at every yield: save it, fork
    it, or evaluate any of its averages. Raises `Diverged` before a NaN or an infinity enters
    weights, optimizer or averages.
    """
    train_ = run.recipe.train
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    for batch in batches:
        rate = run.optimizer.set_lr(schedules.rate(lr, run.clock.t, run.next_t()))
        total = backward(run, batch.to(run.device, non_blocking=True))
        length = clip_grad_norm_(parameters, train_.clip or math.inf)
        loss, norm = torch.stack([total, length]).tolist()  # both in one wait for the device
        if not (math.isfinite(norm) and math.isfinite(loss)):
            run.optimizer.zero_grad()
            raise Diverged(
                f"step {run.clock.step + 1}: loss {loss:g}, gradient norm {norm:g}; the step was "
                f"not taken, weights and averages are those of step {run.clock.step}"
            )
        run.advance()
        yield Record(run.clock.step, run.clock.tokens, run.clock.t, rate, loss, norm)


def backward(run: Run, batch: Tensor) -> Tensor:
    """Leave the gradient of the mean loss in the parameters; returns that loss, nats/token ()."""
    total = torch.zeros((), device=batch.device)
    for part in batch.split(run.micro_batch):  # (micro, T + 1)
        tokens, targets = part[:, :-1], part[:, 1:]
        with run.autocast():
            loss = run.model.loss(tokens, targets, run.documents(tokens))
        share = len(part) / len(batch)
        (loss * share).backward()
        total += loss.detach() * share
    return total
