"""The loop: one optimizer step for each `next()`, for ever."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from anytrain import schedules
from anytrain.errors import UserError
from anytrain.schedules import Schedule
from anytrain.training.guard import Spike
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


def train(run: Run, batches: Iterable[Tensor], lr: Schedule) -> Iterator[Record | Spike]:
    """One optimizer step for each batch of tokens (B, T + 1), for ever.

    The caller stops asking when it has enough. `run` is consistent at every yield: save it, fork
    it, or evaluate any of its averages. A batch that the run's guard finds too far out is read and
    its update dropped: a `Spike` and no step. Raises `Diverged` before a NaN or an infinity enters
    weights, optimizer or averages.
    """
    train_ = run.recipe.train
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    for batch in batches:
        rate = run.optimizer.set_lr(schedules.rate(lr, run.clock.t, run.next_t()))
        mine = run.world.part(batch)
        total = run.world.mean(backward(run, mine.to(run.device, non_blocking=True)))
        length = whole_norm(clip_grad_norm_(parameters, train_.clip or math.inf))
        loss, norm = torch.stack([total, length]).tolist()  # both in one wait for the device
        if run.guard is not None and (spike := run.guard.spike(loss, norm)) is not None:
            run.skip()
            yield spike
            continue
        if not (math.isfinite(norm) and math.isfinite(loss)):
            run.optimizer.zero_grad()
            raise Diverged(
                f"step {run.clock.step + 1}: loss {loss:g}, gradient norm {norm:g}; the step was "
                f"not taken, weights and averages are those of step {run.clock.step}"
            )
        run.advance()
        yield Record(run.clock.step, run.clock.tokens, run.clock.t, rate, loss, norm)


def backward(run: Run, batch: Tensor) -> Tensor:
    """Leave the gradient of the mean loss in the parameters; returns that loss, nats/token ().

    Of several processes each has the loss of its own sequences, and the gradient of all once the
    last part has gone through.
    """
    total = torch.zeros((), device=batch.device)
    parts = batch.split(run.micro_batch)  # (micro, T + 1) each
    for number, part in enumerate(parts, 1):
        if run.world.size > 1:
            run.model.set_requires_gradient_sync(number == len(parts))  # type: ignore[operator]
        tokens, targets = part[:, :-1], part[:, 1:]
        with run.autocast():
            loss = run.model.loss(tokens, targets, run.documents(tokens))
        share = len(part) / len(batch)
        (loss * share).backward()
        total += loss.detach() * share
    return total


def whole_norm(norm: Tensor) -> Tensor:
    """The norm over all processes: where tensors are sharded, each has a part of its square."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
