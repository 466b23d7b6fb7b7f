"""Hessian-vector products of the mean loss: exactly, or as a difference of two gradients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.curvature.objective import Batch, Objective
from anytrain.errors import UserError

Method = Literal["exact", "difference"]

# ‖εv‖/‖θ‖ of the steps that are tried: smaller ones drown in fp32, larger ones leave the parabola
STEPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
AGREE = 0.01  # relative difference of two steps' answers above which neither is believed


class Operator(Protocol):
    """A symmetric matrix that is known by its products."""

    @property
    def objective(self) -> Objective: ...

    def along(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(d, Hd) with d what v became in the arithmetic: v itself where it is exact."""
        ...

    def forms(self, vectors: Callable[[int], Tensor], count: int) -> list[float]:
        """dᵀHd for d from vectors(0) … vectors(count − 1)."""
        ...

    def __matmul__(self, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Exact:
    """Hv = ∇(∇L·v): the gradient of the gradient's slope along v (Pearlmutter 1994).

    Raises UserError where the loss cannot be differentiated twice.
    """

    objective: Objective

    def along(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return v, self @ v

    def __matmul__(self, v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for share, batch in zip(self.objective.shares, self.objective.batches, strict=True):
            with self._slopes(batch) as product:
                total += share * product(v)
        return total

    def forms(self, vectors: Callable[[int], Tensor], count: int) -> list[float]:
        """The first derivatives of a batch serve every vector: a product costs half as much."""
        objective, found = self.objective, [0.0] * count
        for share, batch in zip(objective.shares, objective.batches, strict=True):
            with self._slopes(batch) as product:
                for number in range(count):
                    v = vectors(number)
                    found[number] += share * objective.dot(v, product(v))
        return found

    @contextmanager
    def _slopes(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        """v -> Hv on one batch, whose gradient is computed once."""
        objective = self.objective
        parameters = list(objective.parameters.values())
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            loss = (objective.plain or objective.loss)(batch)
            first = torch.autograd.grad(loss, parameters, create_graph=True)

            def product(v: Tensor) -> Tensor:
                along = objective.split(v)
                try:
                    second = torch.autograd.grad(
                        first, parameters, along, retain_graph=True, allow_unused=True
                    )
                except RuntimeError as error:
                    raise _refused(error) from error
                return objective.flat(second)

            yield product


def _refused(error: RuntimeError) -> Exception:
    """The sentence for a loss without a second derivative; any other error as it is."""
    if "derivative" not in str(error) and "once_differentiable" not in str(error):
        return error
    return UserError(
        f"the loss cannot be differentiated twice ({_first(error)}); --method difference, of "
        "gradients at two points, needs no second derivative"
    )


def _first(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


class Difference:
    """Hd = (∇L(θ⁺) − ∇L(θ⁻)) / 2ε with θ± = θ ± εv and d = (θ⁺ − θ⁻) / 2ε.

    d is v as far as fp32 can place it. Two gradients a product, any attention, sharded or not; the
    error is O(ε²) and that of two gradients over ε. The step is the one at which the answers of
    two neighbouring steps agree best, found with the first product.
    """

    def __init__(self, objective: Objective, step: float | None = None) -> None:
        self.objective = objective
        self.step = step  # ‖εv‖/‖θ‖
        self.disagreement: float | None = None  # relative, of vᵀHv at this step and the next

    def along(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.step is None:
            self.step, self.disagreement = self._chosen(v)
        return self._at(v, self.step)

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.along(v)[1]

    def forms(self, vectors: Callable[[int], Tensor], count: int) -> list[float]:
        """By the displacement that each vector became."""
        return [self.objective.dot(*self.along(vectors(number))) for number in range(count)]

    def _at(self, v: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """In few passes over memory, as each is of the size of the weights."""
        objective = self.objective
        with objective.displaced() as (here, put):
            length = objective.norm(v)
            epsilon = step * objective.norm(here) / length if length else 1.0
            above = torch.add(here, v, alpha=epsilon)
            put(above)
            slope = objective.gradient()
            below = torch.sub(here, v, alpha=epsilon)
            put(below)
            slope -= objective.gradient()
        return above.sub_(below).div_(2 * epsilon), slope.div_(2 * epsilon)

    def _chosen(self, v: Tensor) -> tuple[float, float]:
        """The smaller of the two neighbouring steps that agree best on vᵀHv."""
        found = []
        for step in STEPS:
            d, product = self._at(v, step)
            found.append(self.objective.dot(d, product))
        apart = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairwise(found)]
        least = min(range(len(apart)), key=apart.__getitem__)
        if not apart[least] < AGREE:
            raise UserError(
                f"differences of gradients do not settle: vᵀHv at steps of {STEPS} of the weights' "
                f"norm is {', '.join(f'{value:.4g}' for value in found)}; more tokens, or --method "
                "exact, is valid"
            )
        return STEPS[least], apart[least]


def hessian(objective: Objective, method: Method) -> Exact | Difference:
    """The operator of a method."""
    return Exact(objective) if method == "exact" else Difference(objective)
