"""The loss of every held-out sequence, beside a run's metrics: what pairs two runs by sequence.

    RUN/losses/step-000002000.safetensors      weights -> (N,) float32, nats/token

Written at the moments that are asked for, where the recipe says `evaluate.each`. No torch.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from anytrain.errors import UserError
from anytrain.files import write_atomic
from anytrain.rundir import RunDir

Losses = dict[str, NDArray[np.float32]]


def keep(run: RunDir, step: int, losses: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the loss of every sequence under each weights (N,)."""
    path = _path(run, step)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, save({name: each.astype(np.float32) for name, each in losses.items()}))


def kept(run: RunDir, step: int) -> Losses:
    """What `keep` wrote at a step; nothing where it did not."""
    path = _path(run, step)
    if not path.exists():
        return {}
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def _path(run: RunDir, step: int) -> Path:
    return run.path / "losses" / f"step-{step:09d}.safetensors"
