"""The loss along lines and on planes through weights, and the barrier between two checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from anytrain.curvature.objective import Objective
from anytrain.errors import UserError


@dataclass(frozen=True)
class Slice:
    """Loss at points along one or two directions."""

    at: tuple[float, ...]  # positions along each direction
    losses: tuple[tuple[float, ...], ...]  # nats/token; a row a position of the second direction


def line(objective: Objective, direction: Tensor, at: Sequence[float]) -> Slice:
    """L(θ + t·d) for each t."""
    return plane(objective, direction, None, at)


def plane(objective: Objective, first: Tensor, second: Tensor | None, at: Sequence[float]) -> Slice:
    """L(θ + s·a + t·b) for s and t in `at`; without b, along a alone."""
    if len(at) < 2:
        raise UserError(f"{len(at)} points of a slice; 2 or more are valid")
    rows = []
    with objective.displaced() as (here, put):
        for t in (0.0,) if second is None else at:
            start = here if second is None else here + t * second
            row = []
            for s in at:
                put(start + s * first)
                row.append(objective.value())
            rows.append(tuple(row))
    return Slice(tuple(at), tuple(rows))


def random_direction(objective: Objective, number: int, seed: int = 0) -> Tensor:
    """A Gaussian direction with each row of a matrix as long as the weights' (arXiv:1712.09913).

    Filter normalisation: without it a network and its rescaled twin look differently sharp. A
    tensor of one dimension stays where it is.
    """
    parts: list[Tensor | None] = []
    here = objective.split(objective.weights())
    drawn = objective.split(objective.direction(number, seed))
    for weights, direction in zip(here, drawn, strict=True):
        if weights.ndim < 2:
            parts.append(None)
            continue
        length = direction.flatten(1).norm(dim=1).clamp_min(1e-30)
        scale = weights.flatten(1).norm(dim=1) / length
        parts.append(direction * scale.view(-1, *[1] * (weights.ndim - 1)))
    return objective.flat(parts)


@dataclass(frozen=True)
class Barrier:
    """The loss on the straight line between two sets of weights."""

    at: tuple[float, ...]  # 0: the first, 1: the second
    losses: tuple[float, ...]  # nats/token

    @property
    def height(self) -> float:
        """max over the line of the loss above the straight line between its ends (1912.05671)."""
        first, last = self.losses[0], self.losses[-1]
        pairs = zip(self.at, self.losses, strict=True)
        return max(loss - ((1 - t) * first + t * last) for t, loss in pairs)


def barrier(objective: Objective, other: Tensor, points: int = 11) -> Barrier:
    """From the objective's weights to `other`, a vector of the same parameters."""
    if points < 3:
        raise UserError(f"{points} points of a line; 3 or more are valid")
    at = tuple(k / (points - 1) for k in range(points))
    direction = other - objective.weights()
    return Barrier(at, line(objective, direction, at).losses[0])
