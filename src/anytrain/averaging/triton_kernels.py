"""All averages of a tensor in one pass over memory, on a GPU."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from anytrain.averaging.plain import plain

ABREAST = 8  # averages in one launch
BLOCK = 2048  # elements a program


@triton.jit
def _moved(at, x, rho, offsets, inside):  # type: ignore[no-untyped-def]
    average = tl.load(at + offsets, mask=inside)
    near = rho < 0.5  # from the nearer end, so that ρ = 1 gives the weight itself
    part = tl.where(near, rho, rho - 1.0)
    tl.store(at + offsets, tl.where(near, average, x) + part * (x - average), mask=inside)


@triton.jit
def _average(  # type: ignore[no-untyped-def]
    w, a0, a1, a2, a3, a4, a5, a6, a7, r0, r1, r2, r3, r4, r5, r6, r7,
    size, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    x = tl.load(w + offsets, mask=inside).to(tl.float32)
    _moved(a0, x, r0, offsets, inside)
    if K > 1:
        _moved(a1, x, r1, offsets, inside)
    if K > 2:
        _moved(a2, x, r2, offsets, inside)
    if K > 3:
        _moved(a3, x, r3, offsets, inside)
    if K > 4:
        _moved(a4, x, r4, offsets, inside)
    if K > 5:
        _moved(a5, x, r5, offsets, inside)
    if K > 6:
        _moved(a6, x, r6, offsets, inside)
    if K > 7:
        _moved(a7, x, r7, offsets, inside)


def average(pairs: Sequence[tuple[Tensor, Sequence[Tensor]]], rho: Sequence[float]) -> None:
    """Move the averages of each tensor: fp32 averages of fp32, bf16 or fp16 weights.

    Others, and tensors with gaps, go the plain way.
    """
    for weights, averages in pairs:
        tensors = [weights, *averages]
        if not all(t.is_contiguous() for t in tensors) or _odd(averages):
            plain(weights.to(averages[0].dtype), averages, rho)
            continue
        for k in range(0, len(averages), ABREAST):
            few, parts = list(averages[k : k + ABREAST]), list(rho[k : k + ABREAST])
            missing = ABREAST - len(few)
            grid = (triton.cdiv(weights.numel(), BLOCK),)
            with torch.cuda.device_of(weights):
                _average[grid](
                    weights, *few, *[weights] * missing, *parts, *[0.0] * missing,
                    weights.numel(), K=len(few), BLOCK=BLOCK,
                )  # fmt: skip


def _odd(averages: Sequence[Tensor]) -> bool:
    return any(tensor.dtype != torch.float32 for tensor in averages)
