"""The slow twin of the kernels, and what takes any tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def plain(weights: Tensor, averages: Sequence[Tensor], rho: Sequence[float]) -> None:
    """w̄ ← w̄ + ρ(w − w̄), one rounding an operation, from the nearer end: ρ = 1 gives w."""
    for average, exact in zip(averages, rho, strict=True):
        part = float(np.float32(exact)) if average.dtype == torch.float32 else exact
        apart = weights - average
        if part < 0.5:
            average.add_(apart.mul_(part))
        else:
            torch.add(weights, apart.mul_(part - 1.0), out=average)
