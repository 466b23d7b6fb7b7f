"""Sharpness by forward passes alone: how far a step may go, and what noise in the weights costs."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import torch
from torch import Tensor

from anytrain.curvature.objective import Objective
from anytrain.errors import UserError

_PASSES = 9  # of the search for the critical step


@dataclass(frozen=True)
class Critical:
    """The largest step along −u that does not raise the loss, and 2 over it."""

    step: float  # η_c, in units of ‖u‖ = 1
    passes: int

    @property
    def sharpness(self) -> float:
        """2/η_c: the curvature along u of a parabola with this critical step and slope ‖g‖ = 1."""
        return 2.0 / self.step


def critical(objective: Objective, update: Tensor, first: float = 1e-2) -> Critical:
    """η_c = max{η: L(θ − ηu) <= L(θ)} along a normalised update (arXiv:2601.16979).

    Doubled or halved from `first` until the loss passes its value at θ, then bisected in log η;
    fewer than ten forward passes, so within 10% unless `first` is far off. Raises UserError where
    u does not lower the loss at all.
    """
    length = objective.norm(update)
    if not length > 0:
        raise UserError("the update is zero; a direction is valid")
    u, passes = update / length, 1
    low, high = 0.0, 0.0  # steps known to be below and above
    with objective.displaced() as (here, put):
        level, step = objective.value(), first
        while passes < _PASSES:
            put(here - step * u)
            passes += 1
            if objective.value() <= level:
                low = step
            else:
                high = step
            if not high:
                step *= 4.0
            elif not low:
                step /= 4.0
            else:
                step = sqrt(low * high)
    if not low:
        raise UserError(
            f"steps from {high:.3g} up raise the loss at once along the update; the negative "
            "gradient, or what an optimizer subtracts, is valid"
        )
    return Critical(sqrt(low * high) if high else low, passes)


@dataclass(frozen=True)
class Noise:
    """The rise of the loss under Gaussian noise of the weights, each by σ of its tensor's RMS."""

    sigma: float  # relative
    samples: tuple[float, ...]  # nats/token

    @property
    def mean(self) -> float:
        return fmean(self.samples)

    @property
    def stderr(self) -> float:
        return stdev(self.samples) / sqrt(len(self.samples))


def noise(
    objective: Objective, sigmas: tuple[float, ...], draws: int, seed: int = 0
) -> list[Noise]:
    """E L(θ + σ·rms(θ)⊙ξ) − L(θ), by draws ξ that are the same for every σ and checkpoint.

    Each tensor is scaled by its own root mean square, so that a model in other units of the same
    function is as sharp. Draws come in pairs ±ξ, which cancels the slope.
    """
    if draws < 2:
        raise UserError(f"draws = {draws}; 2 or more are valid, or there is no standard error")
    if not sigmas or not all(sigma > 0 for sigma in sigmas):
        raise UserError(f"noise = {sigmas}; relative amounts above 0 are valid")
    found: dict[float, list[float]] = {sigma: [] for sigma in sigmas}
    with objective.displaced() as (here, put):
        level = objective.value()
        scale = _scale(objective, here)
        for number in range(draws):
            xi = objective.direction(number, seed) * scale
            for sigma, samples in found.items():
                rises = []
                for sign in (1.0, -1.0):
                    put(here + sign * sigma * xi)
                    rises.append(objective.value() - level)
                samples.append(fmean(rises))
    return [Noise(sigma, tuple(samples)) for sigma, samples in found.items()]


def _scale(objective: Objective, here: Tensor) -> Tensor:
    """The root mean square of each tensor, at each of its numbers; of the whole, if it is cut."""
    parts = objective.split(here)
    squares = objective.summed(torch.stack([part.double().square().sum() for part in parts]))
    sizes = [parameter.numel() for parameter in objective.parameters.values()]
    found = zip(parts, squares.tolist(), sizes, strict=True)
    return objective.flat([torch.full_like(part, sqrt(total / n)) for part, total, n in found])
