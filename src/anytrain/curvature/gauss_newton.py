"""The Gauss–Newton matrix of the cross-entropy, and the four traces that exponents come from.

G = (1/N) Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n over N tokens, with J the slopes of the logits and p
their softmax: the Hessian without the curvature of the network (Schraudolph 2002).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anytrain.curvature.objective import Batch, Objective
from anytrain.errors import UserError
from anytrain.models.cross_entropy import IGNORED
from anytrain.models.decoder import Decoder


class GaussNewton:
    """G of a decoder on one batch, and its products with several vectors at once."""

    def __init__(self, model: Decoder, batch: Batch) -> None:
        self.model = model
        self.batch = batch
        self.parameters = list(model.parameters())

    def products(self, vectors: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
        """G v of each v (a tensor a parameter), of one forward pass.

        J v is the slope of Jᵀu in u along v, so that two reverse passes do for a forward one.
        """
        with sdpa_kernel(SDPBackend.MATH):
            logits = self.model(self.batch.tokens).flatten(0, 1)  # (N, V)
        kept = (self.batch.targets != IGNORED).flatten()
        logits = logits[kept]  # (n, V)
        u = torch.zeros_like(logits, requires_grad=True)
        slopes = torch.autograd.grad(logits, self.parameters, u, create_graph=True)
        p = logits.detach().softmax(-1)
        found = []
        for v in vectors:
            (along,) = torch.autograd.grad(slopes, u, list(v), retain_graph=True)  # (n, V)
            curved = p * (along - (p * along).sum(-1, keepdim=True)) / len(p)
            found.append(torch.autograd.grad(logits, self.parameters, curved, retain_graph=True))
        return found


def rows(
    model: Decoder, objective: Objective, batches: Sequence[Batch], count: int, seed: int = 0
) -> NDArray[np.float64]:
    """Independent unbiased estimates of (tr G, tr G², θᵀGθ, θᵀG²θ), a row each: (count, 4).

    A row has a probe z and two batches of its own: zᵀG₁G₂z is unbiased for tr G², where zᵀG₁G₁z
    would be too large by the noise of a batch. Four products a row.
    """
    if count < 8:
        raise UserError(f"probes = {count}; 8 or more are valid for an interval")
    if len(batches) < 2 * count:
        raise UserError(
            f"{count} probes need {2 * count} batches of their own and there are {len(batches)}; "
            "fewer probes, or more held-out tokens, are valid"
        )
    theta = [p.detach().clone() for p in objective.parameters.values()]
    found = []
    for k in range(count):
        z = objective.split(objective.probe(k, seed))
        first = GaussNewton(model, batches[2 * k]).products([z, theta])
        second = GaussNewton(model, batches[2 * k + 1]).products([z, theta])
        found.append(
            (
                (_dot(z, first[0]) + _dot(z, second[0])) / 2,
                _dot(first[0], second[0]),
                (_dot(theta, first[1]) + _dot(theta, second[1])) / 2,
                _dot(first[1], second[1]),
            )
        )
    return np.array(found, dtype=np.float64)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))
