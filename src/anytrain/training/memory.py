"""How much memory is free, and what of a run fits into it."""

import os
from pathlib import Path

import torch

from anytrain.errors import UserError
from anytrain.training.config import Recipe
from anytrain.training.distributed import started


def fitting_micro_batch(recipe: Recipe, where: torch.device) -> int:
    """The largest divisor of the batch whose activations fit into 70% of the free memory."""
    shape, train = recipe.model, recipe.train
    free = free_memory(where)
    # weights, gradients, two moments, averages; each process has its share
    state = shape.parameters * 4 * (4 + recipe.running) // started()
    item = 2 if train.precision == "bf16" else 4
    state += shape.head_bytes(item, 2**28 if where.type == "cuda" else 2**20)
    a_sequence = shape.activation_bytes_per_token(item) * train.context
    fits = max(1, int((0.7 * free - state) // a_sequence))
    return next(n for n in range(min(max(fits, 1), train.batch), 0, -1) if train.batch % n == 0)


def check_memory(recipe: Recipe, where: torch.device) -> None:
    """Raise a UserError for a model whose weights alone can never fit."""
    needed, free = 4 * recipe.model.parameters // started(), free_memory(where)
    if needed > free:
        raise UserError(
            f"the weights of {recipe.name} take {needed:,} bytes, and {free:,} are free; a smaller "
            "model is valid"
        )


def free_memory(where: torch.device) -> int:
    """Bytes that are free on a device."""
    return int(torch.cuda.mem_get_info(where)[0]) if where.type == "cuda" else available_memory()


def available_memory() -> int:
    """Bytes that programs can still take, what caches hold included."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
