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
Cut = Callable[[Array], Array]  # the part of an array that one thread does


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


def average(
    weights: Sequence[Tensor], averages: Sequence[Sequence[Tensor]], rho: Sequence[float]
) -> None:
    """Move `averages[i]`, all those of `weights[i]`, towards it; tensors that `fits` takes."""
    single = _singles(rho)
    flat = [
        (_flat(w), tuple([_flat(tensor) for tensor in mine]))
        for w, mine in zip(weights, averages, strict=True)
    ]

    def share(cut: Cut) -> None:
        for w, mine in flat:
            _follow(cut(w), tuple([cut(a) for a in mine]), single)

    _in_threads(share, sum(w.size for w, _ in flat))


def adamw(
    steps: Sequence[AdamWStep],
    averages: Sequence[Sequence[Tensor]] | None = None,
    rho: Sequence[float] = (),
) -> None:
    """Take the steps, and move `averages[i]`, those of step i's tensor, towards what it gives."""
    single = _singles(rho)
    flat = [
        (
            [_flat(t) for t in (step.weights, step.gradient, step.first, step.second)],
            step.numbers,
            [_flat(tensor) for tensor in mine],
        )
        for step, mine in zip(steps, averages or [()] * len(steps), strict=True)
    ]

    def share(cut: Cut) -> None:
        for tensors, numbers, averages in flat:
            w, g, m, v = (cut(tensor) for tensor in tensors)
            if not averages:
                _adamw(w, g, m, v, numbers)
                continue
            mine = tuple([cut(a) for a in averages])
            _adamw_and_average(w, g, m, v, mine[:ABREAST], numbers, single[:ABREAST])
            _follow(w, mine[ABREAST:], single[ABREAST:])

    _in_threads(share, sum(tensors[0].size for tensors, _, _ in flat))


def _follow(w: Array, averages: tuple[Array, ...], rho: Numbers) -> None:
    for k in range(0, len(averages), ABREAST):
        _average(w, averages[k : k + ABREAST], rho[k : k + ABREAST])


def fits(*tensors: Tensor) -> bool:
    """Whether the loops take these: fp32, contiguous, on the CPU."""
    return all(t.is_cpu and t.dtype is torch.float32 and t.is_contiguous() for t in tensors)


def _singles(numbers: Iterable[float]) -> Numbers:
    return tuple(np.float32(number) for number in numbers)


def _flat(tensor: Tensor) -> Array:
    return tensor.numpy().reshape(-1)  # a view: the tensor is contiguous


def _in_threads(share: Callable[[Cut], None], elements: int) -> None:
    """Cut every array into as many parts as PyTorch computes with threads, one for each."""
    threads = torch.get_num_threads() if elements >= _SMALL else 1
    if threads == 1:
        return share(lambda array: array)

    def part(number: int) -> None:
        share(lambda a: a[a.size * number // threads : a.size * (number + 1) // threads])

    list(_pool(threads).map(part, range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="averages")
