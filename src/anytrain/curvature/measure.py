"""What is measured of one set of weights on one set of batches, as a record of plain numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from torch import Tensor

from anytrain.curvature.critical import critical, noise
from anytrain.curvature.hvp import Difference, Method, hessian
from anytrain.curvature.lanczos import density, largest
from anytrain.curvature.landscape import barrier, line, plane, random_direction
from anytrain.curvature.objective import Objective
from anytrain.curvature.trace import hutchinson
from anytrain.errors import UserError

_EXACT = 100_000_000  # parameters up to which a second backward pass is thought to fit
_DRAWS = 8  # of noise, pairs
_SLICE = tuple(round(0.1 * k, 1) for k in range(-10, 11))  # of the weights' own length
_PLANE = _SLICE[::2]  # 121 evaluations


@dataclass(frozen=True)
class Measure:
    """What to measure; raises UserError where that is not possible.

    `auto` is exact products up to 100M parameters, and above, where the graph of a gradient with
    unfused attention may not fit, differences: by size alone, so that the checkpoints of a run are
    measured alike.
    """

    probes: int = 50
    method: Literal["auto", "exact", "difference"] = "auto"
    top: int = 0  # eigenvalues
    density: bool = False
    noise: tuple[float, ...] = ()  # relative to each tensor's root mean square
    slice: int = 0  # dimensions: 0 for none, 1 a line, 2 a plane
    seed: int = 0

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise UserError(
                f"probes = {self.probes}; 2 or more are valid, or there is no standard error"
            )
        if self.top < 0:
            raise UserError(f"top = {self.top}; 0 or more eigenvalues are valid")
        if self.slice not in (0, 1, 2):
            raise UserError(f"slice = {self.slice}; 1, a line, or 2, a plane, is valid")
        if not all(0 < sigma < float("inf") for sigma in self.noise):
            raise UserError(f"noise = {self.noise}; relative amounts above 0 are valid")

    def way(self, dim: int) -> Method:
        """How products are made for so many parameters."""
        if self.method == "auto":
            return "exact" if dim <= _EXACT else "difference"
        return self.method


def measured(
    objective: Objective, measure: Measure, other: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """The record: loss, trace and what else is asked for; with `other` weights, the barrier there.

    Units: loss nats/token; traces and eigenvalues of the Hessian of the mean loss.
    """
    loss = objective.value()
    if not isfinite(loss):
        raise UserError(f"the loss is {loss}; weights with a finite one are valid")
    method = measure.way(objective.dim)
    operator = hessian(objective, method)
    trace = hutchinson(operator, measure.probes, measure.seed)
    found: dict[str, Any] = {
        "parameters": objective.dim,
        "targets": sum(batch.counted for batch in objective.batches),
        "loss": loss,
        "method": method,
        "trace": {"mean": trace.mean, "stderr": trace.stderr, "samples": list(trace.samples)},
        "critical": _critical(objective),
    }
    if isinstance(operator, Difference):
        found["difference"] = {"step": operator.step, "disagreement": operator.disagreement}
    if measure.top:
        found["eigenvalues"] = largest(operator, measure.top, seed=measure.seed)
    if measure.density:
        found["density"] = asdict(density(operator, seed=measure.seed))
    if measure.noise:
        found["noise"] = [
            {"sigma": rise.sigma, "mean": rise.mean, "stderr": rise.stderr}
            for rise in noise(objective, measure.noise, _DRAWS, measure.seed)
        ]
    if measure.slice:
        direction = random_direction(objective, 0, measure.seed)
        along = line(objective, direction, _SLICE)
        found["slice"] = {"at": list(along.at), "losses": list(along.losses[0])}
    if measure.slice == 2:
        across = random_direction(objective, 1, measure.seed)
        around = plane(objective, direction, across, _PLANE)
        found["plane"] = {"at": list(around.at), "losses": [list(row) for row in around.losses]}
    if other is not None:
        end = objective.flat([other[name] for name in objective.parameters])
        between = barrier(objective, end)
        found["barrier"] = {
            "at": list(between.at), "losses": list(between.losses), "height": between.height,
        }  # fmt: skip
    return found


def _critical(objective: Objective) -> dict[str, Any] | None:
    """Along the gradient; None where not even a tiny step down it lowers the loss: a minimum."""
    try:
        step = critical(objective, objective.gradient())
    except UserError:
        return None
    return {"step": step.step, "sharpness": step.sharpness}
