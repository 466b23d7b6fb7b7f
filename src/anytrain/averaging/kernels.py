"""All averages of a tensor in one pass over memory, on a CPU, and AdamW's step with them.

    w̄_k ← w̄_k + ρ_k·(w − w̄_k)        k = 1 … K

The weights are read once for all K; `torch._foreach_lerp_` reads them K times. Products and sums
are rounded apart, so a result depends neither on how tensors are cut into threads or shards nor on
the processor: `plain`, the slow twin, gives the same bits.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import sqrt

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

# Averages in one loop. With more the compiler no longer proves the streams apart and gives up on
# vectors altogether, a hundred times slower; another loop of four reads the weights once more.
ABREAST = 4
_SMALL = 1 << 18  # elements below which other threads cost more than they give

Array = NDArray[np.float32]
Numbers = tuple[np.float32, ...]


@njit(cache=True, nogil=True)
def _moved(average: np.float32, x: np.float32, rho: np.float32) -> np.float32:
    """From the nearer end, so that ρ = 1 gives the weight itself."""
    if rho < np.float32(0.5):
        return average + rho * (x - average)
    return x + (rho - np.float32(1.0)) * (x - average)


@njit(cache=True, nogil=True)
def _average(w: Array, averages: tuple[Array, ...], rho: Numbers) -> None:
    for i in range(w.shape[0]):
        for k in range(len(averages)):  # unrolled: the length is a part of the type
            averages[k][i] = _moved(averages[k][i], w[i], rho[k])


@njit(cache=True, nogil=True, error_model="numpy")
def _stepped(i: int, w: Array, g: Array, m: Array, v: Array, numbers: Numbers) -> np.float32:
    shrink, gain1, beta2, gain2, root, eps, rate = numbers
    m[i] = m[i] + gain1 * (g[i] - m[i])
    v[i] = v[i] * beta2 + gain2 * g[i] * g[i]
    return w[i] * shrink - rate * m[i] / (np.sqrt(v[i]) / root + eps)


@njit(cache=True, nogil=True)
def _adamw(w: Array, g: Array, m: Array, v: Array, numbers: Numbers) -> None:
    for i in range(w.shape[0]):
        w[i] = _stepped(i, w, g, m, v, numbers)


@njit(cache=True, nogil=True)
def _adamw_and_average(
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    averages: tuple[Array, ...],
    numbers: Numbers,
    rho: Numbers,
) -> None:
    for i in range(w.shape[0]):
        x = _stepped(i, w, g, m, v, numbers)
        w[i] = x
        for k in range(len(averages)):
            averages[k][i] = _moved(averages[k][i], x, rho[k])


@dataclass(frozen=True)
class AdamWStep:
    """One AdamW step (arXiv:1711.05101, algorithm 2, as PyTorch has it) of one tensor.

    m ← m + (1 − β₁)(g − m),  v ← β₂ v + (1 − β₂) g²,
    w ← (1 − η λ) w − η/(1 − β₁^s) · m / (√(v/(1 − β₂^s)) + ε)        s the step, from 1
    """

    weights: Tensor  # w
    gradient: Tensor  # g
    first: Tensor  # m
    second: Tensor  # v
    step: float
    lr: float
    betas: tuple[float, float]
    eps: float
    decay: float  # λ

    @property
    def numbers(self) -> Numbers:
        """What the loop multiplies by, in its order."""
        beta1, beta2 = self.betas
        root, rate = sqrt(1 - beta2**self.step), self.lr / (1 - beta1**self.step)
        exact = (1 - self.lr * self.decay, 1 - beta1, beta2, 1 - beta2, root, self.eps, rate)
        return _singles(exact)


def average(weights: Tensor, averages: Sequence[Tensor], rho: Sequence[float]) -> None:
    """Move every average of one tensor; contiguous fp32 tensors of one size, on the CPU."""
    w, flat, single = _flat(weights), [_flat(tensor) for tensor in averages], _singles(rho)

    def share(part: slice) -> None:
        _follow(w[part], [a[part] for a in flat], single)

    _in_threads(share, w.size)


def adamw(step: AdamWStep, averages: Sequence[Tensor] = (), rho: Sequence[float] = ()) -> None:
    """Take the step, and move every average of the tensor towards what it gives."""
    operands = [_flat(t) for t in (step.weights, step.gradient, step.first, step.second)]
    flat, single, numbers = [_flat(tensor) for tensor in averages], _singles(rho), step.numbers

    def share(part: slice) -> None:
        w, g, m, v = (tensor[part] for tensor in operands)
        mine = tuple(a[part] for a in flat)
        if mine:
            few, parts = mine[:ABREAST], single[:ABREAST]
            _adamw_and_average(w, g, m, v, few, numbers, parts)
            _follow(w, mine[ABREAST:], single[ABREAST:])
        else:
            _adamw(w, g, m, v, numbers)

    _in_threads(share, operands[0].size)


def _follow(w: Array, averages: Sequence[Array], rho: Numbers) -> None:
    for k in range(0, len(averages), ABREAST):
        _average(w, tuple(averages[k : k + ABREAST]), rho[k : k + ABREAST])


def fits(*tensors: Tensor) -> bool:
    """Whether the loops take these: fp32, contiguous, on the CPU."""
    return all(t.is_cpu and t.dtype is torch.float32 and t.is_contiguous() for t in tensors)


def _singles(numbers: Iterable[float]) -> Numbers:
    return tuple(np.float32(number) for number in numbers)


def _flat(tensor: Tensor) -> Array:
    return tensor.numpy().reshape(-1)  # a view: the tensor is contiguous


def _in_threads(share: Callable[[slice], None], size: int) -> None:
    """Do slices of `size` elements in as many threads as PyTorch computes with."""
    threads = torch.get_num_threads() if size >= _SMALL else 1
    if threads == 1:
        return share(slice(0, size))
    cuts = [size * n // threads for n in range(threads + 1)]
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    list(_pool(threads).map(share, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="averages")
