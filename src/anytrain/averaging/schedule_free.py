"""The weights that Schedule-Free training releases."""

import torch
from torch import Tensor


def schedule_free(y: Tensor, z: Tensor, beta1: float) -> Tensor:
    """x = y + (1 − 1/β₁)(z − y), since y = (1 − β₁)z + β₁x (arXiv:2405.15682, algorithm 1).

    y are the live weights, z the optimizer's fast ones. The `schedulefree` package's `eval()`
    writes x over y and its `train()` takes it back, which changes bits; this is a new tensor.
    """
    return torch.lerp(y, z, 1.0 - 1.0 / beta1)
